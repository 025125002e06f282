"""The routed tail: layers k+1..L at every width, in place of those layers in the encoder's own list."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.func import functional_call

from sharcs.narrow import build_twin, narrow_argument, narrow_config, norm_names, slice_parameters
from sharcs.router import Router

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from transformers import PreTrainedConfig

    from sharcs.config import SharcsConfig

__all__ = ["RoutedLayers", "RoutedTail", "RoutingCall", "select_rows"]


@dataclass(slots=True)
class RoutingCall:
    """What one forward pass tells the routed tail, and what the tail tells back.

    The encoder's own code stands between the model and the tail and can't carry these, so they go beside it, in a
    context variable: two threads may run one model at once.

    Attributes:
        attention_mask: Which tokens are real, ``[batch, tokens]``, or None if all are.
        choose: Maps router logits ``[batch, widths]`` to width indices ``[batch]``.
        width_index: Forced width: one index for the whole batch, or ``[batch]``; else filled by the tail.
        router_logits: Filled by the tail, ``[batch, widths]``; not in a call that continues.
        detach_router: Whether the router's loss stops at the router.
        hidden: Output of layer k, ``[batch, tokens, hidden]``: filled by the tail. A call that is given one
            continues from it: layers 1..k are not run, and the router isn't either.
    """

    attention_mask: Tensor | None
    choose: Callable[[Tensor], Tensor]
    width_index: Tensor | int | None = None
    router_logits: Tensor | None = None
    detach_router: bool = False
    hidden: Tensor | None = None

    def continued(self, width_index: int, rows: Tensor | None = None) -> RoutingCall:
        """Make the call that runs another width from the kept output of layer k, on some rows of the batch."""
        assert self.hidden is not None
        if rows is None:
            return RoutingCall(self.attention_mask, self.choose, width_index, hidden=self.hidden)
        mask = None if self.attention_mask is None else self.attention_mask[rows]
        return RoutingCall(mask, self.choose, width_index, hidden=self.hidden[rows])

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make this the call that the tail sees."""
        token = _CALL.set(self)
        try:
            yield
        finally:
            _CALL.reset(token)


_CALL: ContextVar[RoutingCall] = ContextVar("sharcs_routing_call")


class RoutedLayers(nn.ModuleList):
    """The encoder's list of layers: 1..k, then the routed tail. A call that continues sees the tail alone."""

    def __iter__(self) -> Iterator[nn.Module]:
        """Iterate over the layers that the current call has to run."""
        call = _CALL.get(None)
        if call is not None and call.hidden is not None:
            return iter([self[len(self) - 1]])
        return super().__iter__()


