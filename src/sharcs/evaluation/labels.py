"""True classes, checked."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from sharcs.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from sharcs_runtime.ways import Numbers


def checked_classes(labels: ArrayLike, count: int, classes: int | None = None) -> Numbers:
    """Bring true classes into the form of predictions: int64 ``[inputs]``.

    Args:
        labels: One a row, ``[inputs]`` or ``[inputs, 1]``.
        count: How many inputs there are.
        classes: Number of classes, if it is known.

    Raises:
        InputError: If they are of another shape, no whole numbers, or no classes; the message names the row.
    """
    try:
        values = np.asarray(labels)
    except ValueError as error:
        raise InputError(f"labels: are of several shapes; give {count:,} classes, one an input") from error
    if values.shape not in ((count,), (count, 1)):
        raise InputError(f"labels: of shape {list(values.shape)}; give {count:,} classes, one an input")
    values = values.reshape(count)
    most = math.inf if classes is None else classes - 1
    for row, value in enumerate(values.tolist(), 1):
        is_whole = isinstance(value, int | float) and math.isfinite(value) and value == int(value)
        if not is_whole or not 0 <= value <= most:
            between = "whole numbers from 0 on" if classes is None else f"whole numbers from 0 to {classes - 1}"
            raise InputError(f"labels: row {row} has {value!r}; give classes as {between}")
    return values.astype(np.int64)
