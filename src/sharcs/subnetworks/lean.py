"""A layer as a dozen tensor operations: a text alone spends more on calls between modules than on products."""

from __future__ import annotations

import functools
import platform
from types import NoneType
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from transformers.activations import GELUActivation

from sharcs.encoders.layers import layer_parts
from sharcs.encoders.narrow import is_norm, map_arguments, states_of
from sharcs.encoders.returned import LayerProxy, as_returned, output_arity

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedConfig

    Product = Callable[[Tensor], Tensor]
    Order = Callable[[Tensor, Tensor, Tensor | None], Tensor]

# Of the largest number, by what a layer's answer on the probe may differ: other mistakes than rounding give far more.
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4}
LOW_PRECISION = 0.05
PROBE = (2, 5)  # inputs and tokens
KNOWN = (Tensor, NoneType, bool)  # of what an encoder hands to a layer besides hidden states
# Where packed products were measured.
PACKS = platform.machine().lower() in ("x86_64", "amd64")


class LeanLayer(LayerProxy):
    """A layer of the common build, without its modules: query, key and value are one product.

    The common build is scaled dot-product attention and a feed-forward part without a gate, with a norm behind each
    or before each. Whether a layer is of it, is tried: for every form of what the encoder hands to it, its answer to
    a made-up input is compared, and the layer itself runs where they differ.

    Args:
        layer: What it stands for, in evaluation mode.
        projections: Its linear layers: query, key, value, the attention's output, up and down.
        norms: Its two norms, of the attention and of the feed-forward part.
        activation: What stands between up and down.
        size: Of a head.
    """

    def __init__(
        self,
        layer: nn.Module,
        projections: list[nn.Linear],
        norms: list[nn.LayerNorm],
        activation: nn.Module,
        size: int,
    ) -> None:
        """Lay query, key and value behind one another."""
        *inputs, output, up, down = projections
        super().__init__(layer)
        self._size, self._packs = size, _packs(output.weight)
        product = _packed_product if self._packs else _plain_product
        self._inputs = product(
            torch.cat([linear.weight.detach() for linear in inputs]),
            None if inputs[0].bias is None else torch.cat([linear.bias.detach() for linear in inputs]),
        )
        self._output, self._down = (product(linear.weight, linear.bias) for linear in (output, down))
        self._up = product(up.weight, up.bias, activation)
        self._norms: list[Any] = [(norm.normalized_shape, norm.weight, norm.bias, norm.eps) for norm in norms]
        # By the form of what the layer is handed: how to answer, and the form of its output.
        self._ways: dict[Any, tuple[Order, int] | None] = {}

    @classmethod
    def of(cls, layer: nn.Module, full: nn.Module, encoder_config: PreTrainedConfig, size: int) -> LeanLayer | None:
        """Make one, unless the layer can't be of the common build.

        Args:
            layer: A layer of some width.
            full: The full network's, where the roles can be told from the sizes.
            encoder_config: The full encoder's configuration.
            size: Of a head.
        """
        parts = layer_parts(full, encoder_config)
        if parts is None or len(parts.up) != 1:
            return None
        names = {module: name for name, module in full.named_modules()}
        # Whatever the order of definition, these begin with q, k, and v.
        inputs = sorted((names[p.linear] for p in parts.inputs), key=lambda name: "qkv".find(_initial(name)))
        if [_initial(name) for name in inputs] != list("qkv"):
            return None
        roles = [*inputs, *(names[module] for module in (parts.output, parts.up[0].linear, parts.down))]
        projections = [layer.get_submodule(name) for name in roles]
        norms = [module for module in layer.modules() if is_norm(module)]
        bare = [
            module
            for module in layer.modules()
            if not isinstance(module, nn.Dropout | nn.Identity)
            and next(module.children(), None) is None
            and next(module.parameters(), None) is None
        ]
        known = {id(p) for module in (*projections, *norms) for p in module.parameters(recurse=False)}
        fits = (
            [type(module) for module in projections] == [nn.Linear] * 6
            and len({(linear.weight.shape, linear.bias is None) for linear in projections[:3]}) == 1
            and [type(norm) for norm in norms] == [nn.LayerNorm] * 2
            and len(bare) == 1
            and {id(parameter) for parameter in layer.parameters()} == known
        )
        return cls(layer, projections, norms, bare[0], size) if fits else None  # type: ignore[arg-type]

    def __call__(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Run it as the layer would be: ``[batch, tokens, hidden]`` in and out."""
        given = (*args, *kwargs.values())
        # Whatever else there is may be another thing in every call, and is the layer's own affair.
        if torch.is_autocast_enabled(hidden.device.type) or not all(isinstance(value, KNOWN) for value in given):
            return self.layer(hidden, *args, **kwargs)
        form = (*kwargs, *((v.dtype, v.ndim) if isinstance(v, Tensor) else v for v in given))
        if form not in self._ways:
            self._ways[form] = self._tried(hidden, args, kwargs)
        way = self._ways[form]
        if way is None:
            return self.layer(hidden, *args, **kwargs)
        order, arity = way
        mask = next((value for value in given if isinstance(value, Tensor)), None)
        return as_returned(self._run(order, hidden, mask), arity)

    def _tried(self, like: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Order, int] | None:
        """Find what answers to a made-up input as the layer does, handed what the encoder hands to it now."""
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        if len(tensors) > 1 or any(tensor.ndim != 4 for tensor in tensors):
            return None
        mask = _probe_mask(tensors[0]) if tensors else None
        generator = torch.Generator().manual_seed(0)
        probe = torch.randn((*PROBE, like.shape[-1]), generator=generator).to(like.device, like.dtype)
        args, kwargs = map_arguments((args, kwargs), lambda _, value: mask if isinstance(value, Tensor) else value)
        output = self.layer(probe, *args, **kwargs)
        arity = output_arity(output)
        if arity and any(other is not None for other in output[1:]):
            return None
        expected = states_of(output)
        bound = TOLERANCE.get(like.dtype, LOW_PRECISION) * float(expected.abs().max())
        for order in (self._norms_behind, self._norms_before):
            try:
                apart = float((self._run(order, probe, mask) - expected).abs().max())
            except RuntimeError:  # of oneDNN, on a processor that it has no code for
                return None
            if apart <= bound:
                return order, arity
        return None

    def _run(self, order: Order, hidden: Tensor, mask: Tensor | None) -> Tensor:
        rows = order(self._rows(hidden), hidden, mask)
        return rows[: hidden.shape[0] * hidden.shape[1]].view(hidden.shape)

    def _norms_behind(self, rows: Tensor, hidden: Tensor, mask: Tensor | None) -> Tensor:
        of_attention, of_feed_forward = self._norms
        rows = F.layer_norm(self._attention(rows, hidden, mask) + rows, *of_attention)
        return F.layer_norm(self._feed_forward(rows) + rows, *of_feed_forward)

    def _norms_before(self, rows: Tensor, hidden: Tensor, mask: Tensor | None) -> Tensor:
        of_attention, of_feed_forward = self._norms
        rows = self._attention(F.layer_norm(rows, *of_attention), hidden, mask) + rows
        return self._feed_forward(F.layer_norm(rows, *of_feed_forward)) + rows

    def _rows(self, values: Tensor) -> Tensor:
        """Lay tokens ``[batch, tokens, ...]`` behind one another, ``[rows, numbers]``; zeros follow if they must."""
        tokens = values.shape[0] * values.shape[1]
        rows = round_up(tokens) if self._packs else tokens
        if rows == tokens:
            return values.reshape(tokens, -1)
        laid = values.new_empty((rows, values[0, 0].numel()))
        laid[:tokens].view(values.shape).copy_(values)
        laid[tokens:].zero_()
        return laid

    def _attention(self, rows: Tensor, hidden: Tensor, mask: Tensor | None) -> Tensor:
        batch, tokens, _ = hidden.shape
        fused = self._inputs(rows)[: batch * tokens].view(batch, tokens, 3, -1, self._size)
        query, key, value = fused.permute(2, 0, 3, 1, 4).unbind()
        mixed = F.scaled_dot_product_attention(query, key, value, mask)
        return self._output(self._rows(mixed.transpose(1, 2)))

    def _feed_forward(self, rows: Tensor) -> Tensor:
        return self._down(self._up(rows))


def round_up(tokens: int) -> int:
    """Round a number of tokens up to one of eight between two powers of two, at least to a multiple of four.

    oneDNN compiles code for every shape of a product and keeps it: of thousands, that takes much time and memory.
    """
    step = max(4, 1 << max(0, (tokens - 1).bit_length() - 4))
    return -(-tokens // step) * step


def _plain_product(weight: Tensor, bias: Tensor | None, activation: nn.Module | None = None) -> Product:
    """Make what multiplies by a weight, ``[outputs, inputs]``, adds a bias and applies an activation."""
    product = functools.partial(F.linear, weight=weight, bias=bias)
    return product if activation is None else lambda inputs: activation(product(inputs))


def _packs(weight: Tensor) -> bool:
    """Tell whether products by a weight are packed: where that was measured to be faster, and PyTorch has it."""
    return (
        PACKS
        and weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and all(hasattr(torch.ops.mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise"))
    )


def _packed_product(weight: Tensor, bias: Tensor | None, activation: nn.Module | None = None) -> Product:
    """Make the same of a weight that is packed for oneDNN. Numbers are rounded otherwise.

    In single precision PyTorch leaves products to MKL, which on processors that are not Intel's is the slower one.
    Its compiler packs weights so, too, where the batch size may change (pytorch/pytorch, pull request 157542).
    """
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None)
    multiply = torch.ops.mkldnn._linear_pointwise.default
    if activation is None:
        return lambda inputs: multiply(inputs, packed, bias, "none", [], "")
    if _is_exact_gelu(activation):
        return lambda inputs: multiply(inputs, packed, bias, "gelu", [], "none")
    return lambda inputs: activation(multiply(inputs, packed, bias, "none", [], ""))


def _is_exact_gelu(activation: nn.Module) -> bool:
    return isinstance(activation, GELUActivation) or (
        isinstance(activation, nn.GELU) and activation.approximate == "none"
    )


def _initial(name: str) -> str:
    return name.rpartition(".")[-1][:1]


def _probe_mask(like: Tensor) -> Tensor:
    """Mask the last two tokens of the first input, in the form of another mask."""
    batch, tokens = PROBE
    seen = torch.ones((batch, 1, tokens, tokens), dtype=torch.bool, device=like.device)
    seen[0, ..., -2:] = False
    if like.dtype == torch.bool:
        return seen
    lowest = torch.finfo(like.dtype).min
    return torch.zeros(seen.shape, dtype=like.dtype, device=like.device).masked_fill(~seen, lowest)
