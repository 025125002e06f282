"""Rows of images, whose files are read when a row is asked for."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from sharcs.data.tokens import label_column
from sharcs.errors import InputError, first_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from transformers import BaseImageProcessor

    from sharcs.data.texts import TextData

PIXELS, LABELS = "pixel_values", "labels"
MODES = {1: "L", 3: "RGB"}  # of Pillow, by the number of channels


def check_readable(file: str, where: str) -> None:
    """Read an image's head, so that what is none is found before the work.

    Raises:
        InputError: If it is none.
    """
    try:
        Image.open(file).close()
    except Exception as error:  # Pillow lets through what its readers of many formats stumble over
        raise _unreadable(file, where, error) from error


def pixels_of(file: str, processor: BaseImageProcessor, channels: int, where: str) -> NDArray[np.float32]:
    """Read an image as its encoder takes it, ``[channels, height, width]``.

    Args:
        file: The image's.
        processor: The encoder's.
        channels: 3 for colours, 1 for grey.
        where: For messages.

    Raises:
        InputError: If it can't be read.
    """
    try:
        with Image.open(file) as opened:
            image = ImageOps.exif_transpose(opened).convert(MODES[channels])
    except Exception as error:  # see above
        raise _unreadable(file, where, error) from error
    found: NDArray[np.float32] = np.asarray(processor(images=image, return_tensors="np")[PIXELS][0], np.float32)
    return found


def _unreadable(file: str, where: str, error: Exception) -> InputError:
    return InputError(f"{where}: the image {file} can't be read ({first_line(error)}); replace it or drop the row")


class ImageRows(Dataset[dict[str, Any]]):
    """Images of some data as a map-style data set: ``pixel_values`` and, with ``label2id``, ``labels``.

    A file is read whenever its row is asked for, so that memory doesn't grow with their number.

    Args:
        data: The images' files and labels.
        processor: The encoder's.
        channels: Of the encoder's images.
        label2id: The number of each label.

    Raises:
        InputError: If a label is not in ``label2id``; when a row is asked for, if its image can't be read.
    """

    def __init__(
        self, data: TextData, processor: BaseImageProcessor, channels: int, label2id: dict[str, int] | None = None
    ) -> None:
        self.data, self.processor, self.channels = data, processor, channels
        self.labels = None if label2id is None else label_column(data, label2id).to_pylist()

    @property
    def column_names(self) -> list[str]:
        """The names of what a row holds."""
        return [PIXELS] if self.labels is None else [PIXELS, LABELS]

    def __len__(self) -> int:
        """Count the images."""
        return len(self.data)

    def __getitem__(self, which: int | str) -> Any:
        """Return a row, or the column of labels."""
        if isinstance(which, str):
            return {LABELS: self.labels}[which]
        where = f"{self.data.source}: row {self.data.row(which)}"
        row: dict[str, Any] = {
            PIXELS: torch.from_numpy(pixels_of(self.data.texts[which], self.processor, self.channels, where))
        }
        if self.labels is not None:
            row[LABELS] = self.labels[which]
        return row

    def stored(self) -> list[dict[str, Any]]:
        """List what tells these rows from others, without reading their images."""
        labels = self.labels or [None] * len(self)
        names = (os.path.basename(file) for file in self.data.texts)
        sizes = map(os.path.getsize, self.data.texts)
        return [
            {"image": name, "bytes": size, LABELS: of} for name, size, of in zip(names, sizes, labels, strict=True)
        ]


def collate_images(rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """Stack rows of :class:`ImageRows` into a batch.

    Raises:
        InputError: If the images are not of one size.
    """
    shapes = {tuple(row[PIXELS].shape) for row in rows}
    if len(shapes) > 1:
        raise InputError(
            f"the image processor makes images of several sizes ({sorted(shapes)[0]}, {sorted(shapes)[-1]}); set one "
            "`size` in its preprocessor_config.json"
        )
    batch = {PIXELS: torch.stack([row[PIXELS] for row in rows])}
    if LABELS in rows[0]:
        batch[LABELS] = torch.tensor([row[LABELS] for row in rows])
    return batch
