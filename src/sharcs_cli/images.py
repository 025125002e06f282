"""What commands do with images in place of texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from sharcs_runtime.errors import InputError

if TYPE_CHECKING:
    from sharcs.data.texts import Columns
    from sharcs.inference.exported import ExportedModel
    from sharcs.inference.folder import TrainedModel

ImageOption = Annotated[
    str | None,
    typer.Option(
        "--image-column",
        help="Column with the paths of images, relative to the table's file.",
        show_default="image; of a model, its training's",
    ),
]


def reads_images(network: TrainedModel | ExportedModel) -> bool:
    """Tell networks of images from those of texts."""
    from sharcs.inference.folder import TrainedImages

    return isinstance(network, TrainedImages)


def input_column(
    images: bool, image_column: str | None, text_column: str | None, text_pair_column: str | None
) -> str | None:
    """Take the column with the inputs: texts, or the paths of images.

    Raises:
        InputError: If a column of the other kind is named.
    """
    wrong = {"--text-column": text_column, "--text-pair-column": text_pair_column} if images else {}
    wrong |= {} if images else {"--image-column": image_column}
    for option, name in wrong.items():
        if name is not None:
            kinds = ("images", "texts") if images else ("texts", "images")
            raise InputError(f"{option} {name}: the model reads {kinds[0]} and no {kinds[1]}; leave it out")
    return image_column if images else text_column


def kind_of_data(data: str, image_column: str | None) -> tuple[bool, Columns]:
    """Tell whether a training is on images, by a named column or a folder of some, and its columns."""
    from sharcs.data.images.tables import IMAGE_COLUMN, has_images
    from sharcs.data.texts import Columns

    images = image_column is not None or has_images(data)
    return images, Columns(text=IMAGE_COLUMN) if images else Columns()
