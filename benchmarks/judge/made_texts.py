"""Texts made from train alone, for the teacher to answer: cropped, joined, with words dropped and swapped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from judge.data import tokenised

if TYPE_CHECKING:
    from numpy.random import Generator

    from judge.data import Rows

SHORTEST = 0.4  # of a crop, as a share of the words
CHANGED = 0.12  # share of words that are dropped, and of those that are swapped


def crop(words: list[str], generator: Generator) -> list[str]:
    """Keep a run of 40% to 100% of the words."""
    count = max(1, round(len(words) * generator.uniform(SHORTEST, 1)))
    start = int(generator.integers(0, len(words) - count + 1))
    return words[start : start + count]


def changed(words: list[str], generator: Generator) -> list[str]:
    """Drop 12% of the words, and swap 12% with their neighbours."""
    kept = [word for word in words if generator.random() >= CHANGED] or words[:1]
    for index in range(len(kept) - 1):
        if generator.random() < CHANGED:
            kept[index], kept[index + 1] = kept[index + 1], kept[index]
    return kept


def made_text(texts: list[str], row: int, way: int, generator: Generator) -> str:
    """Make a text from a row: 0 a crop, 1 two crops joined, else with words changed."""
    words = texts[row].split() or [texts[row]]
    if way == 0:
        return " ".join(crop(words, generator))
    if way == 1:
        other = texts[int(generator.integers(len(texts)))].split() or [""]
        return " ".join(crop(words, generator) + crop(other, generator))
    return " ".join(changed(words, generator))


def made_rows(rows: Rows, count: int, max_length: int, seed: int) -> Rows:
    """Make texts, or pairs of texts, a third each way; they have no labels.

    Of pairs, in place of joining, a second text comes from another row, which has nothing to do with the first.
    """
    generator = np.random.default_rng([seed, 1])
    texts, pairs = [], []
    for number in range(count):
        row = int(generator.integers(len(rows)))
        way = number % 3
        if rows.pairs is None:
            texts.append(made_text(rows.texts, row, way, generator))
            continue
        second = int(generator.integers(len(rows))) if way == 1 else row
        way = 2 if way == 1 else way
        texts.append(made_text(rows.texts, row, way, generator))
        pairs.append(made_text(rows.pairs, second, way, generator))
    labels = np.full(count, -1, np.int64)
    return tokenised(texts, None if rows.pairs is None else pairs, labels, max_length)
