"""What a training does where its job does not say: sub-networks, passes, rate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sharcs.spec import AUTO, COMPACT, FRONT_READOUTS, RECURRENT
from sharcs.training.arguments import PAPER, RECIPES, recipe_of
from sharcs_runtime.scores import SINGLE_LABEL

FRONT_RATE = 1e-4  # of the encoder, where sub-networks stand in front of it
WIDTHS = (0.25, 1.0)  # where none stand in front


def with_defaults(job: Any, kind: str) -> Any:
    """Fill in what a job leaves open; passes over the rows stay open where their number decides.

    Args:
        job: A :class:`sharcs.jobs.train.TrainingJob`, as it was given.
        kind: What its labels are.

    Raises:
        InputError: If settings of several recipes are named.
    """
    recipe = recipe_of(job.recipe, job.window, job.bands)
    own = RECIPES[recipe]
    front, widths = job.front, job.widths
    if widths is None:
        # The paper's recipe has none in front, and those answer with one class.
        can_have = recipe != PAPER and kind == SINGLE_LABEL
        front, widths = (usual_front(job.images), (1.0,)) if can_have else ((), WIDTHS)
    elif front == (AUTO,):
        front = usual_kinds(job.images)
    by_rows = front and recipe != PAPER  # the number of rows decides
    rate = FRONT_RATE if front else own.learning_rate
    return replace(
        job,
        front=front,
        widths=widths,
        recipe=recipe,
        epochs=own.epochs if job.epochs is None and not by_rows else job.epochs,
        learning_rate=rate if job.learning_rate is None else job.learning_rate,
    )


def usual_front(images: bool) -> tuple[str, ...]:
    """List what stands in front where the user doesn't say."""
    return (COMPACT,) if images else (RECURRENT, COMPACT)


def usual_kinds(images: bool) -> tuple[str, ...]:
    """List the kinds that inputs can have in front: only texts have tokens to look up."""
    return (COMPACT,) if images else tuple(FRONT_READOUTS)
