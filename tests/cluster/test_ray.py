"""The stage in Ray Data: the page's code, and an actor that is killed at work; ``make test-cluster`` runs this."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from docs.test_blocks import blocks_of
from helpers.cli import read_csv, succeeds
from helpers.exported import MODEL, export_record
from helpers.mortal import Mortal
from records.make import ROWS

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
ray = pytest.importorskip("ray")
pytest.importorskip("ray.data")

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "many-texts.md"
COUNT = 400


@pytest.fixture(scope="module")
def cluster():
    """Start a node of this machine: two actors take two of its processors, and reading needs one, too."""
    to_tests = {"env_vars": {"PYTHONPATH": str(Path(__file__).parents[1])}}
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, configure_logging=False, runtime_env=to_tests)
    yield
    ray.shutdown()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Write a model and four files of numbered texts, in a directory that the test runs in."""
    monkeypatch.chdir(tmp_path)
    export_record(MODEL, tmp_path / "my-model")
    (tmp_path / "texts").mkdir()
    texts = [row["text"] for row in read_csv(ROWS)][:COUNT]
    for part in range(4):
        numbers = range(part * COUNT // 4, (part + 1) * COUNT // 4)
        table = pa.table({"text": [texts[number] for number in numbers], "number": list(numbers)})
        pq.write_table(table, tmp_path / "texts" / f"{part}.parquet")
    return tmp_path


def expected(home):
    """Have one process of ``sharcs predict`` answer the same."""
    succeeds("predict", "my-model", "--data", "texts", "--output", "alone", "--workers", 1)
    return by_number(pq.read_table("alone"))


def by_number(table):
    """List class and width of each row, by its number."""
    rows = zip(*(table.column(name).to_pylist() for name in ("number", "prediction", "width")), strict=True)
    return sorted(rows)


def test_the_code_of_the_page_answers_each_row_once(cluster, home):
    (block,) = [block for block in blocks_of(PAGE) if "import ray" in block.code]
    code = block.code.replace('"texts"', f'"{home}/texts"').replace('"my-model"', f'"{home}/my-model"')
    exec(code.replace('"answers-of-ray"', f'"{home}/answers-of-ray"'), {})
    assert by_number(pq.read_table(home / "answers-of-ray")) == expected(home)


def test_a_killed_actor_costs_no_row(cluster, home):
    marker = str(home / "killed")
    answers = ray.data.read_parquet(str(home / "texts")).map_batches(
        Mortal,
        fn_constructor_kwargs={"folder": str(home / "my-model"), "marker": marker},
        batch_size=20,
        concurrency=2,
    )
    found = pa.concat_tables([pa.Table.from_pandas(frame) for frame in answers.iter_batches(batch_format="pandas")])
    assert os.path.exists(marker)
    assert by_number(found) == expected(home)
