"""Zstandard files, against the command `zstd`."""

import csv
import shutil
import subprocess

import pyarrow as pa
import pytest

from sharcs.data.tables import read_table, write_table
from sharcs.errors import InputError

pytestmark = pytest.mark.skipif(shutil.which("zstd") is None, reason="needs the command zstd")
ROWS = {"text": [f"text\n{number} é" for number in range(9)]}


def zstd(content, *options):
    command = ["zstd", "--quiet", "--stdout", *options]
    return subprocess.run(command, input=content, capture_output=True, check=True).stdout


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_what_zstd_writes_is_read(tmp_path, encoding):
    path = tmp_path / "t.csv.zst"
    content = "text\n" + "".join(f'"{text}"\n' for text in ROWS["text"])
    half = len(content.encode(encoding)) // 2
    packed = zstd(content.encode(encoding)[:half]) + zstd(content.encode(encoding)[half:])  # two frames
    path.write_bytes(packed)
    assert read_table(path).to_pydict() == ROWS


@pytest.mark.parametrize("name", ["t.csv.zst", "t.jsonl.zst", "t.parquet.zst"])
def test_zstd_reads_what_is_written_which_is_the_same_each_time(tmp_path, name):
    plain = tmp_path / name.removesuffix(".zst")
    write_table(pa.table(ROWS), tmp_path / name)
    write_table(pa.table(ROWS), plain)
    content = (tmp_path / name).read_bytes()
    assert zstd(content, "--decompress") == plain.read_bytes()
    write_table(pa.table(ROWS), tmp_path / name)
    assert (tmp_path / name).read_bytes() == content
    if name.endswith(".csv.zst"):
        assert [row["text"] for row in csv.DictReader(plain.open(newline=""))] == ROWS["text"]


@pytest.mark.parametrize("name", ["t.csv.zst", "t.jsonl.zst", "t.parquet.zst"])
def test_broken_files_are_one_line(tmp_path, name):
    path = tmp_path / name
    write_table(pa.table(ROWS), path)
    whole = path.read_bytes()
    for content, says in (
        (whole[:-3], "cannot be read"),
        (b"no frame at all", "cannot be read"),
        (b"", "has no rows"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError) as caught:
            read_table(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert says in str(caught.value)
