"""The directory of a trained model: how it is begun, finished, and opened again."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoImageProcessor, AutoTokenizer

from sharcs.data.texts import Columns
from sharcs.data.tokens import most_tokens
from sharcs.errors import EncoderError, InputError, first_line
from sharcs.files import claimed, is_lock, write_json
from sharcs.model.media import SharcsForImageClassification
from sharcs.model.text import SharcsForSequenceClassification
from sharcs.tasks.base import require_one_answer
from sharcs_runtime.bundle import DESCRIPTION_FILE
from sharcs_runtime.scores import REGRESSION

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedTokenizerBase

    from sharcs.model.base import RoutedModel

SETTINGS_FILE = "training.json"
FORMAT = 2  # of that file; it is 1 where none is written
CHECKPOINTS = "checkpoints"
CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer_config.json"  # with the length of the training


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A trained model with what is needed to use it on texts.

    Attributes:
        model: The routed network, in evaluation mode, on the best device.
        tokenizer: Its tokenizer, whose ``model_max_length`` is the length that it was trained with.
        columns: The column names of its training data.
    """

    model: SharcsForSequenceClassification
    tokenizer: PreTrainedTokenizerBase
    columns: Columns


@dataclass(frozen=True, slots=True)
class TrainedImages(TrainedModel):
    """The same of images: ``tokenizer`` is the image processor, and ``columns.text`` the column with the paths."""

    model: Any  # a SharcsForImageClassification
    tokenizer: Any


def best_device() -> torch.device:
    """Choose a GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def open_model(folder: str | Path) -> TrainedModel:
    """Load a model of texts that ``sharcs train`` wrote.

    Args:
        folder: The output directory of a finished training.

    Returns:
        Model, tokenizer and column names.

    Raises:
        InputError: If the directory is missing, holds no model, an unfinished one, none of ours, or one that the
            command line has no use for: it speaks of one answer for each input.
    """
    trained = open_trained(folder)
    if isinstance(trained, TrainedImages):
        raise InputError(
            f"{folder}: is a model of images, which 'sharcs' trains, evaluates, predicts, calibrates and reports on; "
            "for all else call it from Python"
        )
    return trained


def open_trained(folder: str | Path) -> TrainedModel:
    """Load a model of texts, or of images (:class:`TrainedImages`); else as :func:`open_model`."""
    folder = Path(folder)
    of_images = _config_of(folder).get("architectures") == [SharcsForImageClassification.__name__]
    try:
        model, report, processor = _load(folder, of_images)
    except EncoderError as error:
        raise InputError(f"{folder}: {error}") from error
    except ImportError:
        raise
    except Exception as error:  # the libraries raise whatever a damaged configuration leads them to
        raise InputError(f"{folder}: the model can't be loaded ({first_line(error)}); train again") from error
    if report["missing_keys"]:
        # transformers would leave random values there.
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise InputError(f"{folder}: its weights lack {missing}; train again")
    require_one_answer(model.problem_type, f"{folder}")
    if model.problem_type == REGRESSION and (count := len(model.config.class_indices)) > 1:
        raise InputError(
            f"{folder}: answers with {count} numbers for each input, and tables have room for one; "
            "call it from Python"
        )
    check_finite(model, f"{folder}")
    model.to(best_device())
    if of_images:
        return TrainedImages(model.train(False), processor, _columns(folder))
    processor.model_max_length = most_tokens(processor, model.config.encoder)
    return TrainedModel(model.train(False), processor, _columns(folder))


def _load(folder: Path, of_images: bool) -> tuple[Any, dict[str, Any], Any]:
    """Load a model, the report on its weights, and its tokenizer or image processor."""
    routed: Any = SharcsForImageClassification if of_images else SharcsForSequenceClassification
    # Only safetensors: a pickle could run code.
    model, report = routed.from_pretrained(folder, use_safetensors=True, output_loading_info=True)
    if of_images:
        return model, report, load_image_processor(folder)
    if not (folder / TOKENIZER_FILE).is_file():
        raise OSError(f"no {TOKENIZER_FILE}, which holds the tokenizer's settings")
    return model, report, load_tokenizer(folder)


def _config_of(folder: Path) -> dict[str, Any]:
    """Read the configuration of a finished model."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such directory; give the `output` directory of 'sharcs train'")
    for path in (folder, *sorted(folder.glob("*"))):
        if not os.access(path, os.R_OK):
            raise InputError(f"{path}: can't be read (permission denied); ask its owner for the right to")
    if not (folder / CONFIG_FILE).is_file():
        if (folder / DESCRIPTION_FILE).is_file():
            raise InputError(f"{folder}: is an export; give the directory that it was exported from")
        if (folder / SETTINGS_FILE).is_file():
            raise InputError(f"{folder}: its training is not finished; finish it by 'sharcs train' with `resume`")
        raise InputError(f"{folder}: is no model (no {CONFIG_FILE}); give the `output` directory of 'sharcs train'")
    try:
        content: dict[str, Any] = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        model_type = content.get("model_type")
    except (ValueError, AttributeError) as error:
        raise InputError(f"{folder / CONFIG_FILE}: is no valid JSON object; train again") from error
    if model_type != "sharcs":
        raise InputError(f"{folder}: is a {model_type} model, not a sharcs one; route it first with 'sharcs train'")
    return content


