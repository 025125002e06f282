"""Training on several processes that ends like training on one.

Every process reads the whole batch and runs an equal part of its rows. The answers are gathered before the loss is
computed, so that each process has the loss of the whole batch, whatever that is a mean over, and gradients are
averaged after the backward pass. ``DistributedDataParallel`` is not used: it wants to know beforehand which
parameters get a gradient, and here that changes with width and recipe.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState  # type: ignore[import-untyped]
from torch import Tensor, nn

from sharcs.errors import InputError, RefusedElsewhereError
from sharcs.model.context import select_rows
from sharcs.model.outputs import SharcsOutput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from sharcs.model.base import RoutedModel

T = TypeVar("T")

LABELS = ("labels", "start_positions", "end_positions")
# Of gradients: rows of a matrix that is a table of tokens' vectors, and numbers of what is averaged without a copy.
ROWS_OF_TABLE, ALONE = 2**14, 2**15
# While one process works alone, such as on the choice of a policy, the others wait longer than for a gradient.
LONG = timedelta(days=30)
# In what torch raises where another process has gone.
GONE = ("gloo", "NCCL", "Connection closed", "Connection reset", "Broken pipe")


def process_count() -> int:
    """Count the processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_number() -> int:
    """Tell which of them this is, from 0."""
    return dist.get_rank() if process_count() > 1 else 0


def launched_count() -> int:
    """Count the processes that ``torchrun`` or another launcher has started, whether or not they know each other."""
    return max(int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1, process_count())


def on_cpus() -> bool:
    """Tell whether several processes train on CPUs, which accelerate wants to be told."""
    return launched_count() > 1 and not torch.cuda.is_available()


def join() -> None:
    """Let the processes that were launched find each other, until this one ends."""
    if launched_count() > 1:
        is_first_to = not dist.is_initialized()
        PartialState(cpu=on_cpus())
        if is_first_to:
            atexit.register(_leave)


def _leave() -> None:
    """End gloo's threads before the interpreter ends: one that lets go of a tensor later aborts the process."""
    if dist.is_initialized() and dist.get_backend() == "gloo":
        dist.destroy_process_group()


@contextlib.contextmanager
def ended_elsewhere() -> Iterator[None]:
    """Tell what another process's end leads to from errors of this one.

    Raises:
        InputError: If another process has gone.
    """
    try:
        yield
    except RuntimeError as error:
        if process_count() == 1 or not any(part in str(error) for part in GONE):
            raise
        message = "another process of this training has ended; its own message says why"
        raise (InputError if process_number() == 0 else RefusedElsewhereError)(message) from error


# Agreement


@functools.cache
def _patient_group() -> Any:
    return dist.new_group(backend="gloo", timeout=LONG)


def gathered(value: T) -> list[T]:
    """Collect a value of each process, in their order; it may be anything that can be pickled."""
    if process_count() == 1:
        return [value]
    values: list[Any] = [None] * process_count()
    dist.all_gather_object(values, value, group=_patient_group())
    return values


def agreed(compute: Callable[[], T]) -> T:
    """Compute something in each process, and go on only if none has failed.

    Raises:
        InputError: If another process has failed; who has failed raises what it was.
    """
    value, error = _attempted(compute)
    messages = gathered(_message(error))
    _stop_on(error, next(filter(None, messages), None))
    return value  # type: ignore[return-value]


def from_first(compute: Callable[[], T]) -> T:
    """Compute something in the first process alone, and hand it to all.

    Raises:
        InputError: If it has failed there; the first process raises what it was.
    """
    value, error = _attempted(compute) if process_number() == 0 else (None, None)
    value, message = gathered((value, _message(error)))[0]
    _stop_on(error, message)
    return value  # type: ignore[return-value]


def _attempted(compute: Callable[[], T]) -> tuple[T | None, Exception | None]:
    if process_count() == 1:
        return compute(), None
    try:
        return compute(), None
    except Exception as error:
        return None, error


def _message(error: Exception | None) -> str | None:
    return None if error is None else str(error) or type(error).__name__


def _stop_on(error: Exception | None, message: str | None) -> None:
    """Raise this process's error, unless an earlier one says the same; without one, that of another process."""
    if message is None:
        return
    if error is not None and (process_number() == 0 or _message(error) != message):
        raise error
    raise RefusedElsewhereError(message)


# Weights and gradients


