"""Figures of a checkout: files, folders, lines, the longest, and what ``import sharcs`` costs.

    python tools/figures.py CHECKOUT [CHECKOUT ...]

Seconds of an import are those of processes in turns, as a ratio to ``from transformers import PreTrainedModel``.
"""

from __future__ import annotations

import ast
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

TURNS = 7
PLAIN = "from transformers import PreTrainedModel"


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count a function's lines behind its signature and its docstring."""
    body = function.body
    if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        body = body[1:]
    return 0 if not body else (body[-1].end_lineno or 0) - body[0].lineno + 1


def of_source(checkout: Path) -> dict[str, object]:
    """Count the files below ``src``."""
    files = sorted((checkout / "src").rglob("*.py"))
    lines = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    functions = [
        (code_lines(node), f"{file.name}:{node.name}")
        for file in files
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    longest = max(lines, key=lambda file: lines[file])
    per_folder = [sum(file.parent == folder for file in files) for folder in {file.parent for file in files}]
    return {
        "files": len(files),
        "folders": len(per_folder),
        "most files in a folder": max(per_folder),
        "lines": sum(lines.values()),
        "longest file": f"{lines[longest]} ({longest.name})",
        "longest function": "{} ({})".format(*max(functions)),
        "lines of tests": sum(
            len(file.read_text(encoding="utf-8").splitlines()) for file in (checkout / "tests").rglob("*.py")
        ),
    }


def seconds(program: str, source: Path) -> float:
    """Time a process that runs a line of Python."""
    start = time.perf_counter()
    environment = os.environ | {"PYTHONPATH": str(source)}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, capture_output=True)
    return time.perf_counter() - start


def of_import(checkout: Path) -> dict[str, object]:
    """Measure ``import sharcs``: its own modules, and its time beside that of transformers."""
    source = checkout / "src"
    count = "import sys, sharcs; print(sum(name.split('.')[0].startswith('sharcs') for name in sys.modules))"
    environment = os.environ | {"PYTHONPATH": str(source)}
    modules = subprocess.run(
        [sys.executable, "-c", count], env=environment, check=True, capture_output=True, text=True
    )
    ratios = []
    for _ in range(TURNS + 1):
        ratios.append(seconds("import sharcs", source) / seconds(PLAIN, source))
    return {
        "modules of ours at import": int(modules.stdout.split()[-1]),
        "import over transformers'": round(statistics.median(ratios[1:]), 2),
    }


def main() -> None:
    """Print a column for every checkout."""
    checkouts = [Path(name).resolve() for name in sys.argv[1:]]
    columns = [{**of_source(checkout), **of_import(checkout)} for checkout in checkouts]
    print(f"| | {' | '.join(checkout.name for checkout in checkouts)} |")
    print("|---" * (len(columns) + 1) + "|")
    for name in columns[0]:
        print(f"| {name} | {' | '.join(str(column[name]) for column in columns)} |")


if __name__ == "__main__":
    main()
