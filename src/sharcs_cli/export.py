"""The command ``sharcs export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sharcs_cli.options import ModelArgument, progress_bar, say, width_of
from sharcs_runtime.errors import InputError

FORMATS = ("onnx", "transformers")


def export(
    context: typer.Context,
    folder: ModelArgument,
    output: Annotated[Path, typer.Option("--output", help="New directory for graphs, tokenizer and policy.")],
    int8: Annotated[
        bool, typer.Option("--int8", help="Quantise by ONNX Runtime; 'sharcs benchmark' tells what it costs.")
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
    kind: Annotated[
        str,
        typer.Option(
            "--format",
            help="onnx; or transformers: the full network as a plain Hugging Face directory, with --width 1.",
        ),
    ] = "onnx",
) -> None:
    """Write the network as ONNX: for sharcs_runtime.OnnxRunner, which needs no PyTorch.

    One graph holds the layers before the router and the router, and one for each width the rest.
    """
    if kind not in FORMATS:
        raise InputError(f"--format {kind}: has to be {' or '.join(FORMATS)}")
    from sharcs.export.bundle import check_export_path, export_model
    from sharcs.export.graphs import graph_names
    from sharcs.export.onnx import require_onnx
    from sharcs.files import claimed
    from sharcs.inference.folder import open_model
    from sharcs_runtime.bundle import Bundle

    if kind == "transformers":
        _check_plain(int8, width)
    check_export_path(output)
    context.with_resource(claimed(output, name=f"--output {output}"))
    if kind == "transformers":
        _export_plain(folder, output, width_of(width))
        return
    require_onnx()
    trained = open_model(folder)
    asked = width_of(width)
    if asked is not None:
        trained.model.config.index_of(asked)
    with progress_bar("exporting", len(graph_names(trained.model, asked))) as advance:
        export_model(
            trained.model,
            trained.tokenizer,
            output,
            width=asked,
            int8=int8,
            columns=trained.columns,
            on_graph=advance,
        )
    size = sum(path.stat().st_size for path in output.iterdir()) / 1e6
    untested = Bundle.read(output).untested
    if untested is not None:
        say(f"sharcs: note: {untested}")
    say(f"{'a dense model' if asked else 'trunk and sub-networks'} in {output}, {size:.0f} MB")


def _check_plain(int8: bool, width: str | None) -> None:
    """Refuse options that a plain directory has no use for, or lacks."""
    if int8:
        raise InputError("--int8: is for onnx; leave it out, or --format")
    if width is None:
        raise InputError("--format transformers: is one sub-network; name it with --sub-network full")


def _export_plain(folder: Path, output: Path, width: float | str | None) -> None:
    """Write one sub-network for transformers."""
    from sharcs.export.plain import export_plain
    from sharcs.inference.folder import open_trained

    assert width is not None
    trained = open_trained(folder)
    export_plain(trained.model, trained.tokenizer, output, width)
    say(f"a plain {trained.model.config.encoder.model_type} is in {output}")  # type: ignore[union-attr]
