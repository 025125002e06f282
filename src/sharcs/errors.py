"""The one exception for what a user can put right; it lies where the runtime without torch finds it, too."""

from sharcs_runtime.errors import InputError, first_line

__all__ = ["InputError", "first_line"]
