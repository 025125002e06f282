"""One stage for pipelines of others: in three forms, pickled, once a process, without torch for an export."""

import pickle
import subprocess
import sys
import threading

import numpy as np
import pandas
import pyarrow as pa
import pyarrow.parquet
import pytest

from helpers.cli import read_csv, succeeds
from helpers.exported import MODEL, export_record
from helpers.units import with_labels
from records.make import ROWS
from sharcs import InputError
from sharcs_runtime.stage import Classify, classify

TEXTS = [row["text"] for row in read_csv(ROWS)[:20]]


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stage") / "export"
    export_record(MODEL, folder)
    return folder


@pytest.fixture(scope="module")
def rows():
    """Write a table with the columns of an answer already among its own."""
    return {"text": TEXTS, "width": list(range(len(TEXTS)))}


@pytest.fixture
def predicted(export, rows, tmp_path):
    """Have ``sharcs predict`` answer the same rows."""
    pa.parquet.write_table(pa.table(rows), tmp_path / "in.parquet")

    def predict(folder, *options):
        command = ("predict", folder, "--data", tmp_path / "in.parquet", "--output", tmp_path / "out.parquet")
        succeeds(*command, *options)
        return pa.parquet.read_table(tmp_path / "out.parquet").to_pydict()

    return predict


def batch_of(form, rows):
    """Give rows a form."""
    if form == "arrow":
        return pa.table(rows)
    if form == "batch":
        return pa.RecordBatch.from_pydict(rows)
    if form == "pandas":
        return pandas.DataFrame(rows, index=range(5, 5 + len(rows["text"])))
    return {name: np.array(values, object if name == "text" else None) for name, values in rows.items()}


def plain(batch):
    """Take the form from rows."""
    if isinstance(batch, dict):
        return {name: list(values) for name, values in batch.items()}
    return batch.to_pydict() if hasattr(batch, "to_pydict") else batch.to_dict("list")


@pytest.mark.parametrize("form", ["arrow", "batch", "pandas", "arrays"])
def test_every_form_comes_back_with_what_predict_adds(export, rows, predicted, form):
    batch = batch_of(form, rows)
    stage = pickle.loads(pickle.dumps(Classify(export, scores=True)))
    found = stage(batch)
    assert type(found) is type(batch)
    assert plain(batch) == plain(batch_of(form, rows))  # what was handed over is as it was
    expected = predicted(export, "--scores")
    assert list(plain(found)) == list(expected)
    assert list(expected)[2:5] == ["prediction", "score", "width_2"]
    for name, values in plain(found).items():
        if name.startswith("score"):
            assert values == pytest.approx(expected[name], abs=1e-6)
        else:
            assert values == expected[name]
    if form == "pandas":
        assert found.index.equals(batch.index)


@pytest.mark.parametrize("form", ["arrow", "pandas", "arrays"])
def test_predictions_have_the_type_of_the_labels_as_those_of_predict(rows, predicted, form, tmp_path):
    folder = with_labels(MODEL, tmp_path / "model", {"bad": "-3", "good": "0", "odd": "7"}, "integer")
    found = Classify(folder)(batch_of(form, rows))
    values = found["prediction"]
    assert str(values.type if form == "arrow" else values.dtype) == "int64"
    assert plain(found)["prediction"] == predicted(folder)["prediction"]
    assert {-3, 0, 7} & set(plain(found)["prediction"])


def test_a_trained_model_answers_as_its_export(export, rows):
    found = plain(Classify(MODEL)(pa.table(rows)))
    expected = plain(Classify(export)(pa.table(rows)))
    assert found.pop("score") == pytest.approx(expected.pop("score"), abs=1e-5)
    assert found == expected
    assert set(plain(Classify(MODEL, width=1.0)(pa.table(rows)))["width_2"]) == {1.0}


@pytest.mark.parametrize("form", ["arrow", "pandas", "arrays"])
def test_rows_without_a_text_are_kept_or_named(export, form):
    rows = {"text": ["it is fine", None, " ", "a plot"], "id": [1, 2, 3, 4]}
    with pytest.raises(InputError, match=r"batch: row 2 has no text; "):
        Classify(export)(batch_of(form, rows))
    found = plain(Classify(export, on_error="keep")(batch_of(form, rows)))
    alone = plain(Classify(export)(pa.table({"text": ["it is fine", "a plot"]})))
    assert found["id"] == [1, 2, 3, 4]
    assert [found["prediction"][index] for index in (0, 3)] == alone["prediction"]
    assert all(value is None or value != value for name in ("prediction", "score") for value in found[name][1:3])


def test_batches_of_any_size_and_none_at_all(export):
    stage = Classify(export)
    whole = plain(stage(pa.table({"text": TEXTS * 150})))  # more than a window
    assert whole["prediction"] == plain(stage(pa.table({"text": TEXTS})))["prediction"] * 150
    empty = stage(pandas.DataFrame({"text": []}))
    assert list(empty.columns) == ["text", "prediction", "score", "width"]
    frames = list(stage.frames(iter([pandas.DataFrame({"text": TEXTS[:3]}), pandas.DataFrame({"text": TEXTS[3:4]})])))
    assert [frame["prediction"].tolist() for frame in frames] == [whole["prediction"][:3], whole["prediction"][3:4]]


def test_what_is_no_batch_is_one_line(export, tmp_path):
    for batch, says in (
        ([1], "batch: is a list; give a dictionary, or what pandas or Arrow has"),
        ({"words": ["x"]}, "batch: no column 'text'; it has 'words'; name the right one with text"),
    ):
        with pytest.raises(InputError) as caught:
            Classify(export)(batch)
        assert str(caught.value) == says
    with pytest.raises(InputError, match="on_error pass: has to be one of stop, keep"):
        Classify(export, on_error="pass")
    with pytest.raises(InputError, match="no such directory"):
        Classify(tmp_path / "absent")({"text": ["x"]})


def test_a_process_loads_a_network_once(export, monkeypatch):
    monkeypatch.setattr(classify, "_LOADED", {})
    loaded = []

    class Counted(classify.OnnxRunner):
        def __init__(self, *args, **kwargs):
            loaded.append(args)
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(classify, "OnnxRunner", Counted)
    stage = pickle.dumps(Classify(export))
    assert len(stage) < 1000
    assert loaded == []
    threads = [threading.Thread(target=lambda: pickle.loads(stage)({"text": TEXTS})) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loaded) == 1


def test_who_wraps_it_may_keep_something_in_it(export):
    class Wrapped(Classify):  # as Ray Data does
        def __init__(self, *args, **kwargs):
            self.pool = "before"
            super().__init__(*args, **kwargs)
            self.pool = "after"

    batch = {"text": ["it is fine"]}
    assert Wrapped(export)(batch)["prediction"] == Classify(export)(batch)["prediction"]


WITHOUT_TORCH = """
import sys
sys.modules.update(dict.fromkeys(["torch", "transformers", "typer", "rich", "pyarrow", "pandas", "sharcs"]))
from sharcs_runtime.stage import Classify
print(Classify(sys.argv[1])({"text": ["it is fine"]})["prediction"][0])
"""


def test_an_export_needs_no_torch(export):
    found = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, str(export)], capture_output=True, text=True)
    assert found.stdout.split() == list(Classify(export)({"text": ["it is fine"]})["prediction"]), found.stderr
