"""Rows that are drawn from many tables in one pass, against a draw from all of them at once."""

import gzip
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from helpers.cli import error_message, read_csv, sharcs, succeeds, write_csv
from records.make import HERE, ROWS
from sharcs.data.sample import Reservoir, sample_texts
from sharcs.data.texts import Columns, load_texts
from sharcs.errors import InputError

MODEL = HERE / "plus-2"


def write_all(folder, rows):
    """Write rows as three files of three formats, in the order in which a directory is read."""
    folder.mkdir()
    write_csv(folder / "a.csv", rows[:150])
    lines = "".join(json.dumps(row) + "\n" for row in rows[150:170])
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    write_csv(folder / "c.tsv", rows[170:], "\t")
    return folder


def drawn(count, seed, rows):
    """Draw all at once: the rows with the least random numbers, in their order."""
    keys = np.random.default_rng((seed, *b"reservoir")).random(len(rows))
    return [rows[index] for index in sorted(np.argsort(keys)[:count])]


@pytest.mark.parametrize("count", [1, 30, 399, 400, 1000])
@pytest.mark.parametrize("chunk", [7, 8192])
def test_one_pass_draws_what_all_at_once_would(tmp_path, monkeypatch, count, chunk):
    monkeypatch.setattr("sharcs.data.files.textfiles.in_chunks.__defaults__", (chunk,))
    rows = read_csv(ROWS)
    folder = write_all(tmp_path / "data", rows)
    sample = sample_texts([str(folder)], Columns(), max_samples=count, seed=3, also=["source"])
    expected = drawn(count, 3, rows)
    assert sample.rows == 400
    assert sample.texts.texts == [row["text"] for row in expected]
    assert sample.texts.labels == [row["label"] for row in expected]
    assert sample.texts.table.column("source").to_pylist() == [row["source"] for row in expected]


def test_every_row_has_the_same_chance_and_few_are_kept():
    times, kept = np.zeros(40), 0
    for seed in range(1500):
        reservoir = Reservoir(4, seed)
        for start in range(0, 40, 5):
            chosen = reservoir.draw(5)
            reservoir.add(pa.table({"row": start + chosen}))
            kept = max(kept, sum(part.num_rows for part in reservoir._parts))
        times[reservoir.rows()["row"].to_pylist()] += 1
    assert times.sum() == 4 * 1500
    assert kept < 8
    # 99.9% of the chi-square distribution with 39 degrees of freedom is below 72.1.
    assert ((times - 150) ** 2 / 150).sum() < 72.1


def test_a_wrong_row_is_named_by_its_file_and_number(tmp_path):
    rows = read_csv(ROWS)
    rows[180] = rows[180] | {"text": " "}
    folder = write_all(tmp_path / "data", rows)
    with pytest.raises(InputError) as caught:
        sample_texts([str(folder)], Columns())
    assert str(caught.value).startswith(f"{folder / 'c.tsv'}: row 11: the text is empty")
    assert "it must be at least 1" in error_message(
        sharcs("calibrate", MODEL, "--data", folder, "--budget", 0.9, "--max-samples", 0)
    )


def test_tables_of_two_kinds_are_refused(tmp_path):
    write_csv(tmp_path / "a.csv", [{"text": "a", "label": "x"}])
    write_csv(tmp_path / "b.csv", [{"text": "a", "tag": "x"}])
    with pytest.raises(InputError, match=r"a\.csv and 1 more: have different columns"):
        sample_texts([str(tmp_path)], Columns(), labelled=False)
    with pytest.raises(InputError, match=r"b\.csv: no column 'label'; it has 'text', 'tag'; name"):
        sample_texts([str(tmp_path)], Columns())


def test_labels_are_those_that_each_table_has_by_itself(tmp_path):
    lines = ('{"text": "a", "label": 2.0}', '{"text": "b", "label": 1}', '{"text": "c", "label": true}')
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    pyarrow.parquet.write_table(pa.table({"text": ["d", "e"], "label": [4.0, 5.0]}), tmp_path / "b.parquet")
    names = [str(tmp_path / name) for name in ("a.jsonl", "b.parquet")]
    for one in names:
        assert sample_texts([one], Columns()).texts.labels == load_texts(one).labels
    assert load_texts(names[0]).labels == ["2", "1", "True"]


def test_a_wrong_label_is_named_or_leaves_all_unlabelled(tmp_path, monkeypatch):
    monkeypatch.setattr("sharcs.data.files.textfiles.in_chunks.__defaults__", (3,))
    write_csv(tmp_path / "a.csv", [{"text": "a", "label": "x"}])
    write_csv(tmp_path / "b.csv", [{"text": text, "label": "x" if text == "b" else ""} for text in "bbbc"])
    with pytest.raises(InputError, match=r"b\.csv: row 4: the label is missing"):
        sample_texts([str(tmp_path)], Columns())
    sample = sample_texts([str(tmp_path)], Columns(), labelled=False)
    assert (sample.texts.labels, sample.texts.texts) == (None, ["a", "b", "b", "b", "c"])


def test_a_calibration_on_a_sample_is_the_one_on_a_file_of_these_rows(tmp_path):
    copy = tmp_path / "model"
    copy.mkdir()
    for path in MODEL.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    rows = read_csv(ROWS)
    folder = write_all(tmp_path / "data", rows)
    options = ("--max-disagreement", 0.4, "--group-column", "source")

    def calibrated(*data):
        run = succeeds("calibrate", copy, *data, *options)
        return json.loads((copy / "config.json").read_text()), run

    many, run = calibrated("--data", folder, "--max-samples", 200, "--seed", 5)
    assert "200 of 400 rows are drawn" in run.err
    alone, _ = calibrated("--data", write_csv(tmp_path / "alone.csv", drawn(200, 5, rows)))
    found, expected = many["calibration"], alone["calibration"]
    assert (found.pop("drawn_from"), found.pop("draw_seed")) == (400, 5)
    assert found.pop("data") == f"{folder / 'a.csv'} and 2 more"
    assert expected.pop("data") == f"{tmp_path / 'alone.csv'}"
    assert found == expected
    assert many["policy"] == alone["policy"]


@pytest.mark.parametrize("options", [("--seed", 3), ("--seed", -1, "--max-samples", 20)])
def test_a_seed_is_for_a_draw_and_none_is_below_0(options, tmp_path):
    copy = shutil.copytree(MODEL, tmp_path / "model")
    message = error_message(sharcs("calibrate", copy, "--data", ROWS, "--budget", 0.9, *options))
    assert message.startswith(f"--seed {options[1]}: is a number from 0 on for the draw of --max-samples")
