r"""A directory of answers at scale: its plan, its bytes under kills, its memory, two workers against one.

    python benchmarks/scale_study.py plan                                    # 100,000,000 rows of Parquet
    python benchmarks/scale_study.py run tiny --model tests/records/plus-2 --rows 1000000
    python benchmarks/scale_study.py run minilm --model demo/reuters-r8 --rows 200000 --alone \
        --arms "one worker" "two workers" "two threads" "one worker again" "two workers again" "two threads again"
    python benchmarks/scale_study.py run minilm-killed --model demo/reuters-r8 --rows 100000 --every 12 --kills 3 \
        --arms "one worker" "two workers, killed" "the command killed"
    python benchmarks/scale_study.py run minilm-ray --model demo/reuters-r8 --rows 100000 --every 15 --kills 3 \
        --arms "one worker" ray "ray, actors killed"                         # where Ray is installed
    python benchmarks/scale_study.py run ray-alone --model demo/reuters-r8 --rows 100000 --alone \
        --arms "one worker" ray
    python benchmarks/scale_study.py run minilm-full --model demo/reuters-r8 --rows 30000 --width 1.0 --alone \
        --arms "one worker" "two workers" "two threads"

``run`` answers the same rows in every way: by one worker, by two, by two while workers are killed, by a command that
is killed itself and run again, and by actors on a Ray cluster of this machine, of which some are killed. Every one
has to write what the first wrote, byte for byte. Memory is what a process holds alone and its part of what it shares.
Results go to benchmarks/results/scale/NAME.json after each arm.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from common import DATA, RESULTS, machine, save
from sharcs.data.texts import load_texts

COMMAND = [sys.executable, "-c", "from sharcs_cli.app import main; main()", "predict"]
FILES = 4
PLANNED_FILES, ROWS_OF_PLANNED = 100, 1_000_000
SECONDS_BETWEEN_LOOKS = 0.5
COMMAND_KILLED = "the command killed"
COMMAND_ENDS = 3  # how often


def texts_of(count: int, seed: int) -> list[str]:
    """Take short texts, sst2's phrases in another order each time round."""
    known = list(load_texts(str(DATA / "sst2" / "train.csv.gz")).texts)
    generator = random.Random(seed)
    found: list[str] = []
    while len(found) < count:
        generator.shuffle(known)
        found += known
    return found[:count]


