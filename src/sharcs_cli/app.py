"""The command ``sharcs``."""

from __future__ import annotations

import sys
import warnings
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import torch
import transformers
import typer
from rich.table import Table
from rich.text import Text
from transformers import DataCollatorWithPadding

from sharcs.data.tables import check_output_path
from sharcs.data.texts import TextData
from sharcs.data.tokens import tokenise
from sharcs.errors import InputError
from sharcs.evaluation.accuracy import accuracy_report, run_all_widths
from sharcs.evaluation.plot import draw_curve
from sharcs.inference.folder import TrainedModel, open_model, write_json
from sharcs.inference.predict import open_texts, predict_table
from sharcs.inference.record import check_unclaimed
from sharcs.jobs.train import TrainingJob, run_training
from sharcs_cli.benchmark import benchmark
from sharcs_cli.calibrate import calibrate
from sharcs_cli.export import export
from sharcs_cli.options import (
    DataOption,
    EncodingOption,
    LabelOption,
    ModelArgument,
    PairOption,
    TextOption,
    WidthOption,
    check_json_path,
    check_pairs,
    columns_of,
    err,
    out,
    percent,
    progress_bar,
    say,
    texts_of,
)
from sharcs_cli.progress import EpochProgress
from sharcs_cli.report import report

app = typer.Typer(
    name="sharcs",
    help="Fine-tune an encoder once; each input then uses only as much of its width as it needs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def train(
    data: DataOption,
    output: Annotated[Path, typer.Option("--output", help="New directory for the model.")],
    model: Annotated[str, typer.Option("--model", help="Encoder: hub name, local directory, or minilm.")] = "minilm",
    eval_data: Annotated[str | None, typer.Option("--eval-data", help="Evaluate on this at the end.")] = None,
    text_column: TextOption = None,
    text_pair_column: PairOption = None,
    label_column: LabelOption = None,
    encoding: EncodingOption = None,
    widths: Annotated[str, typer.Option("--widths", help="Ascending, the last 1.0.")] = "0.25,1.0",
    router_layer: Annotated[
        int | None,
        typer.Option(
            "--router-layer", help="Full-width layers before the router [default: a sixth; paper: a quarter]."
        ),
    ] = None,
    recipe: Annotated[str | None, typer.Option("--recipe", help="sharcs+, or paper [default: sharcs+].")] = None,
    window: Annotated[
        int | None, typer.Option("--window", help="Recipe paper: epochs of confidence behind a hardness label.")
    ] = None,
    band: Annotated[
        list[str] | None,
        typer.Option("--band", help="Recipe paper: confidence band of a width, 0.25=0.8,1.0; repeatable."),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            "--epochs",
            help="Passes over the training data; 0 if DIR of --model is fine-tuned [default: 5; paper: 10].",
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Inputs a training step.")] = 32,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", help="Peak learning rate [default: 5e-5; paper: 2e-5].")
    ] = None,
    max_length: Annotated[int, typer.Option("--max-length", help="Tokens kept of a text.")] = 128,
    max_train_samples: Annotated[
        int | None, typer.Option("--max-train-samples", help="Train on this many rows only.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Same seed and data, same model.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted training.")] = False,
) -> None:
    """Train a routed classifier, in one run, and write it to a directory."""
    job = TrainingJob(
        data=data,
        output=output,
        model=model,
        eval_data=eval_data,
        columns=columns_of(text_column, text_pair_column, label_column),
        widths=tuple(_numbers("--widths", widths)),
        router_layer=router_layer,
        recipe=recipe,
        window=window,
        bands=_bands(band or []),
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        max_length=max_length,
        max_train_samples=max_train_samples,
        seed=seed,
        encoding=encoding,
        resume=resume,
    )
    say(f"training on {data}; model and checkpoints go to {output}")
    try:
        with closing(EpochProgress(err)) as progress:
            trained = run_training(job, [progress])
    except KeyboardInterrupt:
        say(f"interrupted; the same command with --resume goes on from the last checkpoint in {output}")
        raise typer.Exit(130) from None
    say(f"the model is in {output}")
    if eval_data:
        texts = texts_of(trained, eval_data, job.columns, labelled=True, encoding=encoding)
        _report(trained, texts, output / "evaluation.json", None)


