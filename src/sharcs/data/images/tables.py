"""Tables with a column of images' paths, and folders of images as such tables."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from PIL import Image

from sharcs.data.dialects import USUAL, Dialect
from sharcs.data.images.pixels import check_readable
from sharcs.data.tables import TableStream, open_table, read_rows
from sharcs.data.texts import Columns, TextData, checked_texts, data_of
from sharcs.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

IMAGE_COLUMN = "image"


def open_images(source: str | Path, dialect: Dialect = USUAL) -> TableStream:
    """Open a table that names images, or a folder of them.

    Args:
        source: What ``open_table`` takes, or a folder. Its table has the column ``image``, paths below it in
            alphabetical order, and ``label``, the folder of the first level that an image lies in, if there is any.
            Files that are no images by their ending are left out, and what begins with a dot.
        dialect: How a text file is written.

    Raises:
        InputError: If it can't be read, or a folder holds no image.
    """
    source = os.fspath(source)
    if not os.path.isdir(source):
        return open_table(source, dialect)
    paths = sorted(_images_in(source))
    if not paths:
        raise InputError(f"{source}: the folder holds no images; give one with a folder for each class, or a table")
    table = pa.table({IMAGE_COLUMN: pa.array(paths, pa.string())})
    labels = [path.partition("/")[0] if "/" in path else None for path in paths]
    if any(labels):
        table = table.append_column(Columns().labels[0], pa.array(labels, pa.string()))
    return TableStream(source, table.schema, lambda: iter(table.to_batches()), dialect)


def has_images(source: str) -> bool:
    """Tell whether something is a folder of images."""
    return os.path.isdir(source) and any(True for _ in _images_in(source))


def _images_in(source: str) -> Iterator[str]:
    """Find the images of a folder by their endings: their paths below it."""
    endings = set(Image.registered_extensions())
    for folder, folders, files in os.walk(source):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if os.path.splitext(name)[1].lower() in endings and not name.startswith("."):
                yield os.path.relpath(os.path.join(folder, name), source).replace(os.sep, "/")


def image_files(table: pa.Table, name: str, source: str, rows_before: int = 0) -> list[str]:
    """Take a column of images' paths, which stand relative to the table's file, or to the folder.

    Args:
        table: All rows of a source, or some in a row.
        name: The column's name.
        source: Where the table is from.
        rows_before: Rows of the source before the table's first, for messages.

    Raises:
        InputError: If there is no such column, or a row names no file.
    """
    place = source if os.path.isdir(source) else os.path.dirname(source) if os.path.isfile(source) else ""
    files = []
    for row, path in enumerate(checked_texts(table, name, "image", source, rows_before), rows_before + 1):
        file = os.path.join(place, path)
        if not os.path.isfile(file):
            raise InputError(
                f"{source}: row {row}: the image {path!r} is no file in {place or os.getcwd()}; correct the path or "
                "drop the row"
            )
        files.append(file)
    return files


def load_images(source: str, columns: Columns, *, dialect: Dialect = USUAL, **draw: Any) -> TextData:
    """Read the paths of images and their labels, and see that each file is an image.

    Args:
        source: See :func:`open_images`.
        columns: ``text`` is the column with the paths.
        dialect: How a text file is written.
        **draw: The other arguments of :func:`sharcs.data.texts.load_texts`.

    Returns:
        As there, with the images' files in place of texts.

    Raises:
        InputError: If the source can't be read, a column is missing, or a row has no image or no label.
    """
    table = read_rows(open_images(source, dialect))
    data = data_of(table, image_files(table, columns.text, source), None, columns, source, **draw)
    for index, file in enumerate(data.texts):
        check_readable(file, f"{source}: row {data.row(index)}")
    return data
