"""Names of weights in models that earlier versions saved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sharcs_runtime.policy import names_of_widths

if TYPE_CHECKING:
    from collections.abc import Mapping


def renamed_weights(config: Mapping[str, Any]) -> dict[str, str]:
    """Map names of weights in a file to those of today, for ``from_pretrained(key_mapping=...)``.

    In format 1, router and sub-networks were registered inside the encoder's list of layers.

    Args:
        config: The content of the model's ``config.json``.

    Returns:
        Patterns and what comes in their stead; none for a model of today's format.
    """
    if config.get("format", 1) != 1 or "widths" not in config:
        return {}
    prefix = r"^encoder\..*\.tail\."
    mapping = {rf"{prefix}router\.": "router."}
    for index, name in enumerate(names_of_widths([float(width) for width in config["widths"]])[:-1]):
        target = f"subnetworks.{name}."
        mapping[rf"{prefix}private\.{index}\."] = target
        mapping[rf"{prefix}entry_norms\.{index}\."] = f"{target}entry_norm."
        mapping[rf"{prefix}exit_norms\.{index}\."] = f"{target}exit_norm."
        mapping[rf"{prefix}norms\.{index}\."] = f"{target}norms."
    return mapping
