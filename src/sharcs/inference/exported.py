"""The directory of an export, used like that of a trained model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sharcs.data.texts import Columns
from sharcs.errors import InputError
from sharcs.inference.folder import TrainedModel, open_trained
from sharcs_runtime.bundle import DESCRIPTION_FILE
from sharcs_runtime.onnx import OnnxRunner

if TYPE_CHECKING:
    from sharcs_runtime.bundle import Bundle


@dataclass(frozen=True, slots=True)
class ExportedModel:
    """An export with what is needed to use it on texts.

    Attributes:
        model: What runs its graphs.
        columns: The column names of the training data.
    """

    model: OnnxRunner
    columns: Columns


def open_network(folder: str | Path, threads: int | None = None) -> TrainedModel | ExportedModel:
    """Load what ``sharcs train`` or ``sharcs export`` wrote.

    Args:
        folder: The output directory of either.
        threads: Of an export; a trained model has torch's.

    Raises:
        InputError: If there is neither, or it is broken.
    """
    if not (Path(folder) / DESCRIPTION_FILE).is_file():
        return open_trained(folder)
    runner = OnnxRunner(folder, threads=threads)
    return ExportedModel(runner, _columns(runner.config))


def _columns(config: Bundle) -> Columns:
    try:
        return Columns(**(config.columns or {}))  # type: ignore[arg-type]
    except TypeError as error:
        file = config.folder / DESCRIPTION_FILE
        raise InputError(f"{file}: its columns are {config.columns}; export again") from error
