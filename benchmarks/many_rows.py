"""What reading and writing takes ``sharcs predict`` apart from the network, up to a million rows with odd columns.

``python benchmarks/many_rows.py --output benchmarks/results/many-rows.json`` makes a CSV and a JSON lines file of
10,000, 100,000 and 1,000,000 rows whose other columns are quotes, line ends, numbers that no type holds, and objects
with keys of their own. It reads each as ``predict`` does, once to check it and once to write it with answers beside,
and compares what came out with what went in, value for value. Each file has a process of its own, for its memory.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa

from sharcs.data.tables import table_writer
from sharcs.data.texts import Columns
from sharcs.files import write_json
from sharcs.inference.stream import open_texts

COUNTS = (10_000, 100_000, 1_000_000)
ADDED = {"prediction": "good", "score": 0.75, "width": 0.25}
WINDOW = 2048  # of an engine


def fields_of(number: int) -> dict[str, str]:
    """Make the fields of a CSV row."""
    odd = ('a "quoted", word', "line\nend\r\nand more", "", "  blanks ", "007", "NA", "\u2028é\U0001f600", "-0.0")
    return {"id": f"{number:09d}", "text": f"it is number {number}, and fine", "odd": odd[number % len(odd)]}


def line_of(number: int) -> str:
    """Make a row of JSON lines, as its text."""
    odd = ("1e400", "12345678901234567890123", '"\\ud800"', "null", "[1, [2, {}]]", "true", "1.0", '"\\u00e9"')
    members = [f'"id": {number}', f'"text": "it is number {number}, and fine"', f'"odd": {odd[number % len(odd)]}']
    members.append(f'"votes": {{"user {number}": {number % 7}}}')
    return f"{{{', '.join(members)}}}"


def make(path: Path, count: int) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            file.writelines(f"{line_of(number)}\n" for number in range(count))
            return
        writer = csv.writer(file)
        writer.writerow(fields_of(0))
        writer.writerows(fields_of(number).values() for number in range(count))


def differs(path: Path, count: int) -> int | None:
    """Find the first row of an output that is not as it was made; None if all are."""
    with path.open(encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            tail = json.dumps(ADDED)[1:]
            pairs = ((line, f"{line_of(number)[:-1]}, {tail}\n") for number, line in enumerate(file))
        else:
            values = [str(value) for value in ADDED.values()]
            rows = csv.reader(file)
            next(rows)
            pairs = ((row, [*fields_of(number).values(), *values]) for number, row in enumerate(rows))
        number = -1
        for number, (found, expected) in enumerate(pairs):
            if found != expected:
                return number
    return None if number + 1 == count else number + 1


def measure(path: Path, output: Path) -> dict[str, float]:
    """Read a table as ``predict`` does and write it, with the same answer in each row."""
    times = [time.perf_counter()]
    stream = open_texts(str(path), Columns())
    stream.check()
    times.append(time.perf_counter())
    columns = stream.table.schema
    schema = pa.schema([*columns, ("prediction", pa.string()), ("score", pa.float64()), ("width", pa.float64())])
    with table_writer(output, schema) as write:
        for rows, _ in stream.windows(WINDOW):
            answers = [pa.array(list(itertools.repeat(value, rows.num_rows))) for value in ADDED.values()]
            write(pa.Table.from_arrays([*rows.columns, *answers], schema=schema))
    times.append(time.perf_counter())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"check_seconds": times[1] - times[0], "write_seconds": times[2] - times[1], "peak_mib": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="Tables that stand there already are not measured again.")
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--one", type=Path, nargs=2, help="Measure one file alone, and print the numbers.")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*options.one)))
        return
    found = []
    if options.output and options.output.is_file():
        found = json.loads(options.output.read_text(encoding="utf-8"))["tables"]
    for suffix in (".csv", ".jsonl"):
        for count in options.counts:
            if any((row["format"], row["rows"]) == (suffix[1:], count) for row in found):
                continue
            with tempfile.TemporaryDirectory() as folder:
                data, output = Path(folder, f"rows{suffix}"), Path(folder, f"out{suffix}")
                make(data, count)
                words = [sys.executable, __file__, "--one", str(data), str(output)]
                numbers = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
                row = {"format": suffix[1:], "rows": count, "bytes": data.stat().st_size, **numbers}
                row["first_row_that_differs"] = differs(output, count)
            found.append(row)
            print(row, flush=True)
            if options.output:
                machine = {"processor": platform.processor() or platform.machine(), "cpus": os.cpu_count()}
                write_json({"machine": machine, "python": platform.python_version(), "tables": found}, options.output)


if __name__ == "__main__":
    main()
