"""How large the code is and how fast it starts, of any number of checkouts: files, lines, functions, import, tests.

    git worktree add /tmp/before 51ed7c4
    python benchmarks/code_size.py before=/tmp/before after=.            # keeps the seconds of tests that are known
    python benchmarks/code_size.py before=/tmp/before after=. --tests    # runs both test suites, too

``import sharcs`` is set against ``from transformers import PreTrainedModel``, each in fresh processes, in turns, so
that what else slows the machine meets all; seconds are the processor's, and a ratio is the median of the rounds'
ratios. Test suites run one after the other, as CI runs them, so run them with nothing else running. Writes
benchmarks/results/code_size.json, of which tools/docs_tables.py makes a table.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from common import RESULTS, machine, save

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from test_layout import code_of_functions, lines_with_code

FILE = RESULTS / "code_size.json"
ROUNDS = 5
PLAIN = "from transformers import PreTrainedModel"
OURS = "import sharcs"
PROGRAM = """
import sys, time
start, before = time.process_time(), len(sys.modules)
{statement}
print(time.process_time() - start, len(sys.modules) - before)
"""
PYTEST = (
    "-m",
    "pytest",
    "-q",
    "-p",
    "no:cacheprovider",
    "-m",
    "not extended",
    "--numprocesses",
    "2",
    "--dist",
    "loadfile",
)


def docstring_lines(source: str) -> set[int]:
    """Number the lines of docstrings."""
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    firsts = [
        node.body[0]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, documented) and ast.get_docstring(node) is not None
    ]
    return {line for first in firsts for line in range(first.lineno, (first.end_lineno or first.lineno) + 1)}


def size_of(folder: Path) -> dict[str, Any]:
    """Count files and lines of the Python code below a folder."""
    sources = {path: path.read_text(encoding="utf-8") for path in sorted(folder.rglob("*.py"))}
    lengths = {str(path.relative_to(folder)): len(source.splitlines()) for path, source in sources.items()}
    functions = {
        f"{path.relative_to(folder)} {name}": count
        for path, source in sources.items()
        for name, count in code_of_functions(source).items()
    }
    folders: dict[str, int] = {}
    packages: dict[str, int] = {}
    for name, length in lengths.items():
        if not name.endswith("__init__.py"):
            folders[str(Path(name).parent)] = folders.get(str(Path(name).parent), 0) + 1
        packages[name.split("/")[0]] = packages.get(name.split("/")[0], 0) + length
    longest, function = max(lengths, key=lengths.__getitem__), max(functions, key=functions.__getitem__)
    return {
        "files": len(sources),
        "folders": len(folders),
        "most_files_in_a_folder": max(folders.values()),
        "lines": sum(lengths.values()),
        "lines_of_code": sum(len(lines_with_code(source) - docstring_lines(source)) for source in sources.values()),
        "lines_by_package": packages,
        "longest_file": [longest, lengths[longest]],
        "longest_function": [function, functions[function]],
    }


def imported(statement: str, checkout: Path) -> tuple[float, int]:
    """Measure seconds of the processor, and modules, that a statement takes in a fresh process."""
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(statement=statement)],
        env=os.environ | {"PYTHONPATH": str(checkout / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, modules = run.stdout.split()
    return float(seconds), int(modules)


def starts(checkouts: dict[str, Path]) -> dict[str, dict[str, float]]:
    """Measure the import in turns, after a round that counts for nothing."""
    some = next(iter(checkouts.values()))
    arms = {"": (PLAIN, some), **{name: (OURS, checkout) for name, checkout in checkouts.items()}}
    rounds: list[dict[str, tuple[float, int]]] = []
    for number in range(ROUNDS + 1):
        shift = number % len(arms)
        order = list(arms)[shift:] + list(arms)[:shift]
        rounds.append({name: imported(*arms[name]) for name in order})
    del rounds[0]
    return {
        name: {
            "import_seconds_ratio": statistics.median(each[name][0] / each[""][0] for each in rounds),
            "import_modules_ratio": statistics.median(each[name][1] / each[""][1] for each in rounds),
        }
        for name in checkouts
    }


def test_seconds(checkout: Path) -> float:
    """Run a checkout's tests, as its CI does."""
    start = time.monotonic()
    environment = os.environ | {"PYTHONPATH": str(checkout / "src")}
    subprocess.run([sys.executable, *PYTEST], cwd=checkout, env=environment, check=True)
    return time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--tests", action="store_true", help="run the test suites, too")
    options = parser.parse_args()
    checkouts = {
        name: Path(folder).resolve() for name, _, folder in (text.partition("=") for text in options.checkouts)
    }
    known = json.loads(FILE.read_text())["checkouts"] if FILE.exists() else {}
    imports = starts(checkouts)
    found = {}
    for name, checkout in checkouts.items():
        tests = size_of(checkout / "tests")
        seconds = test_seconds(checkout) if options.tests else known.get(name, {}).get("test_seconds")
        found[name] = {
            "src": size_of(checkout / "src"),
            **imports[name],
            "test_files": tests["files"],
            "test_lines": tests["lines"],
            "test_seconds": seconds,
        }
        print(name, json.dumps(found[name], indent=1), flush=True)
    save(FILE, {"checkouts": found, "rounds": ROUNDS, **machine()})


if __name__ == "__main__":
    main()
