"""How text files are written: their encoding, what separates the fields of CSV and TSV, and what a quote is there."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from typing import Any

from sharcs.errors import InputError

DELIMITERS = {".csv": ",", ".tsv": "\t"}
SPELLED_TAB = "\\t"  # as shells hand it over
# Of numbers, which stand without quotes, and what ends a line or is taken for a byte-order mark.
NO_DELIMITERS = '+-._"\r\n\0\ufeff'


@dataclass(frozen=True, slots=True)
class Dialect:
    r"""How text files are read, and CSV and TSV files written.

    Attributes:
        encoding: Of text files that are read, by a name that Python knows. None stands for UTF-8 or, with a
            byte-order mark, UTF-16; it is never guessed. Files are written in UTF-8.
        delimiter: What separates the fields of CSV and TSV, one character, or ``\t``; None for a comma and a tab.
        no_quotes: Whether quotes in CSV and TSV are letters like others: then no field can hold a separator or a
            line end.

    Raises:
        InputError: If the delimiter can't separate fields.
    """

    encoding: str | None = None
    delimiter: str | None = None
    no_quotes: bool = False

    def __post_init__(self) -> None:
        """Check the delimiter."""
        if self.delimiter == SPELLED_TAB:
            object.__setattr__(self, "delimiter", "\t")
        if self.delimiter is None:
            return
        if len(self.delimiter) != 1 or self.delimiter.isalnum() or self.delimiter in NO_DELIMITERS:
            raise InputError(
                f"`delimiter` {self.delimiter!r}: can't separate fields; give one character, like ';' or '|', or \\t"
            )

    def of_suffix(self, suffix: str) -> Dialect:
        """Complete the delimiter by that of a file's extension."""
        return self if self.delimiter else replace(self, delimiter=DELIMITERS[suffix])

    def csv_options(self) -> dict[str, Any]:
        """Write delimiter and quotes as arguments of Python's csv module."""
        quotes = {"quoting": csv.QUOTE_NONE, "quotechar": None} if self.no_quotes else {}
        return {"delimiter": self.delimiter, **quotes}


USUAL = Dialect()
