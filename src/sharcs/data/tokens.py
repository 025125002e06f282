"""From checked texts to tokenised rows."""

from __future__ import annotations

import copy
import reprlib
import threading
import weakref
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from sharcs.data.labels import labels_in
from sharcs.encoders.architectures import position_count
from sharcs.errors import InputError
from sharcs_runtime.scores import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from sharcs_runtime.tokens import check_limit, shortened

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerBase

    from sharcs.data.texts import TextData

TOKENISER_BATCH = 1000
SAMPLE_WEIGHT = "sample_weight"  # a column of rows
NO_LIMIT = 2**31 - 1  # the most that the tokenizers library counts
_COPIES: weakref.WeakKeyDictionary[Any, dict[Any, tuple[Any, Any]]] = weakref.WeakKeyDictionary()
_LOCK = threading.Lock()


def tokenise(
    data: TextData,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    label2id: dict[str, int] | None = None,
) -> datasets.Dataset:
    """Tokenise texts, truncated but not padded, in memory.

    Args:
        data: The texts. Of a pair too long, tokens are taken from the longer text first.
        tokenizer: The encoder's tokenizer.
        max_length: The most tokens per row, special tokens included; the tokenizer's own limit applies as
            well.
        label2id: The number of each label, to make the column ``labels``.

    Returns:
        A row per text with what the tokenizer makes (``input_ids``, ``attention_mask`` and, for some
        tokenizers, ``token_type_ids``), ``sample_id`` (the text's index in ``data``, from 0), ``length`` (its
        number of tokens) and, with ``label2id``, ``labels``: class indices, or single-precision floats ``[labels]``;
        and ``sample_weight``, where rows have weights: they are 1 on average.

    Raises:
        InputError: If ``max_length`` leaves no room for text, or a label is not in ``label2id``.
    """
    # Here, because it takes seconds to import, and predicting needs only `encode`.
    import datasets

    limit = token_limit(tokenizer, max_length, with_pairs=data.pairs is not None)
    labels = None if label2id is None else label_column(data, label2id)
    chunks: dict[str, list[pa.Array]] = {}
    lengths: list[int] = []
    for start in range(0, len(data), TOKENISER_BATCH):
        batch = slice(start, start + TOKENISER_BATCH)
        encoded, _ = encode(tokenizer, data.texts[batch], None if data.pairs is None else data.pairs[batch], limit)
        for name, values in encoded.items():
            # Arrow arrays per batch: Python lists of a million rows' tokens would take gigabytes.
            chunks.setdefault(name, []).append(pa.array(values, pa.list_(pa.int32())))
        lengths.extend(len(ids) for ids in encoded["input_ids"])
    result: dict[str, Any] = {name: pa.chunked_array(arrays) for name, arrays in chunks.items()}
    result["sample_id"] = pa.array(range(len(data)), pa.int64())
    result["length"] = pa.array(lengths, pa.int64())
    if labels is not None:
        result["labels"] = labels
    if labels is not None and data.weights is not None:
        mean = sum(data.weights) / len(data)
        result[SAMPLE_WEIGHT] = pa.array([weight / mean for weight in data.weights], pa.float32())
    return datasets.Dataset(pa.table(result))


def most_tokens(tokenizer: PreTrainedTokenizerBase, encoder_config: Any) -> int:
    """Find the most tokens that an encoder takes: a tokenizer may know no limit, and say 10³⁰."""
    positions = position_count(encoder_config)
    return min(tokenizer.model_max_length, NO_LIMIT if positions is None else positions)


def token_limit(tokenizer: PreTrainedTokenizerBase, max_length: int, with_pairs: bool) -> int:
    """Find the most tokens that a row may have.

    Raises:
        InputError: If they leave no room for text.
    """
    limit = min(max_length, tokenizer.model_max_length, NO_LIMIT)
    check_limit(limit, tokenizer.num_special_tokens_to_add(pair=with_pairs), with_pairs)
    return limit


