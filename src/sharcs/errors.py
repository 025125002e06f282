"""The one exception for what a user can put right: bad files, columns, options, models."""

__all__ = ["InputError"]


class InputError(ValueError):
    """Something that the user gave is wrong.

    The message is one line: what was wrong, where (file, row, option) and what to do about it. The command line
    prints it and exits with code 2; from Python it is an ordinary ``ValueError``.
    """
