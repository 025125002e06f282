"""The routed tail: layers k+1..L at every width, in place of those layers in the encoder's own list."""

from __future__ import annotations

import copy
import functools
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.func import functional_call

from sharcs.encoders.architectures import architecture_of, layers_config
from sharcs.encoders.narrow import (
    Cut,
    build_twin,
    entry_norm,
    map_arguments,
    narrow_config,
    norm_names,
    slice_parameters,
    states_of,
)
from sharcs.model.calls import TrunkDone, current_call, select_rows
from sharcs.model.router import Router
from sharcs.subnetworks.fast import DenseLayers
from sharcs.subnetworks.own import PrivateSubnetwork

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from transformers import PreTrainedConfig

    from sharcs.config import SharcsConfig
    from sharcs.encoders.narrow import Arguments

__all__ = ["RoutedTail"]


class RoutedTail(nn.Module):
    """Route each input after layer k and run layers k+1..L at its width.

    All widths share the layers' weights, and private to each width below 1.0 are the norm at the cut and every norm
    inside the layers; or, if the configuration says so, each narrow width has weights of its own
    (:class:`~sharcs.subnetworks.own.PrivateSubnetwork`). Width 1.0 runs the layers as they are, so the full network
    is the pretrained one.

    The layers themselves stay registered with the encoder's own list (:class:`~sharcs.model.calls.RoutedLayers`).

    Args:
        layers: Layers k+1..L of the full network; the encoder's own, not copied.
        encoder_config: The full encoder's configuration.
        config: Widths, router layer and router size.
        final_norm: The norm that the last layer's output goes through, of encoders that have one.

    Attributes:
        trunk: Layers 1..k, which run elsewhere; filled by :class:`~sharcs.model.calls.RoutedLayers`.
    """

    def __init__(
        self,
        layers: list[nn.Module],
        encoder_config: PreTrainedConfig,
        config: SharcsConfig,
        final_norm: nn.Module | None = None,
    ) -> None:
        """Keep the layers, create router and private norms."""
        super().__init__()
        self._layers = (nn.ModuleList(layers),)  # in a tuple, so that they aren't registered a second time
        self.trunk: list[nn.Module] = []
        sizes = layers_config(encoder_config)
        self.encoder_config = encoder_config
        self.architecture = architecture_of(encoder_config)
        self.hidden_size: int = sizes.hidden_size
        self.num_heads: int = sizes.num_attention_heads
        # What the layers return, once one has shown it: 0 for hidden states alone, else the length of a tuple.
        self.form: int | None = None
        self.dense: DenseLayers | None = None
        self.narrow_widths = list(config.widths)[:-1]
        self.narrow_configs: list[PreTrainedConfig]
        self.router_layer = int(config.router_layer or 0)
        self.router = Router(self.hidden_size, config.router_hidden_size, len(config.widths))
        self.entry_norms, self.norms, self.exit_norms = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self.private = nn.ModuleList()
        self.build_twins(encoder_config)
        if config.private_weights:
            self.give_private_weights(encoder_config)
        else:
            self.entry_norms.extend(entry_norm(narrow) for narrow in self.narrow_configs)
            self.norms.extend(
                nn.ModuleList(
                    nn.ModuleList(_private_norms(layer, twin)) for layer, twin in zip(self.layers, twins, strict=True)
                )
                for twins in self.twins
            )
            self.exit_norms.extend(
                _narrow_norm(final_norm, narrow.hidden_size)
                for narrow in self.narrow_configs
                if final_norm is not None
            )
        for norm in [*self.entry_norms.modules(), *self.norms.modules(), *self.exit_norms.modules()]:
            norm._is_hf_initialized = True  # type: ignore[assignment]  # else transformers resets them to ones
        like = next(self.layers.parameters())
        self.to(device=like.device, dtype=like.dtype)

    @property
    def layers(self) -> nn.ModuleList:
        """Layers k+1..L of the full network."""
        return self._layers[0]

    def build_twins(self, encoder_config: PreTrainedConfig) -> None:
        """Build the parameterless twin of every layer at every narrow width; again after a config change."""
        self.dense = None
        if self.private:
            for narrow in self.narrow_configs:
                # Its layers read it whenever they run.
                narrow._attn_implementation = layers_config(encoder_config)._attn_implementation
            return
        self.narrow_configs = [narrow_config(encoder_config, width) for width in self.narrow_widths]
        # A plain list hides the twins from the state dict and the optimiser: their weights are slices.
        self.twins: list[list[nn.Module]] = [
            [build_twin(layer, narrow, self.router_layer + i) for i, layer in enumerate(self.layers)]
            for narrow in self.narrow_configs
        ]
        self.train(self.training)

    def prepare_for_inference(self) -> bool:
        """Bring all layers into a form that runs fast, unless that was done with these very weights.

        Passes in evaluation mode without gradients then run it (:class:`~sharcs.subnetworks.fast.DenseLayers`), and
        are rounded otherwise. It costs the memory of the layers once more, so only who asks for it has it. Training,
        another device or dtype, a loaded state, another attention implementation and any other change of a weight
        drop it, and the modules run again, on slices of the shared weights.

        Returns:
            Whether it was made anew.
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

    def __getstate__(self) -> dict[str, Any]:
        """Leave what was made for inference out of copies, which make their own when they are asked to."""
        return self.__dict__ | {"dense": None}

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        """Drop the copies, which are no submodules and would stay behind when the weights move."""
        self.dense = None
        return super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Drop the copies: loading may put other tensors in the weights' places, whose versions nobody counts."""
        self.dense = None
        super()._load_from_state_dict(*args, **kwargs)

    def ready(self) -> DenseLayers | None:
        """Return what was made for inference, if a pass may run it now."""
        if self.dense is None or self.training or torch.is_grad_enabled():
            return None
        if not self.dense.are_current():
            self.dense = None
        return self.dense

    def give_private_weights(self, encoder_config: PreTrainedConfig) -> None:
        """Give every narrow width weights of its own, in place of slices and private norms."""
        like = next(self.layers.parameters())
        self.narrow_configs = [
            narrow_config(encoder_config, width, keeps_hidden=True) for width in self.narrow_widths
        ]
        self.private = nn.ModuleList(
            PrivateSubnetwork(list(self.layers), narrow, encoder_config) for narrow in self.narrow_configs
        )
        self.private.to(device=like.device, dtype=like.dtype).train(self.training)
        self.entry_norms, self.norms, self.exit_norms = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self.twins = []
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
        values = slice_parameters(self.layers[position], twin, self.architecture)
        norms: nn.ModuleList = self.norms[width_index][position]  # type: ignore[index]
        for name, norm in zip(norm_names(twin), norms, strict=True):
            for key, value in norm.named_parameters():
                values[f"{name}.{key}"] = value
        return values

    def run(self, width_index: int, hidden: Tensor, arguments: list[Arguments]) -> Tensor:
        """Run the sub-network at one width on a whole batch.

        Args:
            width_index: Index of the width.
            hidden: Output of layer k, ``[batch, tokens, hidden]``.
            arguments: What the encoder hands to each layer besides, by position and by name.

        Returns:
            ``[batch, tokens, hidden]``, zeros behind a narrow part that shares its weights.
        """
        ready = self.ready()
        dense = None if ready is None else ready.layers[width_index]
        if width_index == len(self.narrow_widths):
            running: Iterable[Callable[..., Any]] = dense or self.layers
            for layer, (args, kwargs) in zip(running, arguments, strict=True):
                hidden = states_of(layer(hidden, *args, **kwargs))
            return hidden
        if self.private:
            return self.private[width_index](hidden, arguments, dense)  # type: ignore[no-any-return]
        narrow = self.narrow_configs[width_index]
        cut = Cut(
            self.num_heads,
            slice(narrow.num_attention_heads),
            slice(narrow.hidden_size),
            self.architecture.hidden_arguments,
        )
        hidden = self.entry_norms[width_index](hidden[..., : narrow.hidden_size])
        for position, (twin, given) in enumerate(zip(self.twins[width_index], arguments, strict=True)):
            args, kwargs = map_arguments(given, cut)
            if dense is not None:
                hidden = states_of(dense[position](hidden, *args, **kwargs))
            else:
                weights = self.parameters_at(width_index, position)
                hidden = states_of(functional_call(twin, weights, (hidden, *args), kwargs))
        # Zeros behind the narrow output equal cutting the inputs of the head's first Linear.
        return F.pad(hidden, (0, self.hidden_size - narrow.hidden_size))

    def route(self, hidden: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Run the router on the output of layer k: ``[batch, tokens, hidden]`` to logits ``[batch, widths]``."""
        if attention_mask is None:
            attention_mask = torch.ones(hidden.shape[:2], device=hidden.device)
        return self.router(hidden, attention_mask)  # type: ignore[no-any-return]

    def forward(self, hidden: Tensor, arguments: list[Arguments]) -> Tensor:
        """Route, split the batch by width, run each group's sub-network and scatter the results back.

        Args:
            hidden: Output of layer k, ``[batch, tokens, hidden]``; not read in a call that continues.
            arguments: What the encoder hands to each layer besides, by position and by name.

        Returns:
            The last layers' outputs, ``[batch, tokens, hidden]``.
        """
        call = current_call()
        if call.hidden is not None:
            hidden = call.hidden
        else:
            call.hidden = hidden
            call.router_logits = self.route(hidden, call.attention_mask)
            if call.width_index is None:
                call.width_index = call.choose(call)
        assert call.width_index is not None
        index = None
        if isinstance(call.width_index, int):
            index = call.width_index
            call.width_index = torch.full(hidden.shape[:1], index, device=hidden.device)
        if call.trunk_only:
            raise TrunkDone
        if index is None and len(hidden) == 1:
            index = int(call.width_index)
        if index is None:
            # One sort, and one wait for the group sizes.
            order = torch.argsort(call.width_index, stable=True)
            counts = torch.bincount(call.width_index, minlength=len(self.narrow_widths) + 1).tolist()
            if max(counts) == len(hidden):
                index = counts.index(len(hidden))
        groups: list[tuple[int, Tensor | None]]
        if index is not None:
            groups = [(index, None)]
            merged = self.run(index, hidden, arguments)
        else:
            groups, outputs = [], []
            for index, rows in enumerate(order.split(counts)):
                if len(rows):
                    chosen = _Rows(rows, len(hidden), self.architecture.hidden_arguments)
                    own = [map_arguments(given, chosen) for given in arguments]
                    outputs.append(self.run(index, hidden[rows], own))
                    groups.append((index, rows))
            merged = torch.cat(outputs)[torch.argsort(order)]
        if self.exit_norms:
            call.normalise = functools.partial(self._normalise, groups)
        return merged

    def _normalise(self, groups: list[tuple[int, Tensor | None]], hidden: Tensor, full: Tensor) -> Tensor:
        """Put each sub-network's own final norm in the place of the full network's.

        Args:
            groups: The widths that ran, and the rows that each ran on; None for all.
            hidden: What the encoder's final norm was given, ``[batch, tokens, hidden]``.
            full: What it made of it.

        Returns:
            ``full``, with the rows of narrow widths replaced: their narrow part normalised, zeros behind it.
        """
        for index, rows in groups:
            if index == len(self.narrow_widths):
                continue
            size = self.narrow_configs[index].hidden_size
            own = self.exit_norms[index](hidden[..., :size] if rows is None else hidden[rows, :, :size])
            own = F.pad(own, (0, self.hidden_size - size))
            full = own if rows is None else full.index_copy(0, rows, own)
        return full


class _Rows:
    """Take some inputs' rows of what each layer is handed, once of what all of them are handed alike."""

    def __init__(self, rows: Tensor, batch: int, without_rows: tuple[str, ...]) -> None:
        self.rows, self.batch, self.without_rows = rows, batch, without_rows
        self.taken: dict[int, Any] = {}

    def __call__(self, name: str | int, value: Any) -> Any:
        if name in self.without_rows:
            return value
        if id(value) not in self.taken:
            self.taken[id(value)] = select_rows(value, self.rows, self.batch)
        return self.taken[id(value)]


def _private_norms(layer: nn.Module, twin: nn.Module) -> list[nn.Module]:
    """Create one sub-network's own norms of a layer, starting as the prefixes of the pretrained ones."""
    full, narrow = dict(layer.named_modules()), dict(twin.named_modules())
    return [_narrow_norm(full[name], len(next(narrow[name].parameters()))) for name in norm_names(twin)]


@torch.no_grad()
def _narrow_norm(norm: nn.Module, size: int) -> nn.Module:
    """Copy a norm's first dimensions."""
    own = copy.deepcopy(norm)
    for name, parameter in own.named_parameters():
        setattr(own, name, nn.Parameter(parameter[:size].clone()))
    if isinstance(own, nn.LayerNorm):
        own.normalized_shape = (size,)
    return own
