"""The command ``sharcs export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sharcs_cli.options import (
    DATA_HELP,
    DelimiterOption,
    EncodingOption,
    ModelArgument,
    NoQuotesOption,
    dialect_of,
    progress_bar,
    say,
    texts_of,
    width_of,
)
from sharcs_runtime.errors import InputError
from sharcs_runtime.sessions import ONNX_RUNTIME, OPENVINO

if TYPE_CHECKING:
    from sharcs.inference.folder import TrainedModel

ONNX, TRANSFORMERS, OPTIMUM = "onnx", "transformers", "optimum"
FORMATS = (ONNX, TRANSFORMERS, OPTIMUM)


def export(
    context: typer.Context,
    folder: ModelArgument,
    output: Annotated[Path, typer.Option("--output", help="New directory for graphs, tokenizer and policy.")],
    int8: Annotated[
        bool, typer.Option("--int8", help="Quantise; 'sharcs benchmark' tells what ONNX Runtime's int8 costs.")
    ] = False,
    int8_embeddings: Annotated[
        bool,
        typer.Option("--int8-embeddings", help="With --int8: store the tables of embeddings in int8, too."),
    ] = False,
    width: Annotated[
        str | None,
        typer.Option(
            "--width",
            "--sub-network",
            help="Write this width, or the sub-network of this name, alone, as one dense model.",
            show_default="all",
        ),
    ] = None,
    runtime: Annotated[
        str,
        typer.Option(
            "--runtime",
            help=f"{ONNX_RUNTIME}; or {OPENVINO}, for many texts at once that mostly go through the full network.",
        ),
    ] = ONNX_RUNTIME,
    data: Annotated[
        str | None,
        typer.Option("--data", help=f"Texts like those to come, off which OpenVINO's int8 reads scales. {DATA_HELP}"),
    ] = None,
    encoding: EncodingOption = None,
    delimiter: DelimiterOption = None,
    no_quotes: NoQuotesOption = False,
    kind: Annotated[
        str,
        typer.Option(
            "--format",
            help="onnx; or transformers: the full network as a plain Hugging Face directory, with --width 1; or "
            "optimum: one sub-network for optimum and text-embeddings-inference, with --sub-network.",
        ),
    ] = ONNX,
) -> None:
    """Write the network as ONNX: for sharcs_runtime.OnnxRunner, which needs no PyTorch.

    One graph holds the layers before the router and the router, and one for each width the rest.
    """
    if kind not in FORMATS:
        raise InputError(f"--format {kind}: has to be {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    from sharcs.export.bundle import check_export_path
    from sharcs.export.int8 import check_int8
    from sharcs.export.onnx import require_onnx
    from sharcs.files import claimed
    from sharcs.inference.folder import open_model

    check_int8(int8, int8_embeddings)
    _check_runtime(runtime, data, kind, int8, int8_embeddings)
    if kind == TRANSFORMERS and int8:
        raise InputError(f"--int8: is for {ONNX} and {OPTIMUM}; leave it out, or --format")
    if kind != ONNX and width is None:
        raise InputError(f"--format {kind}: is one sub-network; name it with --sub-network full")
    check_export_path(output)
    context.with_resource(claimed(output, name=f"--output {output}"))
    asked = width_of(width)
    if kind == TRANSFORMERS:
        _export_plain(folder, output, asked)
        return
    require_onnx()
    trained = open_model(folder)
    if asked is not None:
        trained.model.config.index_of(asked)
    if kind == OPTIMUM:
        _export_optimum(trained, output, asked, int8, int8_embeddings)
    else:
        dialect = dialect_of(encoding, delimiter, no_quotes)
        texts = None if data is None else texts_of(trained, data, trained.columns, labelled=False, dialect=dialect)
        more = {"int8_embeddings": int8_embeddings, "runtime": runtime, "texts": texts and texts.inputs}
        _export_onnx(trained, output, asked, int8=int8, **more)


def _check_runtime(runtime: str, data: str | None, kind: str, int8: bool, int8_embeddings: bool) -> None:
    """Refuse what doesn't go together, before anything is read.

    Raises:
        InputError: If it is so, or a package is missing.
    """
    from sharcs.export.openvino import check_runtime

    if kind != ONNX and runtime != ONNX_RUNTIME:
        raise InputError(f"--runtime {runtime}: is for --format {ONNX}; leave one of them out")
    reads = int8 and runtime == OPENVINO
    if data is not None and not reads:
        raise InputError(f"--data {data}: is for --int8 with --runtime {OPENVINO}; leave it out")
    if reads and data is None:
        raise InputError(f"--int8 with --runtime {OPENVINO}: reads scales off texts like those to come; give --data")
    check_runtime(runtime, int8=int8, int8_embeddings=int8_embeddings, texts=[""] if reads else None)


def _export_onnx(trained: TrainedModel, output: Path, width: float | str | None, **options: Any) -> None:
    """Write the graphs for the runtime."""
    from sharcs.export.bundle import export_model
    from sharcs.export.graphs import graph_names
    from sharcs_runtime.bundle import Bundle

    with progress_bar("exporting", len(graph_names(trained.model, width))) as advance:
        export_model(
            trained.model,
            trained.tokenizer,
            output,
            width=width,
            columns=trained.columns,
            on_graph=advance,
            **options,
        )
    untested = Bundle.read(output).untested
    if untested is not None:
        say(f"sharcs: note: {untested}")
    say(f"{'a dense model' if width else 'trunk and sub-networks'} in {output}, {_megabytes(output)}")


def _export_plain(folder: Path, output: Path, width: float | str | None) -> None:
    """Write one sub-network for transformers."""
    from sharcs.export.plain import export_plain
    from sharcs.inference.folder import open_trained

    assert width is not None
    trained = open_trained(folder)
    export_plain(trained.model, trained.tokenizer, output, width)
    say(f"a plain {trained.model.config.encoder.model_type} is in {output}")  # type: ignore[union-attr]


def _export_optimum(
    trained: TrainedModel, output: Path, width: float | str | None, int8: bool, int8_embeddings: bool
) -> None:
    """Write one sub-network for optimum and text-embeddings-inference."""
    from sharcs.export.optimum import export_optimum, note_for

    assert width is not None
    config = trained.model.config
    with progress_bar("exporting", 1) as advance:
        export_optimum(
            trained.model,
            trained.tokenizer,
            output,
            width,
            int8=int8,
            int8_embeddings=int8_embeddings,
            on_graph=advance,
        )
    notes = [note_for(trained.model.problem_type)]
    name = config.names[config.index_of(width)]
    if name != config.names[-1]:
        notes.append(f"the sizes in config.json are the full network's, and the graph is {name}")
    for note in filter(None, notes):
        say(f"sharcs: note: {note}")
    say(f"a dense model for optimum and text-embeddings-inference in {output}, {_megabytes(output)}")


def _megabytes(folder: Path) -> str:
    return f"{sum(path.stat().st_size for path in folder.iterdir()) / 1e6:.0f} MB"
