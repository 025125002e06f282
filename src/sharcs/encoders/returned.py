"""What a layer returns, and what may run in its place."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class LayerProxy:
    """What runs in the place of a layer, and has the layer's attributes: encoders read some.

    It is no module, since it has no parameters.

    Args:
        layer: The layer.
    """

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer

    def __getattr__(self, name: str) -> Any:
        """Read an attribute of the layer."""
        if name.startswith("__") or "layer" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.layer, name)


def output_arity(output: Any) -> int:
    """Count what a layer returns: 0 for hidden states alone, else the length of the tuple that starts with them."""
    return len(output) if isinstance(output, tuple) else 0


def as_returned(states: Tensor, arity: int) -> Any:
    """Return hidden states as a layer of some :func:`output_arity` does, with nothing beside them."""
    return states if arity == 0 else (states, *[None] * (arity - 1))
