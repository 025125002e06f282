"""``sharcs export``: a network's graphs, tokenizer and policy, for use without PyTorch."""

from __future__ import annotations

import copy
import json
import os
import shutil
from contextlib import contextmanager
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer

from sharcs.data.tokens import most_tokens
from sharcs.errors import InputError
from sharcs.export.onnx import Dense, Front, Tail, Trunk, check_graph, require_onnx, to_int8, write_graph
from sharcs.files import claimed, write_json, written
from sharcs.tasks.base import require_one_answer
from sharcs_runtime.bundle import DESCRIPTION_FILE, FORMAT, TOKENIZER_FILE
from sharcs_runtime.policy import RoutingPolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from sharcs.data.texts import Columns
    from sharcs.model.text import SharcsForSequenceClassification

EXAMPLE = (3, 7)  # inputs and tokens that a graph is traced with
CHECKED = ((1, 2), (2, 9), (5, 4))


def check_export_path(output: Path) -> None:
    """Refuse a place that can't be written to or is in use.

    Raises:
        InputError: If it is so.
    """
    if output.exists() and not output.is_dir():
        raise InputError(f"`output` {output}: is a file; name a directory")
    if output.is_dir() and any(output.iterdir()):
        raise InputError(f"`output` {output}: is in use; name a new directory")


def graph_names(model: SharcsForSequenceClassification, width: float | str | None = None) -> list[str]:
    """Name the graphs that an export writes, in their order."""
    if width is not None:
        return ["model"]
    front = [f"front-{index}" for index in range(len(model.tail.front))]
    return ["trunk", *front, *(f"tail-{index}" for index in range(len(model.tail.subnetworks)))]


def export_model(
    model: SharcsForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    output: Path,
    *,
    width: float | str | None = None,
    int8: bool = False,
    columns: Columns | None = None,
    on_graph: Callable[[int], None] | None = None,
) -> None:
    """Write a directory that :class:`sharcs_runtime.OnnxRunner` runs.

    Args:
        model: The routed network; it is copied, and left as it is.
        tokenizer: Its tokenizer.
        output: A directory that doesn't exist, or an empty one. It is written beside and renamed.
        width: Writes this width as one dense model, from tokens to logits; by default trunk and tails are written.
        int8: Whether ONNX Runtime quantises the graphs. What is promised of the policy was then tested with other
            numbers; ``sharcs calibrate`` on the export tests these.
        columns: The column names of the training data, for commands that read tables.
        on_graph: Called with 1 after each graph, for a progress bar.

    Raises:
        InputError: If the model has not one answer for each input, a package is missing, the network has no such
            width, its tokenizer is not of the ``tokenizers`` library, a graph doesn't compute what PyTorch does, or
            the directory can't be written.
    """
    require_one_answer(model.problem_type, "export")
    require_onnx()
    check_export_path(output)
    index = None if width is None else model.config.index_of(width)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise InputError("the tokenizer runs in Python only; export needs one of the tokenizers library")
    with staged(output) as staging:
        _write_graphs(_plain_copy(model), _inputs_of(tokenizer), staging, index, on_graph)
        _write_tokenizer(backend, tokenizer, staging, most_tokens(tokenizer, model.config.encoder))
        _write_description(model, tokenizer, staging, index, columns)
        if int8:
            quantise(staging)


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


def quantise(folder: Path) -> None:
    """Turn an exported network into int8, in its place.

    Args:
        folder: What :func:`export_model` wrote in single precision.
    """
    content = json.loads((folder / DESCRIPTION_FILE).read_text(encoding="utf-8"))
    graphs = [entry["graph"] for entry in (content["trunk"], *content["subnetworks"]) if entry is not None]
    for name in graphs:
        small = folder / f"int8-{name}"
        to_int8(folder / name, small)
        for old in folder.glob(f"{name}*"):  # weights of large graphs lie in a file of their own
            old.unlink()
        small.rename(folder / name)
    content["int8"] = True
    content["files"] = _files_in(folder)
    write_json(content, folder / DESCRIPTION_FILE)


def _files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != DESCRIPTION_FILE)