def encode(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], pairs: list[str] | None, limit: int
) -> tuple[dict[str, list[list[int]]], list[bool]]:
    """Tokenise some texts, truncated to ``limit`` tokens but not padded.

    Truncation is a state of a tokenizer, which others may set in other threads: so copies do the work, one for each
    setting.

    Returns:
        What the tokenizer makes, by the names of its outputs, and which texts were truncated.
    """
    measuring, cutting = _copies(tokenizer, limit)
    texts = [_shorten(text, measuring, limit) for text in texts]
    pairs = None if pairs is None else [_shorten(text, measuring, limit) for text in pairs]
    encoded = cutting(texts, pairs, truncation="longest_first", max_length=limit)
    if encoded.encodings is not None:
        return dict(encoded), [bool(row.overflowing) for row in encoded.encodings]
    # A tokenizer in Python, whose truncation is no state.
    cut = []
    for row, ids in enumerate(encoded["input_ids"]):
        pair = None if pairs is None else pairs[row]
        whole = cutting(texts[row], pair, truncation="longest_first", max_length=limit + 1)
        cut.append(len(ids) == limit < len(whole["input_ids"]))
    return dict(encoded), cut


def _copies(
    tokenizer: PreTrainedTokenizerBase, limit: int
) -> tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase]:
    """Copy a tokenizer for measuring long texts and for cutting all of them, once for each limit."""
    state = (limit, len(tokenizer), tokenizer.truncation_side)
    with _LOCK:
        known = _COPIES.setdefault(tokenizer, {})
        if state not in known:
            known.clear()  # its vocabulary or its limit has changed
            known[state] = (copy.deepcopy(tokenizer), copy.deepcopy(tokenizer))
        return known[state]


def label_column(data: TextData, label2id: dict[str, int]) -> pa.Array:
    """Write the labels of some texts as models read them.

    Returns:
        Class indices, int64; of sets of labels zeros and ones, of a regression numbers, float32 ``[labels]`` each.
    """
    values = label_ids(data, label2id)
    return pa.array(values, pa.int64() if data.problem_type == SINGLE_LABEL else pa.list_(pa.float32()))


def label_ids(data: TextData, label2id: dict[str, int]) -> list[Any]:
    """Number the labels of some texts.

    Returns:
        Class indices; of sets of labels zeros and ones ``[labels]``, and of a regression a number ``[1]``.

    Raises:
        InputError: If there are none, or one is not in ``label2id``.
    """
    if data.labels is None:
        raise InputError(f"{data.source}: the rows have no labels; name the column that has them with `label_column`")
    if data.problem_type == REGRESSION:
        return [[float(number)] for number in data.labels]
    if data.problem_type == MULTI_LABEL:
        sets = [labels_in(labels) for labels in data.labels]
        _check_known(data, sets, label2id)
        names = sorted(label2id, key=lambda name: label2id[name])
        return [[float(name in labels) for name in names] for labels in sets]
    _check_known(data, [[label] for label in data.labels], label2id)
    return [label2id[label] for label in data.labels]


def has_known_labels(data: TextData, label2id: dict[str, int]) -> bool:
    """Tell whether all rows have labels, and a model knows them."""
    try:
        label_ids(data, label2id)
    except InputError:
        return False
    return True


def _check_known(data: TextData, labels: list[list[str]], label2id: dict[str, int]) -> None:
    """Refuse labels that a model has not."""
    for index, names in enumerate(labels):
        for label in names:
            if label in label2id:
                continue
            known = ", ".join(reprlib.repr(name) for name in list(label2id)[:5])
            more = ", ..." if len(label2id) > 5 else ""
            raise InputError(
                f"{data.source}: row {data.row(index)}: the label {reprlib.repr(label)} is not a class of "
                f"the model, which has {known}{more}; correct it or drop the row"
            )


def _shorten(text: str, tokenizer: PreTrainedTokenizerBase, limit: int) -> str:
    """Cut a very long text, unless its end is kept; see :func:`sharcs_runtime.tokens.shortened`."""

    def count(beginning: str, most: int) -> int:
        return len(tokenizer(beginning, add_special_tokens=False, truncation=True, max_length=most)["input_ids"])

    return text if tokenizer.truncation_side != "right" else shortened(text, limit, count)
