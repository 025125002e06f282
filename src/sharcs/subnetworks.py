"""The routed tail: layers k+1..L at every width, in place of those layers in the encoder's own list."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.func import functional_call

from sharcs.calls import TrunkDone, current_call, select_rows
from sharcs.dense import DenseLayers
from sharcs.narrow import build_twin, narrow_argument, narrow_config, norm_names, slice_parameters
from sharcs.private import PrivateSubnetwork
from sharcs.router import Router

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from sharcs.config import SharcsConfig

__all__ = ["RoutedTail"]


class RoutedTail(nn.Module):
    """Route each input after layer k and run layers k+1..L at its width.

    All widths share the layers' weights, and private to each width below 1.0 are the norm at the cut and every norm
    inside the layers; or, if the configuration says so, each narrow width has weights of its own
    (:class:`~sharcs.private.PrivateSubnetwork`). Width 1.0 runs the layers as they are, so the full network is the
    pretrained one.

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
        self.dense: DenseLayers | None = None
        self.narrow_widths = list(config.widths)[:-1]
        self.router_layer = int(config.router_layer or 0)
        self.router = Router(self.hidden_size, config.router_hidden_size, len(config.widths))
        self.entry_norms, self.norms = nn.ModuleList(), nn.ModuleList()
        self.private = nn.ModuleList()
        self.build_twins(encoder_config)
        if config.private_weights:
            self.give_private_weights(encoder_config)
        else:
            epsilon = getattr(encoder_config, "layer_norm_eps", 1e-12)
            self.entry_norms.extend(nn.LayerNorm(narrow.hidden_size, eps=epsilon) for narrow in self.narrow_configs)
            self.norms.extend(
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
        if self.private:
            for subnetwork in self.private:
                # Its layers read it whenever they run.
                subnetwork.config._attn_implementation = encoder_config._attn_implementation  # type: ignore[union-attr]
            return
        # A plain list hides the twins from the state dict and the optimiser: their weights are slices.
        self.twins: list[list[nn.Module]] = [
            [build_twin(layer, narrow, self.router_layer + i) for i, layer in enumerate(self.layers)]
            for narrow in self.narrow_configs
        ]
        self.dense = None
        self.train(self.training)

    def prepare_for_inference(self) -> bool:
        """Copy the sub-networks into plain, contiguous layers, unless that was done with these very weights.

        Passes in evaluation mode without gradients then run the copies. They cost the memory of the narrow layers,
        so only who asks for them has them. Training, another device or dtype, a loaded state, another attention
        implementation and any other change of a weight drop them, and the slices of the shared weights run again.

        Returns:
            Whether they were made anew.
        """
        if self.dense is not None and self.dense.are_current():
            return False
        self.dense = DenseLayers(self)
        return True

    def train(self, mode: bool = True) -> RoutedTail:
        """Switch the hidden twins along with the registered modules: their dropouts have to follow."""
        super().train(mode)
        if mode:
            self.dense = None
        for twins in self.twins:
            for twin in twins:
                twin.train(mode)
        return self

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        """Drop the copies, which are no submodules and would stay behind when the weights move."""
        self.dense = None
        return super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Drop the copies: loading may put other tensors in the weights' places, whose versions nobody counts."""
        self.dense = None
        super()._load_from_state_dict(*args, **kwargs)

    def _dense_layers(self, width_index: int) -> list[nn.Module] | None:
        dense = self.dense
        if dense is None or self.training or torch.is_grad_enabled():
            return None
        if not dense.are_current():
            self.dense = None
            return None
        return dense.layers[width_index]

    def give_private_weights(self, encoder_config: PreTrainedConfig) -> None:
        """Give every narrow width weights of its own, in place of slices and private norms."""
        like = next(self.layers.parameters())
        self.private = nn.ModuleList(
            PrivateSubnetwork(list(self.layers), narrow, encoder_config, self.router_layer)
            for narrow in self.narrow_configs
        )
        self.private.to(device=like.device, dtype=like.dtype).train(self.training)
        self.entry_norms, self.norms, self.twins = nn.ModuleList(), nn.ModuleList(), []
        self.dense = None

    def running_at(self, width_index: int) -> list[nn.Module]:
        """List the modules that run at a width after the router, for their shapes."""
        if width_index == len(self.narrow_widths):
            return list(self.layers)
        return [self.private[width_index]] if self.private else self.twins[width_index]

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
            ``[batch, tokens, hidden]``, zeros behind a narrow part that shares its weights; in a tuple if the layers
            return tuples.
        """
        output: Any = hidden
        if width_index == len(self.narrow_widths):
            for layer in self.layers:
                output = layer(_states(output), *args, **kwargs)
            return output
        if self.private:
            return self.private[width_index](hidden, args, kwargs)
        narrow = self.narrow_configs[width_index]
        heads = slice(narrow.num_attention_heads)
        args = tuple(narrow_argument(value, self.num_heads, heads) for value in args)
        kwargs = {key: narrow_argument(value, self.num_heads, heads) for key, value in kwargs.items()}
        output = self.entry_norms[width_index](hidden[..., : narrow.hidden_size])
        dense = self._dense_layers(width_index)
        for position, twin in enumerate(self.twins[width_index]):
            if dense is not None:
                output = dense[position](_states(output), *args, **kwargs)
            else:
                weights = self.parameters_at(width_index, position)
                output = functional_call(twin, weights, (_states(output), *args), kwargs)
        # Zeros behind the narrow output equal cutting the inputs of the head's first Linear.
        padded = F.pad(_states(output), (0, self.hidden_size - narrow.hidden_size))
        return (padded, *output[1:]) if isinstance(output, tuple) else padded

    def route(self, hidden: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Run the router on the output of layer k: ``[batch, tokens, hidden]`` to logits ``[batch, widths]``."""
        if attention_mask is None:
            attention_mask = torch.ones(hidden.shape[:2], device=hidden.device)
        return self.router(hidden, attention_mask)  # type: ignore[no-any-return]

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Route, split the batch by width, run each group's sub-network and scatter the results back."""
        call = current_call()
        if call.hidden is not None:
            hidden = call.hidden
        else:
            call.hidden = hidden
            call.router_logits = self.route(hidden, call.attention_mask)
            if call.width_index is None:
                call.width_index = call.choose(call.router_logits)
        assert call.width_index is not None
        index = None
        if isinstance(call.width_index, int):
            index = call.width_index
            call.width_index = torch.full(hidden.shape[:1], index, device=hidden.device)
        if call.trunk_only:
            raise TrunkDone
        if index is None and len(hidden) == 1:
            index = int(call.width_index)
        if index is not None:
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
