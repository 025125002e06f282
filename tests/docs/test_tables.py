"""The tables of README and docs are what the scripts make of the committed results, and their numbers are right."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from helpers import encoders, media

ROOT = Path(__file__).parents[2]


def script(folder, name):
    """Load a script that belongs to no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", name="docs_tables")
def docs_tables_fixture():
    before = list(sys.path)
    yield script("tools", "docs_tables")
    sys.path[:] = before


@pytest.fixture(scope="module", name="tables")
def tables_fixture():
    return script("benchmarks", "tables")


def rows_of(table):
    """Take a Markdown table apart: a list of cells for every row behind the headings."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_every_table_in_readme_and_docs_is_what_its_script_writes(docs_tables):
    places = 0
    for page in docs_tables.pages():
        text = page.read_text(encoding="utf-8")
        places += len(docs_tables.PLACE.findall(text))
        assert text.count("<!-- table:") == len(docs_tables.PLACE.findall(text)), f"{page}: a table has no end"
        assert docs_tables.filled(text) == text, f"{page}: run python tools/docs_tables.py"
    assert places >= 10


def test_every_encoder_that_is_tested_is_in_the_table_of_encoders(docs_tables):
    rows = rows_of(docs_tables.encoder_table())
    tested = {name for row in rows for name in re.findall(r"`([^`]+)`", row[4])}
    assert tested == {*encoders.ENCODERS, *media.MEDIA}
    by_type = {row[1]: row for row in rows}
    assert by_type["`deberta-v2`"][2] == "texts, token classification, question answering"
    assert by_type["`esm`"][2] == "texts, token classification"
    assert by_type["`vit`"][2:4] == ["images", "`final_norm`"]
    assert by_type["`bert`"][3] == ""


def run_of(name, seed, full, narrow, routed, cost):
    return {
        "set": name,
        "seed": seed,
        "train_rows": 1000,
        "full": {"accuracy": full},
        "routed": {"accuracy": routed, "flops_ratio": cost},
        "widths": [{"accuracy": narrow, "flops_ratio": 0.375}, {"accuracy": full, "flops_ratio": 1.0}],
        "random": {"accuracy": 0.75},
    }


def test_own_full_takes_means_over_seeds_and_shows_what_each_seed_loses(tables):
    content = {"runs": [run_of("a", 0, 0.9, 0.8, 0.87, 0.5), run_of("a", 1, 0.8, 0.8, 0.81, 0.7)]}
    (row,) = rows_of(tables.own_full(content))
    assert row == ["a", "1,000", "2", "85.0", "80.0", "38", "84.0", "60", "75.0", "1.0 (3.0, -1.0)"]


SOURCE = '''"""Say what it is."""

# why
SIZE = 3


def area(
    side: int,
) -> int:
    """Say what it does.

    Longer.
    """
    # why
    return side * side
'''


def test_code_is_counted_without_comments_and_docstrings(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    (tmp_path / "one" / "two").mkdir(parents=True)
    (tmp_path / "one" / "__init__.py").write_text("")
    (tmp_path / "one" / "two" / "area.py").write_text(SOURCE)
    assert script("benchmarks", "code_size").size_of(tmp_path) == {
        "files": 2,
        "folders": 1,
        "most_files_in_a_folder": 1,
        "lines": 15,
        "lines_of_code": 5,
        "lines_by_package": {"one": 15},
        "longest_file": ["one/two/area.py", 15],
        "longest_function": ["one/two/area.py area", 1],
    }


def test_code_size_has_a_column_a_checkout(tables):
    def checkout(lines, seconds):
        src = dict.fromkeys(("files", "folders", "most_files_in_a_folder", "lines_of_code"), 2)
        src |= {"lines": lines, "lines_by_package": {"one": lines}, "longest_file": ["one/a.py", lines]}
        ratios = {"import_modules_ratio": 1.5, "import_seconds_ratio": 1.25}
        rest = {"test_files": 1, "test_lines": 1000, "test_seconds": seconds}
        return {"src": src | {"longest_function": ["one/a.py f", 1]}, **ratios, **rest}

    def rows_with(seconds):
        content = {"checkouts": {"before": checkout(2500, 60.4), "after": checkout(1500, seconds)}}
        return {row[0]: row[1:] for row in rows_of(tables.code_size(content))}

    rows = rows_with(30.6)
    assert rows["lines of `src`"] == rows["lines of `one`"] == ["2,500", "1,500"]
    assert rows["lines of the longest file"] == ["2500 (`one/a.py`)", "1500 (`one/a.py`)"]
    assert rows["seconds of the processor that it takes, over those"] == ["1.25", "1.25"]
    assert rows["seconds of the tests"] == ["60", "31"]
    assert "seconds of the tests" not in rows_with(None)
