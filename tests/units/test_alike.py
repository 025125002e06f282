"""What holds for one table of ``sharcs predict`` holds for many: dialects, types of classes, texts that were cut."""

import gzip
import json
import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.cli import error_message, read_csv, sharcs, succeeds, write_csv
from helpers.units import with_labels
from records.make import HERE, ROWS
from sharcs.data.dialects import Dialect

MODEL = HERE / "plus-2"
DIALECT = ("--encoding", "cp1252", "--delimiter", ";", "--no-quotes")


def zstd(content):
    """Pack bytes by Arrow."""
    return pa.compress(content, "zstd", asbytes=True)


def test_many_files_are_written_in_the_dialect_that_they_are_read_in(tmp_path):
    (tmp_path / "data").mkdir()
    texts = [row["text"] for row in read_csv(ROWS)[:4]]
    content = "".join(
        f"{line}\n" for line in ["id;text", *(f'"{number}, é;"{text}' for number, text in enumerate(texts))]
    )
    for name, pack in {"a.csv": bytes, "b.tsv.gz": gzip.compress, "c.csv.zst": zstd}.items():
        (tmp_path / "data" / name).write_bytes(pack(content.encode("cp1252")))
    words = ("predict", MODEL, "--workers", 1, *DIALECT)
    succeeds(*words, "--data", tmp_path / "data", "--output", tmp_path / "out")
    assert (tmp_path / "out" / "a.csv").read_text(encoding="utf-8").splitlines()[1].startswith(f'"0, é;"{texts[0]};')
    for path in (tmp_path / "data").iterdir():
        succeeds("predict", MODEL, *DIALECT, "--data", path, "--output", tmp_path / path.name)
        assert (tmp_path / path.name).read_bytes() == (tmp_path / "out" / path.name).read_bytes()
    assert pickle.loads(pickle.dumps(Dialect("cp1252", ";", True))) == Dialect("cp1252", ";", True)  # for processes


@pytest.mark.parametrize("others", [("--delimiter", "|"), (), DIALECT[2:4]])
def test_a_directory_that_was_begun_in_another_dialect_is_refused(others, tmp_path):
    (tmp_path / "a.csv").write_text("text;id|more\nit is fine;7|8\n", encoding="utf-8")
    words = ("predict", MODEL, "--data", tmp_path / "a.csv", "--output", tmp_path / "out", "--workers", 1)
    columns = ("--text-column", "text")
    succeeds(*words, *columns, *DIALECT[2:])
    message = error_message(sharcs(*words, *columns, *others))
    kind = "no quotes" if others == DIALECT[2:4] else "delimiter"
    assert f"--output {tmp_path / 'out'}: was begun with another {kind}" in message


def test_names_that_need_quotes_are_refused_before_any_unit(tmp_path):
    model = with_labels(MODEL, tmp_path / "model", {"bad": "b;d", "good": "good", "odd": "odd"}, None)
    pq.write_table(pa.table({"text": ["it is fine"]}), tmp_path / "a.parquet")
    (tmp_path / "b.csv").write_text("text;id\nit is fine;7\n", encoding="utf-8")
    words = ("--data", tmp_path / "a.parquet", "--data", tmp_path / "b.csv", "--output", tmp_path / "out")
    message = error_message(sharcs("predict", model, *words, *DIALECT, "--workers", 1))
    assert f"{tmp_path / 'out' / 'b.csv'}: the name: 'b;d' (column 'name') can't be written without" in message
    assert not [path for path in (tmp_path / "out").rglob("*") if path.suffix in (".csv", ".parquet", ".json")]


def test_predictions_of_many_files_have_the_type_of_the_labels(tmp_path):
    model = with_labels(MODEL, tmp_path / "model", {"bad": "-3", "good": "0", "odd": "7"}, "integer")
    texts = [row["text"] for row in read_csv(ROWS)[:9]]
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table({"text": [*texts, None]}), tmp_path / "data" / "a.parquet")
    lines = (json.dumps({"text": text}) + "\n" for text in (*texts, ""))
    (tmp_path / "data" / "b.jsonl").write_text("".join(lines), encoding="utf-8")
    words = ("--data", tmp_path / "data", "--output", tmp_path / "out", "--workers", 1, "--on-error", "keep")
    succeeds("predict", model, *words)
    column = pq.read_table(tmp_path / "out" / "a.parquet").column("prediction")
    assert column.type == pa.int64()
    written = (tmp_path / "out" / "b.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["prediction"] for line in written] == column.to_pylist()
    assert {type(value) for value in column.to_pylist()[:9]} == {int}
    assert column.to_pylist()[9] is None


def test_texts_of_many_files_that_were_cut_are_counted(tmp_path):
    (tmp_path / "data").mkdir()
    texts = [("it " * count).strip() for count in range(4, 28)] + [" "]
    write_csv(tmp_path / "data" / "a.csv", [{"text": text} for text in texts[:14]])
    write_csv(tmp_path / "data" / "b.csv", [{"text": text} for text in texts[14:]])
    write_csv(tmp_path / "all.csv", [{"text": text} for text in texts[:-1]])
    alone = succeeds("predict", MODEL, "--data", tmp_path / "all.csv", "--output", tmp_path / "all-out.csv")
    (note,) = [line for line in alone.err.splitlines() if "were cut there" in line]
    assert "note: 13 of 24 texts have more than 16 tokens" in note
    words = ("--data", tmp_path / "data", "--output", tmp_path / "out", "--on-error", "keep")
    for _ in range(2):  # the second time all is done
        run = succeeds("predict", MODEL, *words, "--workers", 1)
        assert note in run.err.splitlines()
