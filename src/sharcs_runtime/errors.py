"""The one exception for what a user can put right: bad files, columns, options, models."""

__all__ = ["InputError", "first_line"]


class InputError(ValueError):
    """Something that the user gave is wrong.

    The message is one line: what was wrong, where (file, row, option) and what to do about it. The command line
    prints it and exits with code 2; from Python it is an ordinary ``ValueError``.
    """


def first_line(error: BaseException) -> str:
    """Shorten somebody else's error message to its first line, or to the error's name if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
