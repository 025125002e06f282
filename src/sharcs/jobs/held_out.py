"""The rows that a training holds out, and what they decide when it has ended."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from sharcs.calibration.calibrate import calibrate
from sharcs.calibration.promise import LEAST_ROWS, choose_default, halves, promise_of
from sharcs.data.sampling import sampled_rows
from sharcs.data.texts import Columns, TextData, take_rows
from sharcs.errors import InputError
from sharcs.inference.reading import rows_of
from sharcs.jobs.answers import all_answers
from sharcs.jobs.given import read_given
from sharcs_runtime.policy import RoutingPolicy
from sharcs_runtime.scores import REGRESSION, SINGLE_LABEL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedConfig

    from sharcs.calibration.choice import Constraint
    from sharcs.data.dialects import Dialect
    from sharcs.evaluation.answers import AllAnswers
    from sharcs.inference.folder import TrainedModel
    from sharcs.stored import Promise

SHARE, LEAST, WHERE_THERE_ARE = 0.1, 500, 2500
FEWEST_ROWS = round(2 * LEAST_ROWS / SHARE)  # a tenth of fewer would promise nothing, and be missed


def split(data: TextData, seed: int) -> tuple[TextData, TextData | None]:
    """Hold out a tenth of the rows, each class by its share: at least 500 rows where there are 2,500.

    Args:
        data: Labelled rows.
        seed: Draws them.

    Returns:
        What is trained on, and what is held out; None where there are too few rows.
    """
    if len(data) < FEWEST_ROWS:
        return data, None
    count = round(SHARE * len(data))
    if len(data) >= WHERE_THERE_ARE:
        count = max(LEAST, count)
    of_one_class = [""] * len(data)  # numbers have no classes, of which each would have its share
    strata = of_one_class if data.problem_type == REGRESSION else data.labels or []
    held = sampled_rows(strata, count, seed)
    chosen = set(held)
    return take_rows(data, [row for row in range(len(data)) if row not in chosen]), take_rows(data, held)


def judging_rows(
    held_out: TextData, processor: Any, encoder_config: PreTrainedConfig, label2id: dict[str, int], seed: int
) -> Any:
    """Prepare the half that chooses: read-out, checkpoint and policy; None if the rows are too few."""
    chosen_on, _ = halves(len(held_out), seed)
    if len(chosen_on) < LEAST_ROWS:
        return None
    return rows_of(take_rows(held_out, chosen_on.tolist()), processor, encoder_config, label2id)


def check_limit(
    limit: Constraint | None, held_out: TextData | None, names: int, problem_type: str = SINGLE_LABEL
) -> None:
    """Refuse a limit that could not be kept whatever a training gives.

    Args:
        limit: What the policy has to keep.
        held_out: Labelled rows that nothing is trained on.
        names: How many sub-networks there will be.
        problem_type: What the labels are.

    Raises:
        InputError: If there are no rows for it, or too few, or nothing to choose from.
    """
    if limit is None:
        return
    what = f"`{limit.kind}` {limit.limit:g}"
    if problem_type == REGRESSION:
        raise InputError(
            f"{what}: bounds how many answers are right, and a number is not right or wrong; leave it out"
        )
    if names < 2:
        raise InputError(f"{what}: there is one sub-network only, so nothing can be chosen; name more")
    rows = 0 if held_out is None else len(held_out)
    needed = max(2 * LEAST_ROWS, limit.rows_needed(choosing_share=0.5))
    if rows < needed:
        raise InputError(
            f"{what}: takes at least {needed:,} held-out rows, and there are {rows:,}; give them as `validation`, "
            "or raise the limit"
        )


def choose_policy(trained: TrainedModel, held_out: TextData, seed: int, limit: Constraint | None = None) -> None:
    """Give a model a policy that half of some rows choose, and what the other half says of it.

    Args:
        trained: The model, whose configuration takes the policy and the promise.
        held_out: Labelled rows that it was not trained on.
        seed: Divides them. Where they are too few, the model keeps its policy, and nothing is promised.
        limit: What the policy has to keep; None for the cheapest that loses nothing. If none keeps it, every input
            goes through the full network, with a warning.
    """
    answers = all_answers(trained, held_out, labelled=True)
    promise = choose_default(answers, seed) if limit is None else _kept(limit, answers, trained, seed)
    if promise is not None:
        config = trained.model.config
        config.policy, config.promise = dict(promise.policy), promise.record()


def promise_nothing(trained: TrainedModel, held_out: TextData | None) -> None:
    """Send every input through the full network, since thresholds would be a guess, and say how many rows it takes.

    Args:
        trained: The model, whose configuration takes the policy.
        held_out: The rows that were too few, or None.
    """
    trained.model.config.policy = RoutingPolicy(start=trained.model.config.names[-1]).to_dict()
    rows = 0 if held_out is None else len(held_out)
    warnings.warn(
        "nothing is promised of cheap answers, so every input goes through the full network: "
        f"{rows:,} rows are held out, and {2 * LEAST_ROWS:,} are needed; give so many as `validation`, or "
        f"{FEWEST_ROWS:,} rows to train on, or calibrate on others, which need no labels",
        stacklevel=3,
    )


def _kept(limit: Constraint, answers: AllAnswers, trained: TrainedModel, seed: int) -> Promise:
    """Calibrate as ``sharcs calibrate`` does, by rows of which one half had a part in the training."""
    chosen_on, read_once = halves(len(answers), seed)
    found = calibrate(answers, limit, len(trained.model.config.class_indices), seed, chosen_on)
    trained.model.config.calibration = found.record()
    if found.met:
        return promise_of(answers.take(read_once), found.policy, limit)
    warnings.warn(
        f"`{limit.kind}` {limit.limit:g}: no policy keeps it on {len(read_once):,} held-out rows; every input goes "
        "through the full network",
        stacklevel=3,
    )
    return promise_of(answers.take(read_once), found.policy)


def check_unlabelled(unlabelled: str | TextData | None, front: Sequence[str], images: bool = False) -> None:
    """Refuse texts that nothing would learn from.

    Raises:
        InputError: If there is no sub-network in front of the encoder, or the job is on images.
    """
    if unlabelled is not None and images:
        raise InputError(f"`unlabelled` {unlabelled}: is for texts; leave it out")
    if unlabelled is not None and not front:
        name = unlabelled.source if isinstance(unlabelled, TextData) else unlabelled
        raise InputError(
            f"`unlabelled` {name}: is for what answers before the encoder runs; name lexical, recurrent or "
            "compact among the `sub_networks`"
        )


def unlabelled_rows(
    source: str | TextData | None,
    columns: Columns,
    dialect: Dialect,
    train: TextData,
    tokenizer: Any,
    encoder_config: PreTrainedConfig,
) -> Any:
    """Read and tokenise texts without labels, like those of training; None where there are none.

    Raises:
        InputError: If they can't be read, or are single texts where training has pairs, or the other way round.
    """
    if source is None:
        return None
    texts = read_given(source, columns, dialect, labelled=False, problem_type=train.problem_type)
    check_same_shape(train, texts)
    return rows_of(texts, tokenizer, encoder_config)


def check_same_shape(train: TextData, other: TextData) -> None:
    """Refuse pairs beside single texts.

    Raises:
        InputError: If one of both has pairs.
    """
    if (train.pairs is None) != (other.pairs is None):
        with_pairs, without = (other, train) if train.pairs is None else (train, other)
        raise InputError(
            f"{without.source}: has single texts while {with_pairs.source} has pairs; "
            "name the second text's column with `text_pair_column`"
        )
