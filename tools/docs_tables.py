"""Writes the tables of README and docs: of results from the committed JSON, of encoders from what is tested.

    python tools/docs_tables.py

A table's place is between ``<!-- table: NAME -->`` and ``<!-- end of table -->``. tests/docs/test_tables.py compares
every place with what belongs there, so run this after a study, or after a change of the supported encoders.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PLACE = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)
sys.path += [str(ROOT / "benchmarks"), str(ROOT / "tests")]

import architecture_tables  # noqa: E402 - what stands in benchmarks/
import friendly_tables  # noqa: E402
import guarantee_tables  # noqa: E402
import scale_tables  # noqa: E402
import seconds_tables  # noqa: E402
import tables  # noqa: E402
from judge import tables as judge  # noqa: E402


def pages() -> list[Path]:
    """List the files that may have tables."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


TASKS = {"tokens": "token classification", "spans": "question answering"}


def encoder_table() -> str:
    """List every encoder family that is tested: its inputs, its tasks, and what the table of names says of it."""
    from helpers import media, tokens
    from helpers.encoders import ENCODERS
    from sharcs.encoders.architectures import Architecture, architecture_of

    usual = Architecture()
    families: dict[str, dict[str, Any]] = {}
    for name, build in {**ENCODERS, **media.MEDIA}.items():
        config = build()
        if name in ENCODERS:
            answers = [TASKS[kind] for kind in TASKS if tokens.is_known(name, kind)]
            inputs = ", ".join(["texts", *answers])
        else:
            inputs = "images" if media.is_image(name) else "audio"
        family = families.setdefault(config.model_type, {"inputs": inputs, "fields": {}, "tested": []})
        family["class"] = type(config).__name__.removesuffix("Config")
        family["tested"].append(f"`{name}`")
        entry = architecture_of(config)
        for field in fields(entry):
            if getattr(entry, field.name) != getattr(usual, field.name):
                family["fields"][f"`{field.name}`"] = None
    rows = [
        [family["class"], f"`{kind}`", family["inputs"], ", ".join(family["fields"]), ", ".join(family["tested"])]
        for kind, family in families.items()
    ]
    return tables.table(["encoder", "model type", "inputs and tasks", "special in", "tested as"], rows)


def of_study(
    study: str, file: str, makers: dict[str, Callable[[dict[str, Any]], str]]
) -> dict[str, Callable[[], str]]:
    """Make tables of a file of one of the judge's studies, which is read when a page has one."""
    return {name: lambda make=make: make(tables.read(f"judge/{study}/{file}")) for name, make in makers.items()}


TABLES: dict[str, Callable[[], str]] = {
    **of_study("2026-11-front", "summary.json", judge.TABLES),
    **of_study("2026-11-frontier-2", "summary.json", judge.FRONTIER),
    **of_study("2026-11-frontier-2", "ablations.json", judge.ABLATIONS),
    **of_study("2026-11-frontier-2", "halves.json", judge.HALVES),
    **tables.TABLES,
    **scale_tables.TABLES,
    **friendly_tables.TABLES,
    **guarantee_tables.TABLES,
    **architecture_tables.TABLES,
    **seconds_tables.TABLES,
    "encoders": encoder_table,
}


def filled(text: str) -> str:
    """Write every table of a page into its place.

    Raises:
        KeyError: If there is no such table.
    """
    return PLACE.sub(lambda place: f"{place[1]}\n{TABLES[place[2]]()}\n\n{place[3]}", text)


def main() -> None:
    """Fill README and docs, and name the files that changed."""
    for page in pages():
        before = page.read_text(encoding="utf-8")
        after = filled(before)
        if after != before:
            page.write_text(after, encoding="utf-8")
            print("wrote", page.relative_to(ROOT))


if __name__ == "__main__":
    main()
