"""The one exception for what a user can put right: bad files, columns, options, models."""


class InputError(ValueError):
    """Something that the user gave is wrong.

    The message is one line: what was wrong, where (file, row, argument) and what to do about it. The command line
    prints it and exits with code 2; from Python it is an ordinary ``ValueError``. A message names arguments in
    backticks, and the command line writes them as its options: ``max_length`` as ``--max-length``.
    """


class RefusedElsewhereError(InputError):
    """Several processes work together, and another one of them says what is wrong."""


class MissingPackageError(InputError, ImportError):
    """A package is not installed that an extra of the distribution brings.

    Args:
        error: What importing it raised.
        extra: The extra.
    """

    def __init__(self, error: ImportError, extra: str) -> None:
        super().__init__(f"{first_line(error)}; install the extra {extra}: pip install 'sharcs[{extra}]'")


def first_line(error: BaseException) -> str:
    """Shorten somebody else's error message to its first line, or to the error's name if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