def load_image_processor(folder: str | Path) -> Any:
    """Load an image processor, in the form that gives the same pixels whatever else is installed.

    Raises:
        OSError: If there is none.
    """
    return AutoImageProcessor.from_pretrained(folder, backend="pil")


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer; refuse the one without words that transformers makes up where there is none.

    Raises:
        OSError: If there is none.
    """
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise OSError("its tokenizer has no vocabulary")
    return tokenizer


def check_finite(model: RoutedModel, where: str) -> None:
    """Refuse weights that are not finite, of which nothing useful can come.

    Raises:
        InputError: If there is one.
    """
    if not all(bool(value.isfinite().all()) for value in model.parameters()):
        raise InputError(
            f"{where}: the training diverged (weights are not finite); train again with a lower `learning_rate`"
        )


@contextmanager
def claimed_folder(folder: Path) -> Iterator[None]:
    """Keep others from training into a directory; see :func:`sharcs_runtime.files.claimed`.

    Raises:
        InputError: If it is a file, or can't be written, or another process is writing it.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"`output` {folder}: is a file; name a directory")
    with claimed(folder / CONFIG_FILE, name=f"`output` {folder}"):
        yield


def begin(folder: Path, settings: dict[str, Any], resume: bool) -> Path:
    """Begin a training in a directory, or go on with the one that stands there.

    Args:
        folder: The directory, which is claimed.
        settings: All that decides the result; a resumed run has to have the same.
        resume: Whether to go on with a training that stands there.

    Returns:
        The directory for checkpoints.

    Raises:
        InputError: If the directory is in use, or holds a training with other settings.
    """
    if resume:
        _check_same(folder, settings)
    elif folder.is_dir() and not all(map(is_lock, folder.iterdir())):
        raise InputError(
            f"`output` {folder}: is in use; name a new directory, or add `resume` to go on with a training there"
        )
    write_json(settings, folder / SETTINGS_FILE)
    return folder / CHECKPOINTS


def finish(folder: Path, model: RoutedModel, processor: Any) -> None:
    """Write the model into its directory and drop the checkpoints.

    The configuration comes last: with it the directory counts as a finished model.
    """
    staging = folder / ".model.partial"
    shutil.rmtree(staging, ignore_errors=True)
    try:
        model.save_pretrained(staging)
        processor.save_pretrained(staging)
        # safetensors writes through a temporary file that nobody else may read; the others have the umask's mode.
        mode = (staging / CONFIG_FILE).stat().st_mode
        for path in sorted(staging.iterdir(), key=lambda path: path.name == CONFIG_FILE):
            path.chmod(mode)
            path.replace(folder / path.name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


def _check_same(folder: Path, settings: dict[str, Any]) -> None:
    file = folder / SETTINGS_FILE
    if not file.is_file():
        raise InputError(f"`resume`: {folder} holds no training to go on with; leave `resume` out to start one")
    if (folder / CONFIG_FILE).is_file():
        raise InputError(f"`resume`: the training in {folder} is finished; name a new `output` to train again")
    # A round trip, since JSON has no tuples.
    now = json.loads(json.dumps(settings))
    before = read_settings(file)
    if before.get("format", 1) != now["format"]:
        raise InputError(
            f"`resume`: the training in {folder} was begun by another version of sharcs, whose checkpoints this one "
            "can't go on from; name a new `output` to train again"
        )
    # The rows' fingerprint says whether the data is the same; its path may be written in another way.
    fingerprint = {"rows", "data_sha256"}
    for name in sorted({*now, *before} - {"data", "eval_data"} - fingerprint):
        if now.get(name) != before.get(name):
            raise InputError(
                f"`resume`: `{name}` is {now.get(name)!r} now and was {before.get(name)!r} when "
                f"the training in {folder} began; resume with the options of the start"
            )
    if any(now.get(name) != before.get(name) for name in fingerprint):
        raise InputError(
            f"`resume`: `data` {now.get('data')} has other rows than {before.get('data')} had when the training in "
            f"{folder} began; resume with the data of the start"
        )


def _columns(folder: Path) -> Columns:
    file = folder / SETTINGS_FILE
    if not file.is_file():
        return Columns()
    settings = read_settings(file)
    return Columns(settings["text_column"], settings["text_pair_column"], settings["label_column"])


def read_settings(file: Path) -> dict[str, Any]:
    """Read what a training was begun with.

    Raises:
        InputError: If the file can't be read, or is something else.
    """
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: is no valid JSON ({first_line(error)}); train again") from error
    if not isinstance(settings, dict) or not {"text_column", "text_pair_column", "label_column"} <= settings.keys():
        raise InputError(f"{file}: is no record of a training; train again")
    return settings
