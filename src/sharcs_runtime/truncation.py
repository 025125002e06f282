"""What has to be right before a tokenizer sees a text: room for it, and no more of it than is wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sharcs_runtime.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

# A text longer than this many characters per token that is wanted is cut before tokenising (see shortened).
CHARACTERS_PER_TOKEN = 50
# Tokens beyond the wanted ones that a cut text must still have: a cut may change the tokens next to it.
CUT_MARGIN_TOKENS = 16


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
