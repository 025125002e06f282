"""A sub-network as a plain Hugging Face directory, where the encoder's own class can express it: the full one."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch

from sharcs.errors import InputError
from sharcs.export.bundle import staged
from sharcs.spec import FULL, MEAN

if TYPE_CHECKING:
    from pathlib import Path

    from sharcs.model.base import RoutedModel

TOLERANCE = 1e-5  # of the largest number of an answer; equal weights leave rounding


def export_plain(model: RoutedModel, processor: Any, output: Path, width: float | str) -> None:
    """Write the full network as ``AutoModelFor...`` of transformers loads it, without this library.

    Args:
        model: The routed network; it is left as it is.
        processor: Its tokenizer or image processor, which is saved beside it.
        output: A directory that doesn't exist, or an empty one. It is written beside and renamed.
        width: Of the sub-network, or its name.

    Raises:
        InputError: If the encoder's class can't express the sub-network, or the directory can't be written.
    """
    check_plain(model, width)
    plain = plain_network(model)
    _check_same(model, plain)
    with staged(output) as folder:
        plain.save_pretrained(folder)
        processor.save_pretrained(folder)


def check_plain(model: RoutedModel, width: float | str) -> None:
    """Refuse what a plain directory can't hold.

    Raises:
        InputError: If the encoder's class can't express the sub-network.
    """
    config = model.config
    spec = config.specs[config.index_of(width)]
    kind = type(model.encoder).__name__
    if spec.kind != FULL:
        reason = "runs before the encoder" if spec.is_front else f"has {spec.heads} heads in its last layers alone"
        raise InputError(
            f"`sub_network` {spec.name}: {reason}, which a {kind} can't express; name full, or leave out `format`"
        )
    if config.readout == MEAN:
        raise InputError(
            f"`sub_network` {spec.name}: its head reads the mean of the tokens, and that of a {kind} the first; "
            "leave out `format`"
        )


def plain_network(model: RoutedModel) -> Any:
    """Build the plain classifier with the full network's weights."""
    plain = type(model).plain_class.from_config(plain_settings(model), dtype=model.dtype)
    weights = {
        name.removeprefix("encoder."): value
        for name, value in model.state_dict().items()
        if name.startswith("encoder.")
    }
    plain.load_state_dict(weights)
    return plain.train(False)


def plain_settings(model: RoutedModel) -> Any:
    """Describe the full network as its own family's configuration does, with the routed network's classes."""
    settings = copy.deepcopy(model.encoder.config)
    for name in ("id2label", "label2id", "problem_type"):
        setattr(settings, name, getattr(model.config, name))
    return settings


@torch.no_grad()
def _check_same(model: RoutedModel, plain: Any) -> None:
    """See that both give the same answer.

    Raises:
        InputError: If they don't.
    """
    model.train(False)
    inputs = model.example(model.encoder)
    wanted = model.answer_of(model(**inputs, width=1.0)).cpu().float()
    found = model.answer_of(plain.to(model.device)(**inputs)).cpu().float()
    if not bool((wanted - found).abs().max() <= TOLERANCE * max(1.0, float(wanted.abs().max()))):
        raise InputError("`format` transformers: the plain network gives other answers; leave it out")
