"""From a table to checked texts and labels, and from those to tokenised rows."""

from __future__ import annotations

import hashlib
import math
import re
import reprlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import datasets
import pyarrow as pa
from sklearn.model_selection import train_test_split

from sharcs.data.columns import Columns, checked_texts, find_column, is_string, pair_column
from sharcs.data.tables import read_table
from sharcs.errors import InputError
from sharcs_runtime.truncation import check_limit, shortened

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedTokenizerBase

__all__ = [
    "Columns",
    "TextData",
    "encode",
    "fingerprint",
    "label_names",
    "load_texts",
    "model_inputs",
    "token_limit",
    "tokenise",
]

TOKENISER_BATCH = 1000
# What tokenizers, image processors and feature extractors make.
MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "pixel_values", "input_values")


@dataclass(frozen=True, slots=True)
class TextData:
    """Checked texts, with the table that they come from.

    Attributes:
        table: The source's rows with all of its columns, row for row those of ``texts``.
        texts: The texts; none is empty.
        pairs: The second texts, or None if the task has one text per row.
        labels: The classes as strings, or None if they are not known.
        source: Where the table is from, for messages.
        rows: The 1-based row of each text in the source if only some rows were taken, else None.
    """

    table: pa.Table
    texts: list[str]
    pairs: list[str] | None
    labels: list[str] | None
    source: str
    rows: list[int] | None = None

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.texts)

    def row(self, index: int) -> int:
        """Return the 1-based row in the source of the text at ``index``."""
        return index + 1 if self.rows is None else self.rows[index]


def load_texts(
    source: str,
    columns: Columns = Columns(),  # noqa: B008  # it is frozen
    *,
    labelled: bool = True,
    max_samples: int | None = None,
    seed: int = 0,
) -> TextData:
    """Read texts and labels, and check every row.

    Args:
        source: What ``read_table`` takes: a file, a built-in data set or one of the hub.
        columns: The names of the columns to use.
        labelled: Whether every row must have a label. If not, labels are taken if all rows have a valid one.
        max_samples: Take at most this many rows, at random, in their order in the source: the same share of
            each class where the classes' sizes allow it.
        seed: The seed of that random choice.

    Returns:
        The texts. Labels that are integers, booleans or whole floats are given as strings; class numbers of
        ``datasets`` as the names of the classes.

    Raises:
        InputError: If the source cannot be read, a column is missing or of the wrong type, or a row has no
            text or no label.
    """
    if max_samples is not None and max_samples < 1:
        raise InputError(f"max_samples is {max_samples}; it must be at least 1")
    table = read_table(source)
    texts = checked_texts(table, columns.text, "text", source)
    pair = pair_column(table.schema, columns)
    pairs = None if pair is None else checked_texts(table, pair, "text pair", source)
    labels: list[str] | None = None
    try:
        labels = _labels(table, columns.label, source)
    except InputError:
        if labelled:
            raise
    data = TextData(table, texts, pairs, labels, source)
    return data if max_samples is None or max_samples >= len(data) else _sample(data, max_samples, seed)


