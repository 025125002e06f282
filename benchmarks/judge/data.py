"""The data sets of the comparison: train, held-out and test rows, the same tokens for every method."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common import DATA, tokenizer
from sharcs.data.sampling import sampled_rows
from sharcs.data.texts import TextData, load_texts

if TYPE_CHECKING:
    from collections.abc import Callable

HELD_OUT = 0.1
T = TypeVar("T")


@dataclass(frozen=True)
class Source:
    """Where a set's rows come from.

    Attributes:
        train: What ``load_texts`` reads.
        test: The same for what is reported.
        held_out: The same for the rows that settings are chosen on; None for a tenth of train.
        train_rows: How many of train are drawn, each class by its share; None for all.
        test_rows: The same of test.
        max_length: Tokens that are read.
    """

    train: str
    test: str
    held_out: str | None = None
    train_rows: int | None = None
    test_rows: int | None = None
    max_length: int = 128


def _shared(name: str, *, train_rows: int | None = None, has_test: bool = True) -> Source:
    parts = {part: str(DATA / name / f"{part}.csv.gz") for part in ("train", "validation", "test")}
    if not has_test:
        return Source(parts["train"], parts["validation"], None, train_rows)
    return Source(parts["train"], parts["test"], parts["validation"], train_rows)


SETS = {
    "sst2": _shared("sst2", train_rows=8000),
    "sick": _shared("sick"),
    "banking77": _shared("banking77"),
    "cola": _shared("cola", has_test=False),
    "agnews": _shared("agnews", train_rows=5000),
    "mrpc": _shared("mrpc"),
    "r52": Source("reuters-r52:train", "reuters-r52:test", train_rows=4000, max_length=96),
    "20news": Source("20newsgroups:train", "20newsgroups:test", train_rows=4000, test_rows=3000, max_length=96),
}
"""The sets that means are taken over; of cola the validation rows are reported, since its test labels are secret."""

APPENDIX = {"rte": _shared("rte", has_test=False)}
"""At chance with this encoder: reported beside the others, in no mean."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Some rows of a set.

    Attributes:
        texts: What the tokens stand for, cut where the tokens are.
        pairs: The same of second texts, or None.
        ids: Token ids of each row.
        types: Token types of each row.
        labels: Class numbers, int64 ``[rows]``; −1 where a row has none.
        whole_texts: The texts uncut, joined for pairs.
    """

    texts: list[str]
    pairs: list[str] | None
    ids: list[list[int]]
    types: list[list[int]]
    labels: NDArray[np.int64]
    whole_texts: list[str]

    @classmethod
    def of_tokens(cls, made: list[dict[str, Any]]) -> Rows:
        """Take rows that were made of tokens; they have no labels, and texts of theirs are not known."""
        nothing = [""] * len(made)
        ids = [row["input_ids"] for row in made]
        types = [row.get("token_type_ids") or [0] * len(row["input_ids"]) for row in made]
        return cls(nothing, nothing, ids, types, np.full(len(made), -1, np.int64), nothing)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.ids)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, ``[rows]``."""
        return np.array([len(row) for row in self.ids], np.int64)

    def take(self, indices: Any) -> Rows:
        """Keep some rows."""
        lists = {
            name: [getattr(self, name)[i] for i in indices]
            for name in ("texts", "pairs", "ids", "types", "whole_texts")
            if getattr(self, name) is not None
        }
        return replace(self, **lists, labels=self.labels[np.asarray(indices, np.int64)])

    def joined(self, other: Rows) -> Rows:
        """Put other rows behind these."""
        pairs = None if self.pairs is None or other.pairs is None else self.pairs + other.pairs
        return Rows(
            self.texts + other.texts,
            pairs,
            self.ids + other.ids,
            self.types + other.types,
            np.concatenate([self.labels, other.labels]),
            self.whole_texts + other.whole_texts,
        )

    def batch(self, indices: Any) -> dict[str, Tensor]:
        """Pad some rows to the longest of them: ``input_ids, token_type_ids, attention_mask [batch, tokens]``."""
        longest = max(len(self.ids[i]) for i in indices)
        inputs = {name: torch.zeros(len(indices), longest, dtype=torch.long) for name in ("ids", "types", "mask")}
        for row, i in enumerate(indices):
            count = len(self.ids[i])
            inputs["ids"][row, :count] = torch.tensor(self.ids[i])
            inputs["types"][row, :count] = torch.tensor(self.types[i])
            inputs["mask"][row, :count] = 1
        return {"input_ids": inputs["ids"], "token_type_ids": inputs["types"], "attention_mask": inputs["mask"]}


@dataclass(frozen=True, eq=False)
class Parts:
    """A set in its three parts; ``settings.Study`` alone hands out the third.

    Attributes:
        train: What methods are trained on.
        held_out: What settings are chosen on, and when to stop.
        test: What is reported.
        classes: Names of the classes.
    """

    train: Rows
    held_out: Rows
    test: Rows
    classes: list[str]

    def measured(self, answer: Callable[[Rows], T]) -> dict[str, T]:
        """Answer held-out and test rows."""
        return {"held_out": answer(self.held_out), "test": answer(self.test)}


def tokenised(texts: list[str], pairs: list[str] | None, labels: NDArray[np.int64], max_length: int) -> Rows:
    """Tokenise texts, or pairs of them, and cut the texts where the tokens end."""
    if not texts:
        return Rows([], None if pairs is None else [], [], [], labels, [])
    encoded = tokenizer()(
        texts, pairs, truncation="longest_first", max_length=max_length, return_offsets_mapping=True
    )
    cut: list[list[str]] = []
    for which, whole in enumerate((texts, pairs)):
        if whole is None:
            continue
        ends = [
            max((end for (_, end), part in zip(offsets, encoded.sequence_ids(row), strict=True) if part == which),
                default=0)
            for row, offsets in enumerate(encoded["offset_mapping"])
        ]  # fmt: skip
        cut.append([text[:end] for text, end in zip(whole, ends, strict=True)])
    whole_texts = texts if pairs is None else [f"{a} {b}" for a, b in zip(texts, pairs, strict=True)]
    types = encoded.get("token_type_ids") or [[0] * len(ids) for ids in encoded["input_ids"]]
    return Rows(cut[0], None if pairs is None else cut[1], encoded["input_ids"], types, labels, whole_texts)


@functools.cache
def load(name: str) -> Parts:
    """Read a set. Its rows and their order are the same whatever the seed of a training."""
    source = (SETS | APPENDIX)[name]
    train = load_texts(source.train, max_samples=source.train_rows, seed=0)
    test = load_texts(source.test, max_samples=source.test_rows, seed=0)
    classes = sorted(set(train.labels or ()))

    def rows_of(data: TextData) -> Rows:
        labels = np.array([classes.index(label) for label in data.labels or ()], np.int64)
        return tokenised(data.texts, data.pairs, labels, source.max_length)

    kept = rows_of(train)
    if source.held_out is not None:
        return Parts(kept, rows_of(load_texts(source.held_out)), rows_of(test), classes)
    held = sampled_rows(train.labels or [], round(HELD_OUT * len(train)), seed=0)
    rest = sorted(set(range(len(train))) - set(held))
    return Parts(kept.take(rest), kept.take(held), rows_of(test), classes)
