"""A first run of an encoder that was just wrapped, so that what can't be routed is refused at once and not later.

What :mod:`sharcs.encoders.layers` reads off the modules says nothing of the encoder's own code between them.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sharcs.encoders.layers import find_layers, in_order, parts_of, refusal
from sharcs.encoders.narrow import states_of
from sharcs.encoders.units import masked
from sharcs.errors import first_line
from sharcs.subnetworks.own import OwnSubnetwork
from sharcs_runtime.policy import flops, label_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from sharcs.model.passes import RoutedPasses

# Of the cost by formula from the counted one, and of an answer from what it should be.
COST_TOLERANCE, TOLERANCE = 0.01, 0.05


@torch.no_grad()
def plain_answer(encoder: PreTrainedModel, inputs: dict[str, Tensor], answer_of: Callable[[Any], Tensor]) -> Tensor:
    """Run an encoder before it is wrapped.

    Args:
        encoder: The plain classifier; it is put into evaluation mode.
        inputs: A batch of one.
        answer_of: Takes the answer from its outputs.

    Returns:
        That, ``[1, ...]``.

    Raises:
        InputError: If it can't run on these alone.
    """
    encoder.train(False)
    try:
        answer = answer_of(encoder(**inputs))
    except Exception as error:  # whatever an unknown encoder's code may raise
        kind = "tokens" if "input_ids" in inputs else encoder.main_input_name
        raise refusal(
            encoder, f"code that fails on {kind} alone ({type(error).__name__}: {first_line(error)})"
        ) from error
    return answer


@contextlib.contextmanager
def read_by_mean(encoder: PreTrainedModel) -> Iterator[None]:
    """Put the mean of all tokens in the first one's place behind the last layer of a plain encoder, for a while."""
    layers = in_order(find_layers(encoder), encoder.config)
    calls = 0

    def replace(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls % len(layers):  # a few layers may run several times
            return None
        states = states_of(output)
        states = torch.cat([states.mean(1, keepdim=True), states[:, 1:]], dim=1)
        return (states, *output[1:]) if isinstance(output, tuple) else states

    hooks = [layer.register_forward_hook(replace) for layer in dict.fromkeys(layers)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def try_out(model: RoutedPasses, inputs: dict[str, Tensor], expected: Tensor) -> None:
    """Run the wrapped encoder at every width, from the start and from the kept output of layer k.

    Args:
        model: The routed network, in evaluation mode.
        inputs: What :func:`plain_answer` was given.
        expected: What it returned.

    Raises:
        InputError: If something fails, full width isn't the plain encoder, or the cost isn't what the formula says.
    """
    encoder, tokens = model.encoder, model.token_count({name: value[0].cpu() for name, value in inputs.items()})
    cost = flops(model.cost_coefficients().cpu(), torch.tensor([tokens]))[0]
    for index, width in enumerate(model.config.keys):
        try:
            with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
                model(**inputs, width=width)
            direct = model.answer_of(model(**inputs, width=width))
            hidden = model.run_trunk(**inputs).hidden
            in_front = index < len(model.tail.front)
            continued = direct if in_front else model.run_tail(hidden, inputs.get("attention_mask"), width)
        except Exception as error:  # whatever an unknown encoder's code may raise
            raise refusal(
                encoder, f"code that fails at width {label_of(width)} ({type(error).__name__}: {first_line(error)})"
            ) from error
        if hidden.shape[1] != tokens:
            raise refusal(encoder, f"{hidden.shape[1]} tokens of an input that counts as {tokens}")
        if width == 1.0 and not torch.equal(direct, expected):
            raise refusal(encoder, "code around its layers that computes something else once they are routed")
        if not torch.allclose(direct, continued, rtol=TOLERANCE, atol=TOLERANCE):
            raise refusal(encoder, "code between its layers, which inputs that continue from layer k would miss")
        counted = counter.get_total_flops()
        more = counted - float(cost[index])
        # What stands in front may count sums, too, of which the counter knows nothing.
        if (more if in_front else abs(more)) > COST_TOLERANCE * counted:
            raise refusal(
                encoder,
                f"matrix products beside its projections (at width {label_of(width)} {counted} FLOPs, "
                f"of which {float(cost[index]):.0f} are known)",
            )


@torch.no_grad()
def try_out_own(model: RoutedPasses) -> None:
    """Compare narrow networks that were just cut out with the full one, its other heads and neurons switched off.

    Raises:
        InputError: If one fails, or computes something else: heads are counted where nobody knows of.
    """
    inputs, was_training = model.example(model.encoder), model.training
    mask = inputs.get("attention_mask")
    model.train(False)
    try:
        hidden = model.run_trunk(**inputs).hidden
        for subnetwork in model.tail.narrow:
            if not isinstance(subnetwork, OwnSubnetwork):
                continue
            width = subnetwork.spec.width
            try:
                narrow = model.run_tail(hidden, mask, width)
            except Exception as error:  # whatever an unknown encoder's code may raise
                reason = f"{type(error).__name__}: {first_line(error)}"
                raise refusal(model.encoder, f"attention that fails with fewer heads ({reason})") from error
            hooks = _switch_off_others(model, subnetwork)
            try:
                expected = model.run_tail(hidden, mask, 1.0)
            finally:
                for hook in hooks:
                    hook.remove()
            if not torch.allclose(narrow, expected, rtol=TOLERANCE, atol=TOLERANCE):
                raise refusal(model.encoder, "attention that computes something else with fewer heads")
    finally:
        model.train(was_training)


def _switch_off_others(model: RoutedPasses, subnetwork: OwnSubnetwork) -> list[Any]:
    """Let the full network's layers k+1..L run on the first heads and neurons alone, as many as a narrow one has."""
    hooks = []
    for full, small in zip(model.tail.layers, subnetwork.layers, strict=True):
        (parts,) = parts_of([full], model.encoder.config)
        for name, module in full.named_modules():
            if module is parts.output or module is parts.down:
                kept = int(small.get_submodule(name).in_features)  # type: ignore[arg-type]
                units = torch.arange(module.in_features, device=module.weight.device) < kept
                hooks.append(module.register_forward_pre_hook(masked(units.to(module.weight.dtype))))
    return hooks
