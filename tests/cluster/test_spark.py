"""The stage in Spark: the page's code on a cluster of this machine; ``make test-cluster`` runs this."""

import os
import shutil
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from docs.test_blocks import blocks_of
from helpers.cli import read_csv, succeeds
from helpers.exported import MODEL, export_record
from records.make import ROWS

pyspark = pytest.importorskip("pyspark")
if shutil.which("java") is None:
    pytest.skip("Spark needs Java", allow_module_level=True)

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "many-texts.md"


@pytest.fixture(scope="module")
def cluster():
    """Start two executors of one processor on this machine."""
    from pyspark.sql import SparkSession

    os.environ.update(PYSPARK_PYTHON=sys.executable, SPARK_HOME=str(Path(pyspark.__file__).parent))
    builder = SparkSession.builder.master("local-cluster[2,1,1024]").config("spark.ui.enabled", "false")
    session = builder.getOrCreate()
    yield session
    session.stop()


def test_the_code_of_the_page_answers_each_row_once(cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    export_record(MODEL, tmp_path / "my-model")
    (tmp_path / "texts").mkdir()
    texts = [row["text"] for row in read_csv(ROWS)]
    for part in range(4):
        numbers = range(100 * part, 100 * part + 100)
        table = pa.table({"text": [texts[number] for number in numbers], "number": list(numbers)})
        pq.write_table(table, tmp_path / "texts" / f"{part}.parquet")
    (block,) = [block for block in blocks_of(PAGE) if "pyspark" in block.code]
    code = block.code
    for name in ("texts", "my-model", "answers-of-spark"):
        code = code.replace(f'"{name}"', f'"{tmp_path}/{name}"')
    exec(code, {})
    succeeds("predict", "my-model", "--data", "texts", "--output", "alone", "--workers", 1)

    def by_number(folder):
        table = pq.read_table(folder)
        columns = (table.column(name).to_pylist() for name in ("number", "prediction", "width"))
        return sorted(zip(*columns, strict=True))

    found = by_number(tmp_path / "answers-of-spark")
    assert len(found) == 400
    assert found == by_number(tmp_path / "alone")
