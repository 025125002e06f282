"""The command ``sharcs train``."""

from __future__ import annotations

import json
import warnings
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sharcs_cli.evaluate import report_quality
from sharcs_cli.images import ImageOption, input_column, kind_of_data
from sharcs_cli.options import (
    NOTHING_MEETS_IT,
    BudgetOption,
    DataOption,
    DelimiterOption,
    DisagreementOption,
    DropOption,
    EncodingOption,
    LabelOption,
    NoQuotesOption,
    PairOption,
    TextOption,
    columns_of,
    dialect_of,
    err,
    say,
    texts_of,
)
from sharcs_runtime.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sharcs.inference.folder import TrainedModel
    from sharcs.jobs.train import TrainingJob


def train(
    context: typer.Context,
    data: DataOption,
    output: Annotated[Path, typer.Option("--output", help="New directory for the model.")],
    model: Annotated[str, typer.Option("--model", help="Encoder: hub name, local directory, or minilm.")] = "minilm",
    eval_data: Annotated[str | None, typer.Option("--eval-data", help="Evaluate on this at the end.")] = None,
    image_column: ImageOption = None,
    text_column: TextOption = None,
    text_pair_column: PairOption = None,
    label_column: LabelOption = None,
    encoding: EncodingOption = None,
    delimiter: DelimiterOption = None,
    no_quotes: NoQuotesOption = False,
    sub_networks: Annotated[
        str | None,
        typer.Option(
            "--sub-networks",
            "--widths",
            help="Cheapest first: lexical, recurrent, compact, ascending widths, and full, which is 1.0; or auto, "
            "for those in front in the sizes that this machine runs fast.",
            show_default="recurrent,compact,full; images: compact,full; paper, several labels, numbers: 0.25,1.0",
        ),
    ] = None,
    unlabelled: Annotated[
        str | None,
        typer.Option(
            "--unlabelled", help="More texts like those to come, for those before the encoder to learn from."
        ),
    ] = None,
    validation: Annotated[
        str | None,
        typer.Option(
            "--validation",
            help="Labelled rows like those to come, which choose the policy.",
            show_default="a tenth of --data, with one before the encoder, or a limit",
        ),
    ] = None,
    budget: BudgetOption = None,
    max_accuracy_drop: DropOption = None,
    max_disagreement: DisagreementOption = None,
    readout: Annotated[
        str | None,
        typer.Option(
            "--readout",
            help="What the encoder's head reads: the first token, or the mean of all.",
            show_default="first; with one before the encoder, what a short trial says",
        ),
    ] = None,
    router_layer: Annotated[
        int | None,
        typer.Option(
            "--router-layer", help="Full-width layers before the router.", show_default="a sixth; paper: a quarter"
        ),
    ] = None,
    recipe: Annotated[str | None, typer.Option("--recipe", help="sharcs+, or paper.", show_default="sharcs+")] = None,
    window: Annotated[
        int | None,
        typer.Option(
            "--window", help="Recipe paper: epochs of confidence behind a hardness label.", show_default="3"
        ),
    ] = None,
    bands: Annotated[
        list[str] | None,
        typer.Option(
            "--band",
            help="Recipe paper: confidence band of a width, 0.25=0.8,1.0; repeatable.",
            show_default="narrow widths share 0.5 to 1, the full one has the rest",
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            "--epochs",
            help="Passes over the training data; 0 if DIR of --model is fine-tuned.",
            show_default="5; paper: 10; with one before the encoder: 8, and more of few rows",
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Inputs a training step.")] = 32,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            "--learning-rate",
            help="Peak learning rate.",
            show_default="5e-5; paper: 2e-5; with one before the encoder: 1e-4",
        ),
    ] = None,
    sub_network_epochs: Annotated[
        int | None,
        typer.Option(
            "--sub-network-epochs",
            help="Passes in which the sub-networks learn from the full network.",
            show_default="8; those in front of the encoder: 4",
        ),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            "--patience", help="Stop the full network after so many epochs without gain.", show_default="all epochs"
        ),
    ] = None,
    class_weights: Annotated[
        str | None,
        typer.Option("--class-weights", help="balanced, or JSON like '{\"spam\": 3}'; other classes weigh 1."),
    ] = None,
    regression: Annotated[
        bool, typer.Option("--regression", help="The label column holds numbers to learn, and no classes.")
    ] = False,
    report_to: Annotated[
        list[str] | None,
        typer.Option("--report-to", help="tensorboard, or another that transformers reports to; repeatable."),
    ] = None,
    max_length: Annotated[int, typer.Option("--max-length", help="Tokens kept of a text.")] = 128,
    max_train_samples: Annotated[
        int | None,
        typer.Option("--max-train-samples", help="Train on this many rows only.", show_default="all"),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Same seed and data, same model.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted training.")] = False,
) -> None:
    """Train a routed classifier, in one run, and write it to a directory.

    Several processes train it together: torchrun --nproc-per-node 2 -m sharcs train ...

    Exit code 3: no policy keeps the limit on held-out rows, and every input goes through the full network.
    """
    from sharcs.calibration.choice import constraint_of
    from sharcs.jobs.train import TrainingJob
    from sharcs.spec import sub_networks_of

    images, base = kind_of_data(data, image_column)
    inputs = input_column(images, image_column, text_column, text_pair_column)
    front, widths = sub_networks_of(sub_networks)
    job = TrainingJob(
        data=data,
        output=output,
        model=model,
        eval_data=eval_data,
        columns=columns_of(inputs, text_pair_column, label_column, base),
        images=images,
        widths=widths,
        front=front,
        unlabelled=unlabelled,
        validation=validation,
        limit=constraint_of(
            {"budget": budget, "max_accuracy_drop": max_accuracy_drop, "max_disagreement": max_disagreement}
        ),
        readout=readout,
        router_layer=router_layer,
        recipe=recipe,
        window=window,
        bands=_bands(bands or []),
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        max_length=max_length,
        max_train_samples=max_train_samples,
        seed=seed,
        dialect=dialect_of(encoding, delimiter, no_quotes),
        resume=resume,
        regression=regression,
        class_weights=_weights(class_weights),
        sub_network_epochs=sub_network_epochs,
        patience=patience,
        report_to=tuple(report_to or ()),
    )
    _run(context, job)


