"""Runs the notebook of the docs from its first cell to its last, and keeps what came out, in its place.

    python tools/notebook.py    # trains MiniLM for some minutes

docs/hooks.py makes a page of it; tests/docs/test_notebook.py runs its cells with a tiny encoder.
"""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbclient import NotebookClient

FILE = Path(__file__).parents[1] / "docs" / "guides" / "notebook.ipynb"


def main() -> None:
    """Run all cells in a new kernel."""
    notebook = nbformat.read(FILE, as_version=4)
    NotebookClient(notebook, timeout=None, record_timing=False).execute(cwd=str(FILE.parent))
    nbformat.write(notebook, FILE)
    print(f"wrote {FILE}")


if __name__ == "__main__":
    main()
