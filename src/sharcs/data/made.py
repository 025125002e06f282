"""Texts made from training rows, for the full network to answer: cropped, joined, with words dropped and swapped.

Small networks lack texts more than labels (Turc et al., arXiv 1908.08962), and where nobody has any, these help. They
are made of tokens, so they need no tokenizer, but the knowledge which tokens are special and which go on a word.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.random import Generator
    from transformers import PreTrainedTokenizerBase

    Words = list[list[int]]  # the tokens of each word

SHORTEST = 0.4  # of a crop, as a share of the words
CHANGED = 0.12  # share of words that are dropped, and of those that are swapped
CONTINUING, BEGINNING = ("##",), ("Ġ", "▁")  # what marks tokens that go on a word, or begin one
WAYS = 3  # cropped, joined, changed


class TextMaker:
    """Makes rows like those of training, a third each way.

    Of pairs, in place of joining, a second text comes from another row, which has nothing to do with the first.

    Args:
        rows: A map-style data set of tokenised texts.
        tokenizer: By which they were made.
    """

    def __init__(self, rows: Any, tokenizer: PreTrainedTokenizerBase) -> None:
        self.rows = rows
        self.special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
        self.continues = _continuing(tokenizer)
        self.longest = 0
        self.texts: list[list[Words]] = []
        for row in rows:
            self.longest = max(self.longest, len(row["input_ids"]))
            self.texts.append([self._words(run) for run in _runs(row["input_ids"], self.special)])

    def rows_made(self, count: int, seed: int) -> list[dict[str, Any]]:
        """Make rows without labels, the same ones for the same seed.

        Args:
            count: How many.
            seed: Draws them.
        """
        generator = np.random.default_rng([seed, 1])
        usable = [number for number, texts in enumerate(self.texts) if texts]
        return [self._made(usable, way % WAYS, generator) for way in range(count)] if usable else []

    def _words(self, tokens: list[int]) -> Words:
        words: Words = []
        for token in tokens:
            if words and self.continues[token]:
                words[-1].append(token)
            else:
                words.append([token])
        return words

    def _made(self, usable: list[int], way: int, generator: Generator) -> dict[str, Any]:
        number = usable[int(generator.integers(len(usable)))]
        texts = self.texts[number]
        other = self.texts[usable[int(generator.integers(len(usable)))]]
        if len(texts) == 1:
            made = [_one(texts[0], other[0], way, generator)]
        else:
            second = other if way == 1 and len(other) == len(texts) else texts
            changed = 0 if way == 0 else WAYS - 1
            made = [_one(part, part, changed, generator) for part in (*texts[:1], *second[1:])]
        return self._row(self.rows[number], made)

    def _row(self, like: Mapping[str, Any], texts: list[Words]) -> dict[str, Any]:
        """Put texts in the place of a row's own, between its special tokens, no longer than the longest row."""
        ids, types = list(like["input_ids"]), list(like.get("token_type_ids", ()))
        special = sum(token in self.special for token in ids)
        flat = _cut([[token for word in words for token in word] for words in texts], self.longest - special)
        row: dict[str, Any] = {"input_ids": [], "token_type_ids": []}
        waiting = iter(flat)
        position = 0
        for is_special, group in groupby(ids, key=self.special.__contains__):
            count = len(list(group))
            new = ids[position : position + count] if is_special else next(waiting)
            row["input_ids"] += new
            if types and is_special:
                row["token_type_ids"] += types[position : position + count]
            elif types:
                row["token_type_ids"] += [types[position]] * len(new)
            position += count
        if not types:
            del row["token_type_ids"]
        return {**row, "attention_mask": [1] * len(row["input_ids"])}


def _runs(ids: list[int], special: set[int]) -> list[list[int]]:
    """Divide a row into its texts, which stand between special tokens."""
    return [list(group) for is_special, group in groupby(ids, key=special.__contains__) if not is_special]


def _continuing(tokenizer: PreTrainedTokenizerBase) -> NDArray[np.bool_]:
    """Tell which tokens go on a word: ``[vocabulary]``. Where the vocabulary doesn't say, every token is a word."""
    names = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    begins = np.array([str(name).startswith(BEGINNING) for name in names])
    if begins.any():
        return ~begins
    return np.array([str(name).startswith(CONTINUING) for name in names])


def _one(words: Words, other: Words, way: int, generator: Generator) -> Words:
    """Make a text of one or two: 0 a crop, 1 two crops joined, 2 with words dropped and swapped."""
    if way == 0:
        return _crop(words, generator)
    if way == 1:
        return _crop(words, generator) + _crop(other, generator)
    return _changed(words, generator)


def _crop(words: Words, generator: Generator) -> Words:
    count = max(1, round(len(words) * generator.uniform(SHORTEST, 1)))
    start = int(generator.integers(0, len(words) - count + 1))
    return words[start : start + count]


def _changed(words: Words, generator: Generator) -> Words:
    kept = [word for word in words if generator.random() >= CHANGED] or words[:1]
    for index in range(len(kept) - 1):
        if generator.random() < CHANGED:
            kept[index], kept[index + 1] = kept[index + 1], kept[index]
    return kept


def _cut(texts: list[list[int]], room: int) -> list[list[int]]:
    """Take tokens from the end of the longer text until all have room."""
    lengths = [len(text) for text in texts]
    while sum(lengths) > room and max(lengths) > 1:
        lengths[int(np.argmax(lengths))] -= 1
    return [text[:length] for text, length in zip(texts, lengths, strict=True)]
