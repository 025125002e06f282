"""A sub-network of the paper: prefix slices of the full network's layers, with norms of its own (section 3.2)."""

from __future__ import annotations

import contextlib
import copy
import threading
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.func import functional_call

from sharcs.encoders.architectures import architecture_of, layers_config
from sharcs.encoders.narrow import (
    ArgumentSlicer,
    build_twin,
    entry_norm,
    map_arguments,
    narrow_config,
    norm_names,
    slice_parameters,
    states_of,
)
from sharcs.subnetworks.base import EncoderSubnetwork, keep_initialisation

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from transformers import PreTrainedConfig

    from sharcs.encoders.narrow import Arguments
    from sharcs.spec import SubnetworkSpec

# A call puts tensors into the twin for as long as it lasts, which other threads would find there.
_ONE_CALL = threading.Lock()


class SharedSubnetwork(EncoderSubnetwork):
    """Layers k+1..L at a width: the first heads, neurons and hidden dimensions of the full network's.

    The weights are the full network's. Its own are the norm at the cut, every norm inside the layers, and the final
    norm of encoders that have one.

    Args:
        spec: Its description.
        layers: Layers k+1..L of the full network, which stay registered there.
        encoder_config: The full encoder's configuration.
        final_norm: The norm that the last layer's output goes through, of encoders that have one.
    """

    def __init__(
        self,
        spec: SubnetworkSpec,
        layers: list[nn.Module],
        encoder_config: PreTrainedConfig,
        final_norm: nn.Module | None,
    ) -> None:
        super().__init__(spec, narrow_config(encoder_config, spec.width))
        self._full_layers = (nn.ModuleList(layers),)  # in a tuple, so that they aren't registered a second time
        self._first_layer = int(spec.reads.partition(":")[2])
        sizes = layers_config(encoder_config)
        self.architecture = architecture_of(encoder_config)
        self.full_hidden: int = sizes.hidden_size
        self.full_heads: int = sizes.num_attention_heads
        self.twins: list[nn.Module] = self._build_twins()
        self.entry_norm = entry_norm(self.config)
        self.norms = nn.ModuleList(
            nn.ModuleList(_narrow_norms(layer, twin)) for layer, twin in zip(layers, self.twins, strict=True)
        )
        self.exit_norm = None if final_norm is None else _narrow_norm(final_norm, self.config.hidden_size)
        keep_initialisation(self)

    @property
    def layers(self) -> list[nn.Module]:  # type: ignore[override]
        """The parameterless twins of the layers: the layers' class, built from the narrowed configuration."""
        return self.twins

    @property
    def full_layers(self) -> nn.ModuleList:
        """The layers whose weights it runs on slices of."""
        return self._full_layers[0]

    def _build_twins(self) -> list[nn.Module]:
        # A plain list hides them from the state dict and the optimiser: their weights are slices.
        return [build_twin(layer, self.config, self._first_layer + i) for i, layer in enumerate(self.full_layers)]

    def follow(self, attention: str) -> None:
        """Build the twins anew for another attention implementation."""
        self.config._attn_implementation = attention
        self.twins = self._build_twins()
        self.train(self.training)

    def train(self, mode: bool = True) -> SharedSubnetwork:
        """Switch the hidden twins along with the registered modules: their dropouts have to follow."""
        super().train(mode)
        for twin in self.twins:
            twin.train(mode)
        return self

    def parameters_at(self, position: int) -> dict[str, Tensor]:
        """Collect the tensors of one layer: slices of the shared ones, and norms of its own in their places.

        Args:
            position: Position among the layers, from 0.

        Returns:
            Values for every parameter and buffer name of the twin.
        """
        twin = self.twins[position]
        values = slice_parameters(self.full_layers[position], twin, self.architecture)
        norms: nn.ModuleList = self.norms[position]  # type: ignore[assignment]
        for name, norm in zip(norm_names(twin), norms, strict=True):
            for key, value in norm.named_parameters():
                values[f"{name}.{key}"] = value
        return values

    def run(
        self, hidden: Tensor, arguments: list[Arguments], fast_layers: Sequence[Callable[..., Any]] | None = None
    ) -> Tensor:
        """Run it; see the base class."""
        size: int = self.config.hidden_size
        slicer = ArgumentSlicer(
            self.full_heads,
            slice(self.config.num_attention_heads),
            slice(size),
            self.architecture.hidden_arguments,
        )
        hidden = self.entry_norm(hidden[..., :size])
        for position, (twin, full_arguments) in enumerate(zip(self.twins, arguments, strict=True)):
            args, kwargs = map_arguments(full_arguments, slicer)
            if fast_layers is not None:
                output = fast_layers[position](hidden, *args, **kwargs)
            else:
                with contextlib.nullcontext() if torch.compiler.is_compiling() else _ONE_CALL:
                    output = functional_call(twin, self.parameters_at(position), (hidden, *args), kwargs)
            hidden = states_of(output)
        # Zeros behind the narrow output equal cutting the inputs of the head's first Linear.
        return F.pad(hidden, (0, self.full_hidden - size))

    def normalise(self, hidden: Tensor) -> Tensor | None:
        """Apply its own final norm to the narrow part; zeros stand behind it."""
        if self.exit_norm is None:
            return None
        size: int = self.config.hidden_size
        return F.pad(self.exit_norm(hidden[..., :size]), (0, self.full_hidden - size))

    def contiguous_layers(self) -> list[nn.Module]:
        """Fill copies of the twins with contiguous copies of their slices."""
        return [_filled_copy(twin, self.parameters_at(position)) for position, twin in enumerate(self.twins)]


def _narrow_norms(layer: nn.Module, twin: nn.Module) -> list[nn.Module]:
    """Create a sub-network's own norms of a layer, starting as the prefixes of the pretrained ones."""
    full = dict(layer.named_modules())
    narrow = dict(twin.named_modules())
    return [_narrow_norm(full[name], len(next(narrow[name].parameters()))) for name in norm_names(twin)]


@torch.no_grad()
def _narrow_norm(norm: nn.Module, size: int) -> nn.Module:
    """Copy a norm's first dimensions."""
    narrow = copy.deepcopy(norm)
    for name, parameter in narrow.named_parameters():
        setattr(narrow, name, nn.Parameter(parameter[:size].clone()))
    if isinstance(narrow, nn.LayerNorm):
        narrow.normalized_shape = (size,)
    return narrow


@torch.no_grad()
def _filled_copy(twin: nn.Module, values: dict[str, Tensor]) -> nn.Module:
    """Fill a copy of the parameterless twin with contiguous copies of the values, in evaluation mode."""
    layer = copy.deepcopy(twin)
    for name, value in values.items():
        path, _, leaf = name.rpartition(".")
        module = layer.get_submodule(path)
        copied = value.detach().clone(memory_format=torch.contiguous_format)
        if leaf in module._parameters:
            module._parameters[leaf] = nn.Parameter(copied, requires_grad=False)
        else:
            module._buffers[leaf] = copied
    return layer.train(False)
