"""The notebook of the docs: it was run from its first cell to its last, and its code works as it stands."""

from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pytest

from records.make import save_small_encoder

FILE = Path(__file__).parents[2] / "docs" / "guides" / "notebook.ipynb"


@pytest.fixture(scope="module")
def cells():
    """List the cells of code."""
    return [cell for cell in nbformat.read(FILE, as_version=4).cells if cell.cell_type == "code"]


def test_the_notebook_was_run_in_order_and_without_an_error(cells):
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {"stream", "execute_result", "display_data"}
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert any("text/html" in output.get("data", {}) for output in outputs)
    said = [output.text for output in outputs if output.output_type == "stream" and output.name == "stderr"]
    assert all(
        "UserWarning: validation: 4 of the 1,000 rows" in text and str(Path.home()) not in text for text in said
    )


def test_the_cells_work_with_any_encoder(cells, tmp_path, monkeypatch):
    save_small_encoder(tmp_path / "encoder")
    monkeypatch.setattr(plt, "show", lambda: None)
    names = {}
    for cell in cells:
        exec(compile(cell.source, "cell", "exec"), names)
        if "parameters" in cell.metadata.get("tags", []):
            names |= {"ENCODER": str(tmp_path / "encoder"), "TRAIN_ROWS": 100, "VALIDATION_ROWS": 200}
            names["SETTINGS"] = {"max_length": 16, "epochs": 1}
    assert len(names["same"]) == 200
    assert names["points"]
