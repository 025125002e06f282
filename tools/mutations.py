"""Breaks what a test is there for, one mend at a time, in a copy of ``src``, and says whether the test sees it.

``python tools/mutations.py [NAME...]`` applies the changes of ``tools/mutations.toml``, all that have not been seen
yet or those that are named, and keeps what it finds in ``benchmarks/results/mutations.json`` after each.
``unchanged`` runs all the tests on the code as it is, where they have to pass.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "tools" / "mutations.toml"
RESULTS = ROOT / "benchmarks" / "results" / "mutations.json"
UNCHANGED = "unchanged"
SEEN, NOT_SEEN, MOVED, PASSED, FAILED = "seen", "NOT SEEN", "text has moved", "passed", "FAILED"
SLOW_IMPORTS = ("torch", "transformers", "datasets", "sklearn")  # once for all, and nothing of src


def main(names: list[str]) -> int:
    """Try what is named, or what has not been seen."""
    table = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    unknown = sorted(set(names) - {*table, UNCHANGED})
    if unknown:
        print(f"{', '.join(unknown)}: no such mutation")
        return 2
    for module in SLOW_IMPORTS:
        importlib.import_module(module)
    known = read_results()
    wanted = names or [name for name in [*table, UNCHANGED] if not is_known(known.get(name), table.get(name))]
    for name in wanted:
        found = passes(table) if name == UNCHANGED else tried(table[name])
        record(name, found)
        print(f"{name}: {found['outcome']}", *found.get("not_seen", ()), flush=True)
    outcomes = [entry["outcome"] for name, entry in read_results().items() if name in table]
    print(f"{outcomes.count(SEEN)} of {len(table)} mutations were seen")
    return 0 if outcomes.count(SEEN) == len(table) else 1


def is_known(found: dict | None, mutation: dict | None) -> bool:
    """Tell whether a result is that of the table's change and tests, and a good one."""
    if found is None or mutation is None:
        return found is not None and found["outcome"] == PASSED
    return found["outcome"] == SEEN and all(found[part] == mutation[part] for part in ("edits", "tests"))


def tried(mutation: dict) -> dict:
    """Run the tests of a mutation in a copy that has it; each of them has to fail."""
    with tempfile.TemporaryDirectory(prefix="sharcs-mutation-") as folder:
        copied = Path(shutil.copytree(ROOT / "src", Path(folder) / "src"))
        for path, old, new in mutation["edits"]:
            text = (copied / path).read_text(encoding="utf-8")
            if text.count(old) != 1:
                return {**mutation, "outcome": MOVED, "not_seen": [f"{path}: {old!r}, {text.count(old)} times"]}
            (copied / path).write_text(text.replace(old, new), encoding="utf-8")
        failed = failures(copied, mutation["tests"], Path(folder))
    missed = [test for test in mutation["tests"] if not any(is_of(test, one) for one in failed)]
    return {**mutation, "outcome": NOT_SEEN if missed else SEEN, "failed": sorted(failed), "not_seen": missed}


def passes(table: dict) -> dict:
    """Run all tests on the code as it is."""
    tests = sorted({test for mutation in table.values() for test in mutation["tests"]})
    with tempfile.TemporaryDirectory(prefix="sharcs-mutation-") as folder:
        failed = failures(ROOT / "src", tests, Path(folder))
    return {"tests": tests, "outcome": FAILED if failed else PASSED, "not_seen": sorted(failed)}


def is_of(test: str, one: str) -> bool:
    """Tell whether a test that has failed is the named one, or the named one for some parameters."""
    return one == test or one.startswith(f"{test}[")


def failures(source: Path, tests: list[str], folder: Path) -> set[str]:
    """Name the tests that fail, by themselves and not in what they are given; a test alone may kill its process.

    They run in a fork of this process, which has imported what takes long.
    """
    folder.chmod(0o755)  # tests let other users in
    log = folder / "log"
    process = os.fork()
    if process == 0:
        with log.open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        os.chdir(ROOT)
        sys.path.insert(0, str(source))
        os.environ["PYTHONPATH"] = str(source)
        code = pytest.main(
            ["-q", "-p", "no:cacheprovider", "-rfE", "--tb=line", f"--basetemp={folder / 'tmp'}", *tests]
        )
        sys.stdout.flush()
        os._exit(int(code))
    _, status = os.waitpid(process, 0)
    text = re.sub("\x1b\\[[0-9;]*m", "", log.read_text(encoding="utf-8", errors="replace"))
    if (code := os.waitstatus_to_exitcode(status)) < 0 and len(tests) == 1:
        return {f"{tests[0]}[its process died of signal {-code}]"}
    if code not in (0, 1):
        print(text[-2000:])
    return set(re.findall(r"^FAILED (\S+::\w+(?:\[.*?\])?)(?= - |$)", text, flags=re.MULTILINE))


def read_results() -> dict:
    """Read what is known."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}


def record(name: str, found: dict) -> None:
    """Keep what was found, with the commit."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    content = read_results() | {name: {**found, "commit": commit.stdout.strip()}}
    partial = RESULTS.with_suffix(".partial")
    partial.write_text(json.dumps(dict(sorted(content.items())), indent=2) + "\n", encoding="utf-8")
    partial.replace(RESULTS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