@app.command()
def evaluate(
    folder: ModelArgument,
    data: DataOption,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the numbers here, and the curve as .png beside.")
    ] = None,
    width: WidthOption = None,
    text_column: TextOption = None,
    text_pair_column: PairOption = None,
    label_column: LabelOption = None,
    encoding: EncodingOption = None,
) -> None:
    """Measure accuracy against cost: each width, the router, random routing, an oracle, the curve."""
    if json_file is not None:
        check_json_path(json_file)
    trained = open_model(folder)
    if width is not None:
        trained.model.config.index_of(width)
    columns = columns_of(text_column, text_pair_column, label_column, trained.columns)
    _report(trained, texts_of(trained, data, columns, labelled=True, encoding=encoding), json_file, width)


@app.command()
def predict(
    folder: ModelArgument,
    data: DataOption,
    output: Annotated[Path, typer.Option("--output", help="Table to write; its ending names the format.")],
    width: WidthOption = None,
    text_column: TextOption = None,
    text_pair_column: PairOption = None,
    label_column: LabelOption = None,
    encoding: EncodingOption = None,
) -> None:
    """Classify every row: the input's columns, and prediction, score and width.

    A table of any size takes the same memory. What was answered when the command was killed is kept in a hidden
    folder beside the output, and the same command goes on from there.
    """
    check_output_path(output)
    check_unclaimed(output)
    trained = open_model(folder)
    if width is not None:
        trained.model.config.index_of(width)
    columns = columns_of(text_column, text_pair_column, label_column, trained.columns)
    stream = open_texts(data, columns, encoding)
    check_pairs(trained, data, stream.pair is not None)
    rows = stream.check()
    try:
        with progress_bar("predicting", rows) as advance:
            reused = predict_table(trained, folder, stream, output, width, on_rows=advance)
    except KeyboardInterrupt:
        say("interrupted; the same command goes on from the rows that are answered")
        raise typer.Exit(130) from None
    say(f"{rows:,} rows are in {output}" + (f"; {reused:,} of them were answered before" if reused else ""))


app.command()(calibrate)
app.command()(export)
app.command()(benchmark)
app.command()(report)


def main() -> None:
    """Run the command; what the user can put right ends with one line and exit code 2."""
    # transformers' own bars and reports would stand between the user and the one line that matters.
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    plain, warnings.formatwarning = warnings.formatwarning, _one_line
    try:
        app()
    except InputError as error:
        sys.stderr.write(f"sharcs: error: {' '.join(str(error).split())}\n")
        sys.exit(2)
    finally:
        warnings.formatwarning = plain


def _one_line(message: Warning | str, *_place: Any, **_more: Any) -> str:
    """Write a warning as one line; Python's own form adds a line of our source."""
    return f"sharcs: note: {' '.join(str(message).split())}\n"


def _numbers(option: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"{option} {text}: is no list of numbers; write it like 0.25,1.0") from None


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


def _report(trained: TrainedModel, data: TextData, json_file: Path | None, width: float | None) -> None:
    model, tokenizer = trained.model, trained.tokenizer
    label2id = model.config.class_indices
    rows = tokenise(data, tokenizer, max_length=tokenizer.model_max_length, label2id=label2id)
    with progress_bar("evaluating", len(rows)) as advance:
        outputs = run_all_widths(model, rows, DataCollatorWithPadding(tokenizer), on_batch=advance)
    report = accuracy_report(model, outputs, torch.tensor(rows["labels"]), width=width)
    _print_report(report, data.source)
    if json_file is not None:
        picture = json_file.with_suffix(".png")
        write_json(report, json_file)
        draw_curve(report, picture, f"accuracy against cost, {report['samples']:,} inputs")
        say(f"wrote {json_file} and {picture}")


def _print_report(report: dict[str, Any], source: str) -> None:
    table = Table(title=Text(f"{source}: {report['samples']:,} inputs"), title_justify="left")
    table.add_column("")
    for heading in ("accuracy, %", "FLOPs, % of full", "share, %", "accuracy where routed, %"):
        table.add_column(heading, justify="right")

    def row(name: str, values: dict[str, Any]) -> None:
        cells = (values.get(key) for key in ("accuracy", "flops_ratio", "share", "accuracy_routed"))
        table.add_row(name, *(percent(value) for value in cells))

    row("full network", {**report["full"], "flops_ratio": 1.0})
    row("routed", report["routed"])
    escalates = report["curve"][0]["escalation_threshold"] is not None
    row(
        f"random router, same {'cost' if escalates else 'shares'}",
        {**report["random"], "flops_ratio": report["routed"]["flops_ratio"]},
    )
    row("oracle router", report["oracle"])
    for width in report["widths"]:
        row(f"width {width['width']:g} on every input", width)
    out.print(table)


if __name__ == "__main__":
    main()