class RoutedTail(nn.Module):
    """Route each input after layer k and run layers k+1..L at its width.

    All widths share the layers' weights. Private to each width below 1.0 are the norm at the cut, the projection at
    the cut if there is one, and every norm inside the layers. Width 1.0 runs the layers as they are, so the full
    network is the pretrained one.

    Args:
        layers: Layers k+1..L of the full network; taken over, not copied.
        encoder_config: The full encoder's configuration.
        config: Widths, router layer and router size.
    """

    def __init__(self, layers: list[nn.Module], encoder_config: PreTrainedConfig, config: SharcsConfig) -> None:
        """Take over the layers, create router and private norms."""
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.hidden_size: int = encoder_config.hidden_size
        self.num_heads: int = encoder_config.num_attention_heads
        self.narrow_widths = list(config.widths)[:-1]
        self.router_layer = int(config.router_layer or 0)
        self.router = Router(self.hidden_size, config.router_hidden_size, len(config.widths))
        self.build_twins(encoder_config)
        epsilon = getattr(encoder_config, "layer_norm_eps", 1e-12)
        self.entry_norms = nn.ModuleList(
            nn.LayerNorm(narrow.hidden_size, eps=epsilon) for narrow in self.narrow_configs
        )
        self.projections = nn.ModuleList()
        if config.projection:
            self.add_projections()
        self.norms = nn.ModuleList(
            nn.ModuleList(_private_norms(layer, twin) for layer, twin in zip(self.layers, twins, strict=True))
            for twins in self.twins
        )
        for norm in [*self.entry_norms.modules(), *self.norms.modules()]:
            norm._is_hf_initialized = True  # type: ignore[assignment]  # else transformers resets them to ones
        like = next(self.layers.parameters())
        self.to(device=like.device, dtype=like.dtype)

    def build_twins(self, encoder_config: PreTrainedConfig) -> None:
        """Build the parameterless twin of every layer at every narrow width; again after a config change."""
        self.narrow_configs = [narrow_config(encoder_config, width) for width in self.narrow_widths]
        # A plain list hides the twins from the state dict and the optimiser: their weights are slices.
        self.twins: list[list[nn.Module]] = [
            [build_twin(layer, narrow, self.router_layer + i) for i, layer in enumerate(self.layers)]
            for narrow in self.narrow_configs
        ]
        self.train(self.training)

    def train(self, mode: bool = True) -> RoutedTail:
        """Switch the hidden twins along with the registered modules: their dropouts have to follow."""
        super().train(mode)
        for twins in self.twins:
            for twin in twins:
                twin.train(mode)
        return self

    def add_projections(self) -> None:
        """Put a learned projection at each cut that starts as the plain cut, so that nothing changes yet."""
        like = next(self.layers.parameters())
        self.projections = nn.ModuleList(
            _prefix_projection(self.hidden_size, narrow.hidden_size).to(like.device, like.dtype)
            for narrow in self.narrow_configs
        )

    @torch.no_grad()
    def reset_norms(self) -> None:
        """Start the private norms anew, as the prefixes of the full network's."""
        for twins, of_width in zip(self.twins, self.norms, strict=True):
            for layer, twin, norms in zip(self.layers, twins, of_width, strict=True):  # type: ignore[call-overload]
                norms.load_state_dict(_private_norms(layer, twin).state_dict())

    def parameters_at(self, width_index: int, position: int) -> dict[str, Tensor]:
        """Collect the tensors of one sub-network's layer: shared slices, and private norms in their places.

        Args:
            width_index: Index of a width below 1.0.
            position: Position among the tail's layers, from 0.

        Returns:
            Values for every parameter and buffer name of the twin.
        """
        twin = self.twins[width_index][position]
        values = slice_parameters(self.layers[position], twin)
        norms: nn.ModuleList = self.norms[width_index][position]  # type: ignore[index]
        for name, norm in zip(norm_names(twin), norms, strict=True):
            for key, value in norm.named_parameters():
                values[f"{name}.{key}"] = value
        return values

    def run(self, width_index: int, hidden: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the sub-network at one width on a whole batch.

        Args:
            width_index: Index of the width.
            hidden: Output of layer k, ``[batch, tokens, hidden]``.
            args: What the encoder hands to each layer besides, by position.
            kwargs: The same, by name.

        Returns:
            ``[batch, tokens, hidden]``, zeros behind the narrow part, in a tuple if the layers return tuples.
        """
        output: Any = hidden
        if width_index == len(self.narrow_widths):
            for layer in self.layers:
                output = layer(_states(output), *args, **kwargs)
            return output
        narrow = self.narrow_configs[width_index]
        heads = narrow.num_attention_heads
        args = tuple(narrow_argument(value, self.num_heads, heads) for value in args)
        kwargs = {key: narrow_argument(value, self.num_heads, heads) for key, value in kwargs.items()}
        cut = self.projections[width_index](hidden) if self.projections else hidden[..., : narrow.hidden_size]
        output = self.entry_norms[width_index](cut)
        for position, twin in enumerate(self.twins[width_index]):
            output = functional_call(
                twin, self.parameters_at(width_index, position), (_states(output), *args), kwargs
            )
        # Zeros behind the narrow output equal cutting the inputs of the head's first Linear.
        padded = F.pad(_states(output), (0, self.hidden_size - narrow.hidden_size))
        return (padded, *output[1:]) if isinstance(output, tuple) else padded

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Route, split the batch by width, run each group's sub-network and scatter the results back."""
        call = _CALL.get()
        if call.hidden is not None:
            hidden = call.hidden
        else:
            call.hidden = hidden
            mask = call.attention_mask
            if mask is None:
                mask = torch.ones(hidden.shape[:2], device=hidden.device)
            call.router_logits = self.router(hidden.detach() if call.detach_router else hidden, mask)
            if call.width_index is None:
                call.width_index = call.choose(call.router_logits)
        assert call.width_index is not None
        if isinstance(call.width_index, int):
            index = call.width_index
            call.width_index = torch.full(hidden.shape[:1], index, device=hidden.device)
            return self.run(index, hidden, args, kwargs)
        # One sort, and one wait for the group sizes.
        order = torch.argsort(call.width_index, stable=True)
        counts = torch.bincount(call.width_index, minlength=len(self.narrow_widths) + 1).tolist()
        if max(counts) == len(hidden):
            return self.run(counts.index(len(hidden)), hidden, args, kwargs)
        groups: list[Tensor] = []
        in_tuple = False
        for index, rows in enumerate(order.split(counts)):
            if len(rows):
                group_args = tuple(select_rows(value, rows, len(hidden)) for value in args)
                group_kwargs = {key: select_rows(value, rows, len(hidden)) for key, value in kwargs.items()}
                output = self.run(index, hidden[rows], group_args, group_kwargs)
                in_tuple = isinstance(output, tuple)
                groups.append(_states(output))
        merged = torch.cat(groups)[torch.argsort(order)]
        return (merged,) if in_tuple else merged


def _prefix_projection(hidden: int, narrow: int) -> nn.Linear:
    """Create a projection that takes the first dimensions."""
    projection = nn.Linear(hidden, narrow)
    with torch.no_grad():
        projection.weight.copy_(torch.eye(narrow, hidden))
        projection.bias.zero_()
    projection._is_hf_initialized = True  # type: ignore[assignment]  # else transformers initialises it anew
    return projection


def _private_norms(layer: nn.Module, twin: nn.Module) -> nn.ModuleList:
    """Create one sub-network's own norms of a layer, starting as the prefixes of the pretrained ones."""
    modules = dict(twin.named_modules())
    values = slice_parameters(layer, twin)
    norms = nn.ModuleList()
    for name in norm_names(twin):
        norm = modules[name]
        private = type(norm)(norm.normalized_shape, eps=norm.eps)
        with torch.no_grad():
            for key, parameter in private.named_parameters():
                parameter.copy_(values[f"{name}.{key}"])
        norms.append(private)
    return norms


def _states(output: Any) -> Tensor:
    """Take the hidden states from what a layer returns: a tensor, or a tuple that starts with it."""
    states: Tensor = output[0] if isinstance(output, tuple) else output
    return states


def select_rows(value: Any, rows: Tensor, batch: int) -> Any:
    """Take some inputs' rows of an argument that has one row an input; pass everything else."""
    if isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == batch:
        return value[rows]
    return value
