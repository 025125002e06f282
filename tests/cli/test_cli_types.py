"""A prediction has the type of the training's labels, so that comparing both columns says how many are right."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.cli import ONE_EPOCH, read_csv, succeeds, toys_fixture  # noqa: F401
from sharcs.data.labels import label_values
from sharcs.data.texts import load_texts

TEXTS = ["it is fine", "it is awful", "it is dull", "it is lovely"]


@pytest.fixture(scope="module")
def model(toys, tmp_path_factory):
    """Train on JSON lines with integers as labels."""
    folder = tmp_path_factory.mktemp("types")
    rows = [{"text": row["text"], "label": 7 if row["label"] == "good" else -3} for row in read_csv(toys.train)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = ("train", "--data", folder / "rows.jsonl", "--model", toys.encoder, "--output", folder / "model")
    succeeds(*words, *ONE_EPOCH)
    return folder / "model"


@pytest.fixture
def answered(tmp_path):
    """Hand out a function that predicts, and reads the predictions of each format."""

    def predict(folder):
        data = tmp_path / "texts.jsonl"
        data.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")
        for suffix in ("jsonl", "parquet", "csv"):
            succeeds("predict", folder, "--data", data, "--output", tmp_path / f"out.{suffix}")
        lines = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
        table = pq.read_table(tmp_path / "out.parquet")
        from_jsonl = [json.loads(line)["prediction"] for line in lines]
        assert table.column("prediction").to_pylist() == from_jsonl
        assert [row["prediction"] for row in read_csv(tmp_path / "out.csv")] == list(map(str, from_jsonl))
        return from_jsonl, table.schema.field("prediction").type

    return predict


def test_integers_stay_integers(model, answered):
    predictions, kind = answered(model)
    assert set(predictions) <= {7, -3}
    assert all(type(prediction) is int for prediction in predictions)
    assert kind == pa.int64()


@pytest.mark.extended
def test_integers_stay_integers_in_an_export(model, answered, tmp_path):
    succeeds("export", model, "--output", tmp_path / "graphs")
    assert answered(tmp_path / "graphs") == answered(model)


def test_a_model_of_an_earlier_version_predicts_text(model, answered, tmp_path):
    shutil.copytree(model, tmp_path / "model")
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    assert config.pop("label_type") == "integer"
    (tmp_path / "model" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    predictions, kind = answered(tmp_path / "model")
    assert set(predictions) <= {"7", "-3"}
    assert kind == pa.string()


def test_labels_of_csv_are_text(toys):
    config = json.loads((toys.model / "config.json").read_text(encoding="utf-8"))
    assert config["label_type"] is None


@pytest.mark.parametrize(
    ("lines", "label_type"),
    [
        (["1", "0", "-12"], "integer"),
        (["1", "2.0"], "integer"),
        (["true", "false"], "boolean"),
        (["true", "1"], None),
        (['"1"', "2"], None),
        (['"true"', '"false"'], None),
        (["1", "-9223372036854775808"], "integer"),
        (["1", "9223372036854775808"], None),
        (["1", "12345678901234567890"], None),
    ],
)
def test_the_type_of_labels_of_json_lines(lines, label_type, tmp_path):
    content = "".join(f'{{"text": "it", "label": {line}}}\n' for line in lines)
    (tmp_path / "rows.jsonl").write_text(content, encoding="utf-8")
    assert load_texts(str(tmp_path / "rows.jsonl")).label_type == label_type


@pytest.mark.parametrize(
    ("labels", "label_type"),
    [
        (pa.array([1, 2], pa.uint8()), "integer"),
        (pa.array([2**63 - 1, -(2**63)]), "integer"),
        (pa.array([1.0, 2.0]), "integer"),
        (pa.array([True, False]), "boolean"),
        (pa.array(["1", "2"]), None),
        (pa.array([2, 1]).dictionary_encode(), "integer"),
    ],
    ids=str,
)
def test_the_type_of_labels_of_parquet(labels, label_type, tmp_path):
    pq.write_table(pa.table({"text": ["it", "is"], "label": labels}), tmp_path / "rows.parquet")
    data = load_texts(str(tmp_path / "rows.parquet"))
    assert data.label_type == label_type
    values, kind = label_values(data.labels, label_type)
    assert values == labels.to_pylist()
    assert kind == {"integer": pa.int64(), "boolean": pa.bool_(), None: pa.string()}[label_type]


@pytest.mark.parametrize("names", [["1", "x"], ["01", "1"], ["-0", "0"], [f"{2**63}"], ["True", "1"]])
def test_names_that_are_no_such_values_stay_text(names):
    for label_type in ("integer", "boolean", None, "another"):
        assert label_values(names, label_type) == (names, pa.string())
