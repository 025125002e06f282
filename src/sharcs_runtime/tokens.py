"""Texts as an engine is given them, cut to what is wanted of them, and their tokens, in little memory."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from sharcs_runtime.errors import InputError
from sharcs_runtime.pool import padded

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

    from sharcs_runtime.pool import Flags, Numbers

    Text = str | tuple[str, str]

# A text longer than this many characters per token that is wanted is cut before tokenising (see shortened).
CHARACTERS_PER_TOKEN = 50
# Tokens beyond the wanted ones that a cut text must still have: a cut may change the tokens next to it.
CUT_MARGIN_TOKENS = 16


class Tokens:
    """The tokens of a window, flat: a list of Python numbers for each input would take far more memory.

    Args:
        encoded: For each of the network's inputs, a list of numbers for each text.
        padding: What each of the inputs is padded with.
        cut: Whether a text has more tokens, which are left out; by default none has.

    Attributes:
        lengths: Tokens of each text, ``[texts]``.
        cut: Which texts have more, ``[texts]``.
    """

    def __init__(
        self, encoded: dict[str, list[list[int]]], padding: dict[str, int], cut: Sequence[bool] | None = None
    ) -> None:
        """Lay them out."""
        rows = encoded["input_ids"]
        self.lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        self.cut = np.zeros(len(rows), np.bool_) if cut is None else np.array(cut, np.bool_)
        self._starts = np.cumsum(self.lengths) - self.lengths
        total = int(self.lengths.sum())
        self._flat = {
            name: np.fromiter(chain.from_iterable(values), np.int64, total) for name, values in encoded.items()
        }
        self._padding = padding

    def batch(self, rows: Numbers) -> tuple[dict[str, Numbers], Flags]:
        """Pad some texts to the longest of them: the network's inputs ``[batch, tokens]``, and what of them is real.

        The attention mask is among the inputs.
        """
        positions, real = padded(self._starts[rows], self.lengths[rows])
        arrays = {name: np.where(real, flat[positions], self._padding[name]) for name, flat in self._flat.items()}
        arrays["attention_mask"] = real.astype(np.int64)
        return arrays, real


def checked_texts(texts: Iterable[Text]) -> Iterator[Text]:
    """Pass texts on, and stop at what is none.

    Raises:
        InputError: If they are one text and no series, or none; or, at its turn, if one is no string and no pair of
            strings, or a pair among single texts. The message counts from 1.
    """
    if isinstance(texts, str | bytes | bytearray):
        raise InputError("texts: is one text, whose letters would be answered one by one; give a list")
    try:
        source = iter(texts)
    except TypeError as error:
        raise InputError(f"texts: is a {type(texts).__name__}; give a list of texts") from error
    return _each_checked(source)


def _each_checked(texts: Iterator[Text]) -> Iterator[Text]:
    wanted = 0
    for number, text in enumerate(texts, 1):
        parts = text if isinstance(text, tuple) else (text,)
        if not all(isinstance(part, str) for part in parts) or len(parts) not in (1, 2):
            raise InputError(f"texts: number {number} is a {type(text).__name__}; give strings, or tuples of two")
        wanted = wanted or len(parts)
        if len(parts) != wanted:
            kind = "a pair of texts" if len(parts) == 2 else "one text"
            raise InputError(f"texts: number {number} is {kind}, unlike number 1; give all alike")
        yield text


def distinct(keys: Sequence[Hashable]) -> Numbers:
    """Number what there is, in order of appearance, and say which of it each key is, ``[keys]``."""
    position: dict[Hashable, int] = {}
    return np.fromiter((position.setdefault(key, len(position)) for key in keys), np.int64, len(keys))


def first_of_each(of: Numbers) -> list[int]:
    """Say where each number of :func:`distinct` stands first."""
    return np.unique(of, return_index=True)[1].tolist()  # type: ignore[no-any-return]


def check_limit(limit: int, special: int, with_pairs: bool) -> None:
    """Check that special tokens leave room for text, or for two of them.

    Args:
        limit: The most tokens that an input may have.
        special: How many of them are special.
        with_pairs: Whether an input has two texts.

    Raises:
        InputError: If they leave none.
    """
    needed = special + (2 if with_pairs else 1)
    if limit < needed:
        raise InputError(f"max_length is {limit}, of which special tokens take {special}; give at least {needed}")


def shortened(text: str, limit: int, count: Callable[[str, int], int]) -> str:
    """Cut a very long text to a beginning that has all the tokens which truncation would keep.

    A tokenizer goes through the whole text before it truncates: 20 s for 10 MB. How many characters a token
    takes is not bounded (blanks take none, an over-long word is one unknown token), so the beginning grows
    until it has more tokens than are wanted. It ends at a blank where there is one, so that its last word is
    the text's too.

    Args:
        text: The text.
        limit: Tokens that are kept of it.
        count: Counts a beginning's tokens without special ones, at most as many as its second argument.
    """
    wanted = limit + CUT_MARGIN_TOKENS
    size = CHARACTERS_PER_TOKEN * wanted
    while len(text) > size:
        blank = text.rfind(" ", size // 2, size)
        beginning = text[: blank if blank > 0 else size]
        if count(beginning, wanted) >= wanted:
            return beginning
        size *= 8
    return text