def write_data(folder: Path, rows: int) -> None:
    """Write numbered rows as a few files."""
    folder.mkdir()
    texts = texts_of(rows, 0)
    for part in range(FILES):
        numbers = range(part * rows // FILES, (part + 1) * rows // FILES)
        table = pa.table({"number": list(numbers), "text": [texts[number] for number in numbers]})
        pq.write_table(table, folder / f"part-{part}.parquet")


def digest(folder: Path) -> str:
    """Hash names and bytes of all tables of a directory of answers."""
    found = hashlib.sha256()
    for file in sorted(folder.glob("*.parquet")):
        found.update(file.name.encode() + b"\0" + file.read_bytes())
    return found.hexdigest()


def busy_seconds() -> float:
    """Say how long the machine's processors have been busy since it started."""
    of_all = Path("/proc/stat").read_text().partition("\n")[0].split()[1:9]
    user, nice, system, _idle, _waiting, *others = map(int, of_all)
    return (user + nice + system + sum(others)) / os.sysconf("SC_CLK_TCK")


def children(process: int) -> list[int]:
    """List a process's descendants."""
    found = []
    for task in Path(f"/proc/{process}/task").glob("*"):
        try:
            direct = [int(number) for number in (task / "children").read_text().split()]
        except OSError:
            continue
        for child in direct:
            found += [child, *children(child)]
    return found


def megabytes(process: int) -> float:
    """Say what a process holds: its own memory and its part of what it shares."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def is_worker(process: int) -> bool:
    """Tell whether a process answers: a child of the fork server, or an actor."""
    try:
        words = Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False
    return b"forkserver" in words or b"ray::UnitActor" in words


def workers_of(process: int) -> list[int]:
    """List a command's workers; the server that they are forked from is none."""
    found = [child for child in children(process) if is_worker(child)]
    return [worker for worker in found if not set(children(worker)) & set(found)]


class Watched:
    """A command under watch: its memory over time, and whom it loses.

    Args:
        words: The command.
        kills: How many workers to kill.
        every: Seconds between these.
        threads: Of its matrix products, where it writes a file; units have one whatever this says.
    """

    def __init__(self, words: list[str], kills: int = 0, every: float = 5.0, threads: int = 1) -> None:
        self.words, self.kills, self.every = words, kills, every
        self.environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": str(threads)}
        self.front: list[float] = []
        self.workers: list[float] = []
        self.killed = 0

    def run(self, most_seconds: float = 1e9) -> float:
        """Run it to its end, or kill it when its time is over; returns the seconds."""
        start = time.monotonic()
        with subprocess.Popen(self.words, env=self.environment, stderr=subprocess.PIPE) as process:
            due = start + self.every
            while process.poll() is None:
                time.sleep(SECONDS_BETWEEN_LOOKS)
                workers = workers_of(process.pid)
                self.front.append(megabytes(process.pid))
                self.workers += [used for used in map(megabytes, workers) if used]
                now = time.monotonic()
                if now > due and self.killed < self.kills and len(workers) > 1:
                    self._kill(min(workers))
                    due = now + self.every
                if now - start > most_seconds:
                    process.kill()
                    process.wait()
                    return now - start
            if process.returncode:
                raise SystemExit(f"exit code {process.returncode}: {process.stderr.read().decode()}")  # type: ignore[union-attr]
        return time.monotonic() - start

    def _kill(self, process: int) -> None:
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.killed += 1

    def memory(self) -> dict[str, float]:
        """Sum up memory, MiB: what it came to in the second and in the last quarter of the time, and at most."""

        def at(values: list[float], begin: float, end: float) -> float:
            part = values[int(begin * len(values)) : int(end * len(values))]
            return max(part, default=0.0)

        return {
            f"{name}_{when}": round(at(values, begin, end), 1)
            for name, values in (("front", self.front), ("worker", self.workers))
            for when, begin, end in (("second_quarter", 0.25, 0.5), ("last_quarter", 0.75, 1.0), ("most", 0.0, 1.0))
        }


def command_of(arm: str, options: argparse.Namespace, folder: Path) -> tuple[list[str], Path]:
    """Write an arm's command, and say what it fills: a directory by workers, or a file by one process."""
    workers, _, extra = ARMS[arm]
    data, output = folder / "data", folder / "out"
    if not workers:
        data, output = folder / "all.parquet", folder / "out.parquet"
        pq.write_table(pq.read_table(folder / "data"), data)
    words = [*COMMAND, options.model, "--data", str(data), "--output", str(output), *extra]
    words += ["--workers", str(workers)] if workers else []
    words += ["--width", options.width] if options.width else []
    return words, output


def figures(output: Path, data: Path, watched: Watched, seconds: float) -> dict[str, Any]:
    """Sum up what an arm has written, and what it took."""
    tables = list(output.glob("*.parquet")) if output.is_dir() else [output]
    rows = sum(pq.read_metadata(table).num_rows for table in tables)
    return {
        "seconds": round(seconds, 2),
        "rows_a_second": round(rows / seconds, 1),
        "units": len(list(output.glob("_sharcs/done-*.json"))),
        "rows": rows,
        "killed": watched.killed,
        "bytes_in": sum(table.stat().st_size for table in data.glob("*.parquet")),
        "bytes_out": sum(table.stat().st_size for table in tables),
        **watched.memory(),
    }


def run(options: argparse.Namespace) -> None:
    """Answer the same rows in every way."""
    file = RESULTS / "scale" / f"{options.name}.json"
    content: dict[str, Any] = {"rows": options.rows, "alone": options.alone, "arms": {}, **machine()}
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        write_data(folder / "data", options.rows)
        first = None
        for arm in options.arms:
            workers, loses, _ = ARMS[arm]
            words, output = command_of(arm, options, folder)
            watched = Watched(words, options.kills * loses, options.every, threads=1 if workers else 2)
            busy, seconds = busy_seconds(), 0.0
            ends = COMMAND_ENDS if arm == COMMAND_KILLED else 0
            for _ in range(ends):
                seconds += watched.run(options.every * 2)
            seconds += watched.run()
            entry = figures(output, folder / "data", watched, seconds)
            entry |= {"busy_seconds": round(busy_seconds() - busy, 1), "same_bytes": None}
            if workers:  # a file's rows are in other batches
                found = digest(output)
                first = first or found
                entry["same_bytes"] = found == first
            entry["killed"] += ends
            content["arms"][arm] = entry
            save(file, content)
            print(arm, entry, flush=True)
            shutil.rmtree(output) if workers else output.unlink()


# What is compared: workers, or 0 for a file that one process with two threads writes; whether some workers are
# killed; more options.
ARMS: dict[str, tuple[int, bool, list[str]]] = {
    "one worker": (1, False, []),
    "two workers": (2, False, []),
    "two threads": (0, False, []),
    "one worker again": (1, False, []),
    "two workers again": (2, False, []),
    "two threads again": (0, False, []),
    "two workers, killed": (2, True, []),
    COMMAND_KILLED: (2, False, []),
    "ray": (2, False, ["--ray", "auto"]),
    "ray, actors killed": (2, True, ["--ray", "auto"]),
}
USUAL = [arm for arm in ARMS if not arm.startswith(("ray", "two threads"))]


def plan(options: argparse.Namespace) -> None:
    """Plan a hundred million rows: a file of a million, under a hundred names."""
    from sharcs.data.sources import sources_of
    from sharcs.data.texts import Columns
    from sharcs.inference.exported import open_network
    from sharcs.units.place import place_of
    from sharcs.units.plan import Job
    from sharcs.units.run import Run, shard_name

    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        (folder / "data").mkdir()
        one = folder / "data" / "000.parquet"
        pq.write_table(pa.table({"text": [f"it is number {number}" for number in range(ROWS_OF_PLANNED)]}), one)
        for number in range(1, PLANNED_FILES):
            os.link(one, folder / "data" / f"{number:03d}.parquet")
        trained = open_network(options.model, threads=1)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        start = time.monotonic()
        job = Job(options.model, str(folder / "out"), Columns())
        with place_of(job.output).claimed(shard_name(job)):
            made = Run(job, sources_of([str(folder / "data")]), trained, lambda stream: None)
        seconds = time.monotonic() - start
        manifest = folder / "out" / "_sharcs" / "manifest.json"
        content = {
            "rows": PLANNED_FILES * ROWS_OF_PLANNED,
            "files": PLANNED_FILES,
            "units": len(made.units),
            "seconds": round(seconds, 2),
            "manifest_kib": round(manifest.stat().st_size / 1024, 1),
            "memory_before_mib": round(before, 1),
            "memory_after_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
            **machine(),
        }
        save(RESULTS / "scale" / "plan.json", content)
        print(json.dumps(content, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("plan", "run"))
    parser.add_argument("name", nargs="?", default="tiny")
    parser.add_argument("--model", default="tests/records/plus-2")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two kills")
    parser.add_argument("--alone", action="store_true", help="nothing else runs: seconds count")
    parser.add_argument("--width", help="force one sub-network")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=USUAL)
    parser.add_argument("--folder", help="where data and answers lie meanwhile")
    options = parser.parse_args()
    {"plan": plan, "run": run}[options.command](options)


if __name__ == "__main__":
    main()
