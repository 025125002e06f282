"""One sub-network as optimum and text-embeddings-inference read it: a graph beside a Hugging Face configuration.

Where what they read is not written down, it is taken from their code: optimum-onnx 0.1.0
(``optimum/onnxruntime/modeling.py``) and text-embeddings-inference 1.9 (``backends/ort/src/lib.rs``,
``router/src/lib.rs``).
"""

from __future__ import annotations

import json
from importlib import metadata
from typing import TYPE_CHECKING, Any

from sharcs.data.tokens import most_tokens
from sharcs.errors import InputError
from sharcs.export.bundle import check_exportable, staged
from sharcs.export.graphs import inputs_of, plain_copy, write_graphs
from sharcs.export.int8 import quantise_graph
from sharcs.export.plain import plain_settings
from sharcs.export.tokenizer import write_settings, write_tokenizer
from sharcs.files import write_json
from sharcs_runtime.bundle import numbers_of
from sharcs_runtime.scores import MULTI_LABEL, REGRESSION
from sharcs_runtime.sessions import open_session

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

    from sharcs.model.text import SharcsForSequenceClassification

GRAPH_FILE = "model.onnx"
WEIGHTS_FILE = "model.onnx_data"  # of a graph that is too large for one file
CONFIG_FILE = "config.json"
LENGTH_FILE = "sentence_bert_config.json"  # from which text-embeddings-inference takes the length of the training
# What text-embeddings-inference asks of every configuration, and the other name that it knows each by.
SIZES = {"hidden_size": "n_embd", "num_hidden_layers": "n_layer", "max_position_embeddings": "max_trained_positions"}


def export_optimum(
    model: SharcsForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    output: Path,
    width: float | str,
    *,
    int8: bool = False,
    int8_embeddings: bool = False,
    on_graph: Callable[[int], None] | None = None,
) -> None:
    """Write a sub-network for ``ORTModelForSequenceClassification`` of optimum, and for text-embeddings-inference.

    Its ``config.json`` is that of the encoder's family, by which these find class names and tokenizer. The sizes in
    it are the full network's, whichever sub-network the graph holds.

    Args:
        model: The routed network; it is copied, and left as it is.
        tokenizer: Its tokenizer.
        output: A directory that doesn't exist, or an empty one. It is written beside and renamed.
        width: Of the sub-network, or its name.
        int8: Whether ONNX Runtime quantises the graph.
        int8_embeddings: Whether the tables of embeddings are stored in int8, too. It goes on from ``int8``.
        on_graph: Called with 1 after the graph, for a progress bar.

    Raises:
        InputError: If the model has not one answer for each input, the options don't go together, a package is
            missing, the network has no such width, its tokenizer is not of the ``tokenizers`` library, the graph
            doesn't compute what PyTorch does, or the directory can't be written.
    """
    check_exportable(model, tokenizer, output, int8=int8, int8_embeddings=int8_embeddings)
    index = model.config.index_of(width)
    inputs = inputs_of(tokenizer)
    most = most_tokens(tokenizer, model.config.encoder)
    with staged(output) as folder:
        write_graphs(plain_copy(model), inputs, folder, index, on_graph)
        _check_inputs(folder / GRAPH_FILE)
        if int8:
            quantise_graph(folder / GRAPH_FILE, int8_embeddings)
        _rename_weights(folder)
        write_tokenizer(tokenizer, folder, most)
        write_settings(tokenizer, ["input_ids", "attention_mask", *inputs[1:]], folder, most)
        write_json({"max_seq_length": most}, folder / LENGTH_FILE)
        content = _config_of(model, most)
        content["sharcs"] = {
            "version": metadata.version("sharcs"),
            "sub_network": model.config.names[index],
            "numbers": numbers_of(int8, int8_embeddings),
        }
        write_json(content, folder / CONFIG_FILE)


def note_for(problem_type: str | None) -> str | None:
    """Say in one line what a reader makes of the answers that is not what they are, if it is so."""
    if problem_type == MULTI_LABEL:
        return (
            "text-embeddings-inference makes the scores of a text add up to 1, and this model answers with sets; "
            "ask it for raw_scores, and take the sigmoid of each"
        )
    if problem_type == REGRESSION:
        return (
            "text-embeddings-inference takes a model of one number for one that ranks pairs; optimum gives the number"
        )
    return None


def _config_of(model: SharcsForSequenceClassification, most: int) -> dict[str, Any]:
    """Describe the encoder as its family's own configuration does, with what the readers ask for by other names."""
    settings = plain_settings(model)
    settings.problem_type = model.problem_type  # which a configuration may leave open
    settings.architectures = [type(model.encoder).__name__]
    settings.dtype = "float32"
    content: dict[str, Any] = json.loads(settings.to_json_string(use_diff=False))
    content.pop("_name_or_path", None)
    for name, other in SIZES.items():
        if content.get(name) is None and content.get(other) is None:
            content[name] = getattr(settings, name, None) or most
    return content


def _check_inputs(file: Path) -> None:
    """Refuse a graph that doesn't take what text-embeddings-inference gives every graph.

    Raises:
        InputError: If it doesn't.
    """
    lacking = {"input_ids", "attention_mask"} - {*open_session(file).inputs}
    if lacking:
        raise InputError(
            f"`format` optimum: the graph of this sub-network takes no {' and no '.join(sorted(lacking))}, which "
            "text-embeddings-inference gives to each; leave `format` out"
        )


def _rename_weights(folder: Path) -> None:
    """Name the weights of a graph that is too large for one file as the readers do, who fetch them by name."""
    import onnx

    written = [file for file in folder.glob(f"{GRAPH_FILE}*") if file.name != GRAPH_FILE]
    if not written:
        return
    content = onnx.load(folder / GRAPH_FILE, load_external_data=False)
    for weight in content.graph.initializer:
        for entry in weight.external_data:
            if entry.key == "location":
                entry.value = WEIGHTS_FILE
    onnx.save(content, folder / GRAPH_FILE)
    written[0].rename(folder / WEIGHTS_FILE)