def _run(context: typer.Context, job: TrainingJob) -> None:
    """Train, in each of the processes that were launched; the first one speaks."""
    from sharcs.inference.folder import claimed_folder
    from sharcs.jobs.train import run_training
    from sharcs.training.processes import ended_elsewhere, from_first
    from sharcs_cli.progress import EpochProgress

    with _speaking_once() as is_first, ended_elsewhere():
        from_first(lambda: context.with_resource(claimed_folder(job.output)))
        say(f"training on {job.data}; model and checkpoints go to {job.output}")
        try:
            with closing(EpochProgress(err)) as progress:
                trained = run_training(job, [progress] if is_first else [], say)
        except KeyboardInterrupt:
            say(f"interrupted; the same command with --resume goes on from the last checkpoint in {job.output}")
            raise typer.Exit(130) from None
        if is_first:
            _conclude(job, trained)
    if not (trained.model.config.calibration or {"met": True})["met"]:
        raise typer.Exit(NOTHING_MEETS_IT)


@contextmanager
def _speaking_once() -> Iterator[bool]:
    """Let the first of several processes speak alone; whether this is it."""
    from sharcs.training.processes import join, process_number

    join()
    is_first = process_number() == 0
    with warnings.catch_warnings():
        if not is_first:
            warnings.simplefilter("ignore")
            err.quiet = True
        yield is_first


def _conclude(job: TrainingJob, trained: TrainedModel) -> None:
    """Say what there is, and evaluate it if that was asked for."""
    say(f"the model is in {job.output}")
    _say_promise(trained.model.config.promise)
    if job.eval_data:
        texts = texts_of(trained, job.eval_data, job.columns, labelled=True, dialect=job.dialect)
        report_quality(trained, texts, job.output / "evaluation.json")


def _say_promise(promise: dict[str, Any] | None) -> None:
    """Say what held-out rows show, if there were any."""
    from sharcs.stored import Promise

    for line in [] if promise is None else Promise(**promise).lines():
        say(line)


def _numbers(option: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"{option} {text}: is no list of numbers; write it like 0.25,1.0") from None


def _weights(text: str | None) -> str | dict[str, float] | None:
    if text is None or not text.lstrip().startswith("{"):
        return text
    try:
        weights: dict[str, float] = json.loads(text)
    except ValueError:
        raise InputError(f"--class-weights {text}: is no JSON; write it like '{{\"spam\": 3}}'") from None
    return weights


def _bands(options: list[str]) -> dict[float, tuple[float, float]] | None:
    bands = {}
    for option in options:
        width, equals, limits = option.partition("=")
        numbers = _numbers("--band", f"{width},{limits}") if equals else []
        if len(numbers) != 3:
            raise InputError(f"--band {option}: write it as WIDTH=LOW,HIGH, like 0.25=0.8,1.0")
        if numbers[0] in bands:
            raise InputError(f"--band {option}: width {width} has a band already; give one a width")
        bands[numbers[0]] = (numbers[1], numbers[2])
    return bands or None
