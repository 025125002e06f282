"""The one exception for what a user can put right, which lies where the runtime without torch finds it, too."""

from sharcs_runtime.errors import InputError, MissingPackageError, RefusedElsewhereError, first_line

__all__ = ["EncoderError", "InputError", "MissingPackageError", "RefusedElsewhereError", "first_line"]


class EncoderError(InputError):
    """An encoder can't be routed; who knows where it came from says that, too."""
