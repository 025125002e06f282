"""``sharcs export``: a network's graphs, tokenizer and policy, for use without PyTorch."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import contextmanager
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharcs.data.tokens import most_tokens
from sharcs.errors import InputError
from sharcs.export.graphs import graph_names, inputs_of, plain_copy, write_graphs
from sharcs.export.int8 import check_int8, quantise_graph
from sharcs.export.onnx import require_onnx
from sharcs.export.openvino import check_runtime, quantise_static, runtime_of, sample_feeds
from sharcs.export.tokenizer import backend_of, write_tokenizer
from sharcs.files import claimed, write_json, written
from sharcs.tasks.base import require_one_answer
from sharcs_runtime.bundle import DESCRIPTION_FILE, FORMAT, FORMAT_OPENVINO
from sharcs_runtime.policy import RoutingPolicy
from sharcs_runtime.sessions import ONNX_RUNTIME, OPENVINO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

    from sharcs.data.texts import Columns
    from sharcs.model.text import SharcsForSequenceClassification
    from sharcs_runtime.tokens import Text


def check_export_path(output: Path) -> None:
    """Refuse a place that can't be written to or is in use.

    Raises:
        InputError: If it is so.
    """
    if output.exists() and not output.is_dir():
        raise InputError(f"`output` {output}: is a file; name a directory")
    if output.is_dir() and any(output.iterdir()):
        raise InputError(f"`output` {output}: is in use; name a new directory")


def check_exportable(
    model: SharcsForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    output: Path,
    *,
    int8: bool,
    int8_embeddings: bool,
) -> None:
    """Refuse what no export of graphs can do, before the work; the arguments are those of :func:`export_model`.

    Raises:
        InputError: If the model has not one answer for each input, the options don't go together, a package is
            missing, the place is in use, or the tokenizer is not of the ``tokenizers`` library.
    """
    require_one_answer(model.problem_type, "export")
    check_int8(int8, int8_embeddings)
    require_onnx()
    check_export_path(output)
    backend_of(tokenizer)


def export_model(
    model: SharcsForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    output: Path,
    *,
    width: float | str | None = None,
    int8: bool = False,
    int8_embeddings: bool = False,
    runtime: str = ONNX_RUNTIME,
    texts: Sequence[Text] | None = None,
    columns: Columns | None = None,
    on_graph: Callable[[int], None] | None = None,
) -> None:
    """Write a directory that :class:`sharcs_runtime.OnnxRunner` runs.

    Args:
        model: The routed network; it is copied, and left as it is.
        tokenizer: Its tokenizer.
        output: A directory that doesn't exist, or an empty one. It is written beside and renamed.
        width: Writes this width as one dense model, from tokens to logits; by default trunk and tails are written.
        int8: Whether the graphs are quantised. What is promised of the policy was then tested with other numbers;
            ``sharcs calibrate`` on the export tests these.
        int8_embeddings: Whether the tables of embeddings are stored in int8, too, with a scale a row. It goes on from
            ``int8``.
        runtime: What will run the graphs: ``onnxruntime``; or ``openvino``, which for ``int8`` reads ``texts``. It is
            faster where many at once go through the full network.
        texts: Some hundred like those to come, all strings or all pairs of strings, of which 300 set the scales.
        columns: The column names of the training data, for commands that read tables.
        on_graph: Called with 1 after each graph, for a progress bar.

    Raises:
        InputError: If the model has not one answer for each input, the options don't go together, a package is
            missing, the network has no such width, its tokenizer is not of the ``tokenizers`` library, a graph
            doesn't compute what PyTorch does, or the directory can't be written.
    """
    check_runtime(runtime, int8=int8, int8_embeddings=int8_embeddings, texts=texts)
    check_exportable(model, tokenizer, output, int8=int8, int8_embeddings=int8_embeddings)
    index = None if width is None else model.config.index_of(width)
    with staged(output) as staging:
        write_graphs(plain_copy(model), inputs_of(tokenizer), staging, index, on_graph, runtime)
        most = most_tokens(tokenizer, model.config.encoder)
        write_tokenizer(tokenizer, staging, most)
        _write_description(model, tokenizer, staging, index, columns, runtime)
        trunk = staging / "trunk.onnx" if index is None else None
        feeds = [] if texts is None else sample_feeds(texts, tokenizer, most, trunk)
        if int8:
            quantise(staging, embeddings=int8_embeddings, feeds=feeds)


@contextmanager
def staged(output: Path) -> Iterator[Path]:
    """Hand out a directory to write, which becomes the output when all of it is written.

    Raises:
        InputError: If the output is in use, or can't be written.
    """
    check_export_path(output)
    target = Path(os.path.realpath(output))
    staging = target.with_name(f".{target.name}.partial")
    with claimed(output, name=f"`output` {output}"), written(f"`output` {output}"):
        try:
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir()
            yield staging
            staging.replace(target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def quantise(folder: Path, *, embeddings: bool = False, feeds: Sequence[dict[str, NDArray[Any]]] = ()) -> None:
    """Turn an exported network into int8, in its place.

    Args:
        folder: What :func:`export_model` wrote in single precision.
        embeddings: Whether the tables of embeddings are turned, too.
        feeds: What the graphs that are for OpenVINO read of some texts, by name.
    """
    content = json.loads((folder / DESCRIPTION_FILE).read_text(encoding="utf-8"))
    for entry in (content["trunk"], *content["subnetworks"]):
        if entry is None:
            continue
        if entry["runtime"] == OPENVINO:
            quantise_static(folder / entry["graph"], feeds)
        else:
            quantise_graph(folder / entry["graph"], embeddings)
    content["int8"] = True
    content["int8_embeddings"] = embeddings
    content["files"] = _files_in(folder)
    write_json(content, folder / DESCRIPTION_FILE)


def _files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != DESCRIPTION_FILE)


def _write_description(
    model: SharcsForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    index: int | None,
    columns: Columns | None,
    runtime: str,
) -> None:
    config = model.config
    width = None if index is None else config.keys[index]
    *first, last = [f"{name}.onnx" for name in graph_names(model, width)]
    specs = config.specs if index is None else [config.specs[index]]
    graphs = [*first[1:], last]
    costs = model.cost_coefficients().tolist()
    going_on = model.continuation_coefficients().tolist()
    names = dict(sorted((config.id2label or {}).items()))
    padding = {"input_ids": tokenizer.pad_token_id or 0, "token_type_ids": tokenizer.pad_token_type_id}
    content: dict[str, Any] = {
        "format": FORMAT_OPENVINO if runtime == OPENVINO else FORMAT,
        "sharcs": metadata.version("sharcs"),
        "int8": False,
        "int8_embeddings": False,
        "labels": [str(name) for name in names.values()],
        "label_type": config.label_type,
        "problem_type": config.problem_type,
        "policy": (config.routing_policy if index is None else RoutingPolicy()).to_dict(),
        # With what they were tested with. A dense model routes nothing.
        "promise": config.promise if index is None else None,
        "calibration": kept_of(config.calibration) if index is None else None,
        "columns": None if columns is None else asdict(columns),
        "max_length": most_tokens(tokenizer, config.encoder),
        "padding": {name: padding[name] for name in inputs_of(tokenizer)},
        "trunk": {"graph": first[0], "runtime": runtime} if first else None,
        # Costs are c₀, c₁ and c₂ of c₀ + c₁·T + c₂·T² FLOPs for T tokens.
        "subnetworks": [
            {
                **spec.to_dict(),
                "graph": graph,
                "runtime": runtime_of(spec, runtime),
                "cost": costs[config.names.index(spec.name)],
                "cost_after": {
                    earlier: going_on
                    for earlier in config.names[config.front_count : -1]
                    if spec.name == config.names[-1]
                },
            }
            for spec, graph in zip(specs, graphs, strict=True)
        ],
        "full_cost": costs[-1],
        "files": _files_in(folder),
    }
    write_json(content, folder / DESCRIPTION_FILE)


def kept_of(calibration: dict[str, Any] | None) -> dict[str, Any] | None:
    """Take of a calibration what serving needs: its limit, its rungs, and the policy of each budget."""
    kept = (
        "kind",
        "limit",
        "confidence",
        "per_class",
        "met",
        "bound",
        "cost_ratio",
        "ladder",
        "frontier",
        "policy",
        "numbers",
        "runtime",
    )
    return calibration and {name: calibration[name] for name in kept if name in calibration}
