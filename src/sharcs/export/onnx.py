"""Parts of a routed network as ONNX graphs, with any batch and length, checked against PyTorch."""

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from sharcs.errors import InputError, MissingPackageError
from sharcs.model.context import RoutingContext
from sharcs_runtime.sessions import ONNX_RUNTIME, open_session

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sharcs.model.text import SharcsForSequenceClassification

TOLERANCE = 1e-3  # of the largest number; single precision leaves some 1e-6


class Trunk(nn.Module):
    """Embeddings, layers 1..k and the router, with a plain signature.

    Args:
        model: The routed network.
    """

    outputs = ("router_logits", "hidden")

    def __init__(self, model: SharcsForSequenceClassification) -> None:
        """Take over the network."""
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Map tokens ``[batch, tokens]`` to router logits ``[batch, widths]`` and ``[batch, tokens, hidden]``."""
        # A pass at the narrowest width, whose answer is dropped, and with it all that leads to it: a tracer doesn't
        # survive the exception by which a pass of the trunk alone ends.
        narrowest = len(self.model.tail.front)
        context = RoutingContext(attention_mask, width_index=narrowest, fast=self.model.tail.usable_fast_layers())
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        with context.active():
            self.model.encoder(input_ids=input_ids, attention_mask=attention_mask, **types)
        assert context.router_logits is not None
        return context.router_logits, context.kept()


class _AtOneWidth(nn.Module):
    """What ends with the answer of one width.

    Args:
        model: The routed network.
        width: The width.
    """

    outputs = ("logits",)

    def __init__(self, model: SharcsForSequenceClassification, width: float | str) -> None:
        """Take over the network."""
        super().__init__()
        self.model, self.width = model, width


class Tail(_AtOneWidth):
    """Layers k+1..L at one width, and the head."""

    def forward(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        """Map the output of layer k, ``[batch, tokens, hidden]``, and the mask to logits ``[batch, labels]``."""
        return self.model.run_tail(hidden, attention_mask, self.width)


class Dense(_AtOneWidth):
    """One width from tokens to logits, without a router."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Map tokens ``[batch, tokens]`` to logits ``[batch, labels]``."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        return self.model(**inputs, width=self.width).logits  # type: ignore[no-any-return]


class Front(nn.Module):
    """A sub-network that answers before the encoder runs, from tokens to logits.

    Args:
        model: The routed network.
        index: Of the sub-network.
    """

    outputs = ("logits",)

    def __init__(self, model: SharcsForSequenceClassification, index: int) -> None:
        """Take over the network."""
        super().__init__()
        self.model, self.index = model, index

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Map tokens ``[batch, tokens]`` to logits ``[batch, labels]``."""
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        return self.model.run_front(self.index, input_ids=input_ids, attention_mask=attention_mask, **types)


def require_onnx() -> None:
    """See that the packages are there which exporting needs.

    Raises:
        MissingPackageError: If one is missing.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(error, "train") from error


@torch.no_grad()
def write_graph(part: Trunk | Tail | Dense | Front, example: dict[str, Tensor], file: Path) -> None:
    """Write a part as an ONNX file.

    Args:
        part: What to write, in evaluation mode.
        example: Inputs by the names of its arguments, ``[batch, tokens, ...]`` with more than one of both.
        file: The file.
    """
    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim.AUTO}  # a table of positions may bound the tokens
    with quiet():
        program = torch.onnx.export(
            part.train(False),
            kwargs=example,
            dynamo=True,
            input_names=list(example),
            output_names=list(part.outputs),
            dynamic_shapes=dict.fromkeys(example, free),
            verbose=False,
        )
        assert program is not None
        program.save(file)


@torch.no_grad()
def check_graph(
    part: Trunk | Tail | Dense | Front, inputs: list[dict[str, Tensor]], file: Path, runtime: str = ONNX_RUNTIME
) -> None:
    """Compare a graph in single precision with the part that it was written from.

    Args:
        part: What it was written from.
        inputs: Some inputs, of other sizes than the example's.
        file: The graph.
        runtime: What runs it.

    Raises:
        InputError: If they differ by more than rounding.
    """
    session = open_session(file, runtime)
    for given in inputs:
        wanted: Any = part(**given)
        wanted = wanted if isinstance(wanted, tuple) else (wanted,)
        found = session.run(part.outputs, {name: value.numpy() for name, value in given.items()})
        for name, one, other in zip(part.outputs, wanted, found, strict=True):
            truth, difference = one.numpy(), float("inf")
            if truth.shape == other.shape:
                unlike = truth != other  # −∞ is like −∞
                difference = float(np.abs(truth[unlike] - other[unlike]).max(initial=0.0))
            if not difference <= TOLERANCE * max(1.0, float(np.abs(truth[np.isfinite(truth)]).max(initial=0.0))):
                raise InputError(
                    f"{file.stem}: its {name} on {runtime} differ from PyTorch's by {difference:.3g}, so this "
                    f"encoder can't be exported with these versions of torch and {runtime}"
                )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep to itself what exporter and quantiser say, of which a user can put nothing right."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
