"""Runs the notebook of the docs from its first cell to its last, and keeps what came out, in its place.

    python tools/notebook.py    # trains MiniLM for a quarter of an hour

docs/hooks.py makes a page of it; tests/docs/test_notebook.py runs its cells with a tiny encoder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
FILE = ROOT / "docs" / "guides" / "notebook.ipynb"
OF_THE_MACHINE = "TqdmWarning"  # that no widgets are installed


def cleaned(outputs: list[Any]) -> list[Any]:
    """Leave out what is said of the machine, and where the repository lies on it."""
    kept = [output for output in outputs if OF_THE_MACHINE not in output.get("text", "")]
    for output in kept:
        if "text" in output:
            output["text"] = output["text"].replace(f"{ROOT}/", "")
    return kept


def main() -> None:
    """Run all cells in a new kernel."""
    notebook = nbformat.read(FILE, as_version=4)
    NotebookClient(notebook, timeout=None, record_timing=False).execute(cwd=str(FILE.parent))
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = cleaned(cell.outputs)
    nbformat.write(notebook, FILE)
    print(f"wrote {FILE}")


if __name__ == "__main__":
    main()