def _plain_copy(model: SharcsForSequenceClassification) -> SharcsForSequenceClassification:
    """Copy a network in the form that gives the best graphs."""
    copied = copy.deepcopy(model)
    # Training in mixed precision leaves a forward pass on the instance: in autocast, and of the model that is copied.
    for name in ("forward", "_original_forward"):
        copied.__dict__.pop(name, None)
    copied.to(device="cpu", dtype=torch.float32)  # type: ignore[call-arg]
    copied.train(False)
    # ONNX Runtime has no product for it, and what it is taken apart to is more than eager attention.
    if copied.encoder.config._attn_implementation != "eager":
        copied.set_attn_implementation("eager")
    copied.prepare_for_inference()
    return copied


def _inputs_of(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    return ["input_ids", *(["token_type_ids"] if "token_type_ids" in tokenizer.model_input_names else [])]


def _write_graphs(
    model: SharcsForSequenceClassification,
    inputs: list[str],
    folder: Path,
    index: int | None,
    on_graph: Callable[[int], None] | None,
) -> None:
    widths, front = list(model.config.keys), len(model.tail.front)
    example, *checked = [_tokens(model, inputs, *size) for size in (EXAMPLE, *CHECKED)]
    parts: list[Trunk | Tail | Dense | Front]
    if index is not None:
        parts = [Dense(model, widths[index])]
    else:
        parts = [Trunk(model), *(Front(model, number) for number in range(front))]
        parts += [Tail(model, width) for width in widths[front:]]
    for part, name in zip(parts, graph_names(model, None if index is None else widths[index]), strict=True):
        given = [example, *checked]
        if isinstance(part, Tail):
            given = [_continuing(model, tokens) for tokens in given]
        write_graph(part, given[0], folder / f"{name}.onnx")
        check_graph(part, given[1:], folder / f"{name}.onnx")
        if on_graph:
            on_graph(1)


def _tokens(model: SharcsForSequenceClassification, inputs: list[str], batch: int, tokens: int) -> dict[str, Tensor]:
    """Make up a batch whose rows are of different lengths, where it has more than one."""
    vocabulary = int(model.get_input_embeddings().num_embeddings)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    made = {"input_ids": torch.randint(0, vocabulary, (batch, tokens), generator=generator)}
    lengths = torch.arange(tokens, tokens - batch, -1).clamp(min=1)
    made["attention_mask"] = (torch.arange(tokens) < lengths[:, None]).long()
    padding = model.config.encoder.pad_token_id  # type: ignore[union-attr]
    made["input_ids"] = made["input_ids"].masked_fill(made["attention_mask"] == 0, padding or 0)
    if "token_type_ids" in inputs:
        made["token_type_ids"] = torch.zeros_like(made["input_ids"])
    return made


@torch.no_grad()
def _continuing(model: SharcsForSequenceClassification, tokens: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"hidden": model.run_trunk(**tokens).hidden, "attention_mask": tokens["attention_mask"]}


def _write_tokenizer(backend: Tokenizer, tokenizer: PreTrainedTokenizerBase, folder: Path, most: int) -> None:
    own = Tokenizer.from_str(backend.to_str())
    own.no_padding()
    own.enable_truncation(most, strategy="longest_first", direction=tokenizer.truncation_side)
    own.save(str(folder / TOKENIZER_FILE))


def _write_description(
    model: SharcsForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    index: int | None,
    columns: Columns | None,
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
        "format": FORMAT,
        "sharcs": metadata.version("sharcs"),
        "int8": False,
        "labels": [str(name) for name in names.values()],
        "label_type": config.label_type,
        "problem_type": config.problem_type,
        "policy": (config.routing_policy if index is None else RoutingPolicy()).to_dict(),
        # With what they were tested with. A dense model routes nothing.
        "promise": config.promise if index is None else None,
        "calibration": kept_of(config.calibration) if index is None else None,
        "columns": None if columns is None else asdict(columns),
        "max_length": most_tokens(tokenizer, config.encoder),
        "padding": {name: padding[name] for name in _inputs_of(tokenizer)},
        "trunk": {"graph": first[0]} if first else None,
        # Costs are c₀, c₁ and c₂ of c₀ + c₁·T + c₂·T² FLOPs for T tokens.
        "subnetworks": [
            {
                **spec.to_dict(),
                "graph": graph,
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
