"""The graphs of an export: the parts of a routed network, each written and checked on made-up batches."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch

from sharcs.export.onnx import Dense, Front, Tail, Trunk, check_graph, write_graph
from sharcs.export.openvino import runtime_of
from sharcs_runtime.sessions import ONNX_RUNTIME

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from sharcs.model.text import SharcsForSequenceClassification

EXAMPLE = (3, 7)  # inputs and tokens that a graph is traced with
CHECKED = ((1, 2), (2, 9), (5, 4))


def graph_names(model: SharcsForSequenceClassification, width: float | str | None = None) -> list[str]:
    """Name the graphs that an export writes, in their order."""
    if width is not None:
        return ["model"]
    front = [f"front-{index}" for index in range(len(model.tail.front))]
    return ["trunk", *front, *(f"tail-{index}" for index in range(len(model.tail.subnetworks)))]


def plain_copy(model: SharcsForSequenceClassification) -> SharcsForSequenceClassification:
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


def inputs_of(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Name what the graphs read of a tokenizer, beside the attention mask."""
    return ["input_ids", *(["token_type_ids"] if "token_type_ids" in tokenizer.model_input_names else [])]


def write_graphs(
    model: SharcsForSequenceClassification,
    inputs: list[str],
    folder: Path,
    index: int | None,
    on_graph: Callable[[int], None] | None,
    runtime: str = ONNX_RUNTIME,
) -> None:
    """Write and check the graphs of a network.

    Args:
        model: What :func:`plain_copy` made.
        inputs: What :func:`inputs_of` named.
        folder: Where they go.
        index: Of the one sub-network that is written, as a dense model; None for trunk and all sub-networks.
        on_graph: Called with 1 after each graph.
        runtime: What will run those graphs that it suits.

    Raises:
        InputError: If a graph doesn't compute what PyTorch does, on ONNX Runtime or on what will run it.
    """
    widths, front = list(model.config.keys), len(model.tail.front)
    example, *checked = [_tokens(model, inputs, *size) for size in (EXAMPLE, *CHECKED)]
    parts: list[Trunk | Tail | Dense | Front]
    runtimes = [runtime_of(spec, runtime) for spec in model.config.specs]
    if index is not None:
        parts, runtimes = [Dense(model, widths[index])], [runtimes[index]]
    else:
        parts = [Trunk(model), *(Front(model, number) for number in range(front))]
        parts += [Tail(model, width) for width in widths[front:]]
        runtimes = [runtime, *runtimes]
    names = graph_names(model, None if index is None else widths[index])
    for part, name, which in zip(parts, names, runtimes, strict=True):
        given = [example, *checked]
        if isinstance(part, Tail):
            given = [_continuing(model, tokens) for tokens in given]
        write_graph(part, given[0], folder / f"{name}.onnx")
        for each in sorted({ONNX_RUNTIME, which}):
            check_graph(part, given[1:], folder / f"{name}.onnx", each)
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
