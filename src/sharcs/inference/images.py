"""Many images through a routed network in PyTorch, and the tables that name them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sharcs.data.dialects import USUAL, Dialect
from sharcs.data.images.pixels import PIXELS, check_readable, pixels_of
from sharcs.data.images.tables import image_files, open_images
from sharcs.inference.engine import InferenceEngine
from sharcs.inference.reading import channels_of
from sharcs.inference.stream import TextStream

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

    from sharcs.data.texts import Columns
    from sharcs_runtime.policy import Floats
    from sharcs_runtime.pool import Flags, Numbers
    from sharcs_runtime.tokens import Text

WINDOW = 256  # images that are in memory at a time: of the usual size, they take 150 MB


@dataclass(frozen=True, slots=True)
class ImageStream(TextStream):
    """The images of a table of any size; ``text`` is the column with their paths."""

    def texts_of(self, rows: pa.Table, before: int) -> list[Text]:
        """Take the files of some rows; see the base class."""
        return list(image_files(rows, self.text, self.table.source, before))

    def identity(self, texts: list[Text]) -> object:
        """Name the files of a window so that those that are written again are others."""
        states = [os.stat(str(file)) for file in texts]
        return [(file, at.st_size, at.st_mtime_ns) for file, at in zip(texts, states, strict=True)]

    def check_window(self, texts: list[Text], before: int) -> None:
        """See that the files are images."""
        for row, file in enumerate(texts, before + 1):
            check_readable(str(file), f"{self.table.source}: row {row}")


def open_image_stream(source: str, columns: Columns, dialect: Dialect = USUAL) -> ImageStream:
    """Open a table that names images, or a folder of them.

    Args:
        source: See :func:`sharcs.data.images.tables.open_images`.
        columns: ``text`` is the column with the paths.
        dialect: How a text file is written.

    Raises:
        InputError: If it can't be read, or has no such column.
    """
    table = open_images(source, dialect)
    stream = ImageStream(table, columns.text, None)
    stream.texts_of(table.schema.empty_table(), 0)
    return stream


class ImageBatches:
    """The images of a window, as the scheduler takes :class:`sharcs_runtime.tokens.Tokens`.

    Args:
        pixels: float32 ``[images, channels, height, width]``.
        tokens: How many an image has.

    Attributes:
        lengths: Tokens of each image, ``[images]``.
        cut: None of them.
    """

    def __init__(self, pixels: Floats, tokens: int) -> None:
        self._pixels = pixels
        self.lengths = np.full(len(pixels), tokens, np.int64)
        self.cut = np.zeros(len(pixels), np.bool_)

    def batch(self, rows: Numbers) -> tuple[dict[str, Any], Flags]:
        """Take some images, all of whose tokens are real."""
        return {PIXELS: self._pixels[rows]}, np.ones((len(rows), int(self.lengths[0])), np.bool_)


class ImageEngine(InferenceEngine):
    """Answers streams of images' files as :class:`InferenceEngine` answers texts; see there.

    Args:
        model: A :class:`~sharcs.model.media.SharcsForImageClassification`.
        processor: Its image processor.
        width: Forces one sub-network.
        window: Images that are in memory at a time.
    """

    def __init__(self, model: Any, processor: Any, *, width: float | str | None = None, window: int = WINDOW) -> None:
        super().__init__(model, processor, width=width, window=window)

    @property
    def max_length(self) -> int:
        """No image is cut."""
        return np.iinfo(np.int64).max

    def _tokenise(self, window: list[Text]) -> Any:
        channels = channels_of(self.model.config.encoder)  # type: ignore[arg-type]
        processor: Any = self.tokenizer
        pixels = [pixels_of(str(file), processor, channels, "`data`") for file in window]
        return ImageBatches(np.stack(pixels), self.model.token_count({PIXELS: pixels[0]}))

    def _tail(self, index: int, hidden: Tensor, real: Flags) -> Floats:
        logits = self.model.run_tail(hidden, None, self.model.tail.names[index])
        found: Floats = logits.float().cpu().numpy()
        return found