@torch.no_grad()
def share_weights(model: nn.Module) -> None:
    """Give every process the weights of the first."""
    if process_count() > 1:
        for tensor in (*model.parameters(), *model.buffers()):
            value = tensor.contiguous()
            dist.broadcast(value, 0)
            tensor.copy_(value)


@torch.no_grad()
def average(tensors: Iterable[Tensor]) -> None:
    """Replace tensors, which are the same ones in every process, by their means over processes.

    Of a table, which a batch reads few rows of, only the rows travel that are not zero everywhere.
    """
    if process_count() == 1:
        return
    waiting, small = [], []
    for tensor in tensors:
        if tensor.dim() == 2 and len(tensor) >= ROWS_OF_TABLE:
            _average_rows(tensor)
        elif tensor.numel() >= ALONE and tensor.is_contiguous():
            waiting.append((tensor, dist.all_reduce(tensor, async_op=True)))
        else:
            small.append(tensor)
    for dtype in dict.fromkeys(tensor.dtype for tensor in small):
        _average([tensor for tensor in small if tensor.dtype == dtype])
    for tensor, work in waiting:
        work.wait()
        tensor /= process_count()


def _average_rows(table: Tensor) -> None:
    # Two passes, which are quicker than one that compares; NaN is neither's zero.
    is_used = ((table.amax(1) != 0) | (table.amin(1) != 0)).to(torch.uint8)
    dist.all_reduce(is_used, dist.ReduceOp.MAX)
    rows = is_used.nonzero().squeeze(1)
    if len(rows):
        used = table[rows]
        dist.all_reduce(used)
        table[rows] = used / process_count()


def _average(tensors: list[Tensor]) -> None:
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    flat /= process_count()
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


# Batches


class _Gathered(torch.autograd.Function):
    """The processes' parts of a tensor, joined; each process's own part alone has a gradient.

    That is as many times as large as there are processes, since gradients are averaged afterwards. What of a loss
    does not depend on these parts, such as a penalty on weights, then counts once.
    """

    @staticmethod
    def forward(context: Any, part: Tensor, axis: int) -> Tensor:
        """Join the parts along an axis."""
        part = part.contiguous()
        parts = [torch.empty_like(part) for _ in range(process_count())]
        dist.all_gather(parts, part)
        context.axis = axis
        context.size = part.shape[axis]
        return torch.cat(parts, axis)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Take the own part."""
        own = gradients[0].narrow(context.axis, process_number() * context.size, context.size)
        return own * process_count(), None


class WholeBatch(nn.Module):
    """A network that shares out the rows of each batch among the processes, and answers with those of all.

    Where rows don't go into the processes' number, the last ones are run twice, and counted once.

    Args:
        model: What runs the rows; it may wrap the network.
        network: The routed network.
        divides: Whether the plain model divides its loss by ``num_items_in_batch``.
    """

    def __init__(self, model: Any, network: RoutedModel, divides: bool = False) -> None:
        super().__init__()
        self.model = model
        self.routed = [network]  # in a list, so that it isn't registered a second time
        self.divides = divides
        self.training = model.training

    def forward(self, **inputs: Any) -> SharcsOutput:
        """Run this process's rows of a batch, and gather what all answered.

        Args:
            **inputs: The whole batch, as for the network.

        Returns:
            Answers, and the loss if there are labels, of the whole batch.
        """
        network = self.routed[0]
        items = inputs.pop("num_items_in_batch", None)
        labels = {name: inputs.pop(name) for name in LABELS if inputs.get(name) is not None}
        names = (network.main_input_name, "inputs_embeds")
        size = len(next(inputs[name] for name in names if inputs.get(name) is not None))
        part = -(-size // process_count())
        first = process_number() * part
        device = next(value.device for value in inputs.values() if isinstance(value, Tensor))
        rows = torch.arange(first, first + part, device=device).clamp(max=size - 1)
        outputs = self.model(**select_rows(inputs, rows, size))
        fields = {}
        for name, value in outputs.items():
            axis = 1 if name == "width_logits" else 0
            fields[name] = _Gathered.apply(value, axis).narrow(axis, 0, size)  # type: ignore[no-untyped-call]
        if labels and network.answer_fields[0] in fields:
            scale = {} if items is None or not self.divides else {"num_items_in_batch": items}
            fields["loss"] = network._loss(network.answer_of(fields), labels, **scale)
        return SharcsOutput(**fields)


def whole(model: RoutedModel) -> Any:
    """Make a network that is called with whole batches: itself, where one process trains."""
    return model if process_count() == 1 else WholeBatch(model, model)