def label_names(data: TextData) -> list[str]:
    """List the classes of labelled texts.

    Args:
        data: Texts with labels.

    Returns:
        The labels, each once, sorted; in the order of numbers if all of them are integers.

    Raises:
        InputError: If there are no labels, or all rows have the same.
    """
    if data.labels is None:
        raise InputError(f"{data.source}: the rows have no labels; name the column that has them with `label_column`")
    names = set(data.labels)
    if len(names) < 2:
        raise InputError(
            f"{data.source}: one class only ({reprlib.repr(data.labels[0])} in all {len(data)} rows); "
            "give rows of at least two classes"
        )
    if all(re.fullmatch(r"-?[0-9]{1,18}", name) for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def fingerprint(*columns: list[str] | None) -> str:
    """SHA-256 of columns of strings, one after the other; a missing one has no rows."""
    digest = hashlib.sha256()
    for values in columns:
        for value in values or []:
            digest.update(value.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()


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
        number of tokens) and, with ``label2id``, ``labels``.

    Raises:
        InputError: If ``max_length`` leaves no room for text, or a label is not in ``label2id``.
    """
    limit = token_limit(tokenizer, max_length, with_pairs=data.pairs is not None)
    labels = None if label2id is None else _label_ids(data, label2id)
    chunks: dict[str, list[pa.Array]] = {}
    lengths: list[int] = []
    for start in range(0, len(data), TOKENISER_BATCH):
        batch = slice(start, start + TOKENISER_BATCH)
        encoded = encode(tokenizer, data.texts[batch], None if data.pairs is None else data.pairs[batch], limit)
        for name, values in encoded.items():
            # Arrow arrays per batch: Python lists of a million rows' tokens would take gigabytes.
            chunks.setdefault(name, []).append(pa.array(values, pa.list_(pa.int32())))
        lengths.extend(len(ids) for ids in encoded["input_ids"])
    result: dict[str, Any] = {name: pa.chunked_array(arrays) for name, arrays in chunks.items()}
    result["sample_id"] = pa.array(range(len(data)), pa.int64())
    result["length"] = pa.array(lengths, pa.int64())
    if labels is not None:
        result["labels"] = pa.array(labels, pa.int64())
    return datasets.Dataset(pa.table(result))


def token_limit(tokenizer: PreTrainedTokenizerBase, max_length: int, with_pairs: bool) -> int:
    """Find the most tokens that a row may have.

    Raises:
        InputError: If they leave no room for text.
    """
    limit = min(max_length, tokenizer.model_max_length)
    check_limit(limit, tokenizer.num_special_tokens_to_add(pair=with_pairs), with_pairs)
    return limit


def model_inputs(row: Mapping[str, Any]) -> dict[str, Any]:
    """Take of a row what a tokenizer or another processor makes and a model reads, without labels and lengths."""
    return {name: row[name] for name in MODEL_INPUTS if name in row}


def encode(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], pairs: list[str] | None, limit: int
) -> dict[str, list[list[int]]]:
    """Tokenise some texts, truncated to ``limit`` tokens but not padded; in what the tokenizer calls its outputs."""
    texts = [_shorten(text, tokenizer, limit) for text in texts]
    pairs = None if pairs is None else [_shorten(text, tokenizer, limit) for text in pairs]
    return dict(tokenizer(texts, pairs, truncation="longest_first", max_length=limit))


def _labels(table: pa.Table, name: str, source: str) -> list[str]:
    column = find_column(table, name, "label", source)
    kind = column.type
    values: list[Any] = column.to_pylist()
    if pa.types.is_integer(kind):
        classes = _class_names(table, name)
        if classes is not None:
            # -1 is how `datasets` says that a label is withheld.
            values = [None if v is None or not 0 <= v < len(classes) else classes[v] for v in values]
    elif pa.types.is_floating(kind):
        # Whole numbers become floats in tools that have no missing integers.
        for row, value in enumerate(values, start=1):
            if value is not None and not math.isnan(value) and not float(value).is_integer():
                raise InputError(
                    f"{source}: row {row}: the label {value} (column {name!r}) is not a class; "
                    "regression is not supported here"
                )
        values = [None if value is None or math.isnan(value) else int(value) for value in values]
    elif not (is_string(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind)):
        raise InputError(
            f"{source}: the label column {name!r} holds {kind}; labels must be strings, integers or booleans"
        )
    labels = ["" if value is None else str(value) for value in values]
    for row, label in enumerate(labels, start=1):
        if not label.strip():
            raise InputError(
                f"{source}: row {row}: the label is missing (column {name!r}); fill it in or drop the row"
            )
    return labels


def _class_names(table: pa.Table, name: str) -> list[str] | None:
    """Return the classes' names that `datasets` left in the schema's metadata, if it did."""
    schema = pa.schema([table.schema.field(name)], metadata=table.schema.metadata)
    if b"huggingface" not in (schema.metadata or {}):
        return None
    feature = datasets.Features.from_arrow_schema(schema)[name]
    return list(feature.names) if isinstance(feature, datasets.ClassLabel) else None


def _sample(data: TextData, count: int, seed: int) -> TextData:
    """Take ``count`` rows at random, stratified by label where that is possible."""
    indices = list(range(len(data)))
    strata = None
    if data.labels is not None:
        numbers: dict[str, int] = {}
        strata = [numbers.setdefault(label, len(numbers)) for label in data.labels]
    try:
        chosen, _ = train_test_split(indices, train_size=count, random_state=seed, stratify=strata)
    except ValueError:
        # A class has one row, or there are more classes than rows on one side of the split.
        chosen, _ = train_test_split(indices, train_size=count, random_state=seed)
    chosen = sorted(chosen)
    return TextData(
        table=data.table.take(chosen),
        texts=[data.texts[i] for i in chosen],
        pairs=None if data.pairs is None else [data.pairs[i] for i in chosen],
        labels=None if data.labels is None else [data.labels[i] for i in chosen],
        source=data.source,
        rows=[i + 1 for i in chosen],
    )


def _label_ids(data: TextData, label2id: dict[str, int]) -> list[int]:
    if data.labels is None:
        raise InputError(f"{data.source}: the rows have no labels; name the column that has them with `label_column`")
    for index, label in enumerate(data.labels):
        if label not in label2id:
            known = ", ".join(reprlib.repr(name) for name in list(label2id)[:5])
            more = ", ..." if len(label2id) > 5 else ""
            raise InputError(
                f"{data.source}: row {data.row(index)}: the label {reprlib.repr(label)} is not a class of "
                f"the model, which has {known}{more}; correct it or drop the row"
            )
    return [label2id[label] for label in data.labels]


def _shorten(text: str, tokenizer: PreTrainedTokenizerBase, limit: int) -> str:
    """Cut a very long text, unless its end is kept; see :func:`sharcs_runtime.truncation.shortened`."""

    def count(beginning: str, most: int) -> int:
        return len(tokenizer(beginning, add_special_tokens=False, truncation=True, max_length=most)["input_ids"])

    return text if tokenizer.truncation_side != "right" else shortened(text, limit, count)
