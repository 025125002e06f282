"""One cell of the study: an arm, a rate and a seed, or what a figure asks for; each is a record of plain values."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from serving import servers
from serving.scores import counts, recovery_seconds
from serving.servers import Server
from sharcs_serve.load import OK, Outcome, due_times, put_under_load

# Name: the program, and the export that it serves.
ARMS = {
    "ours": ("serve", "routed"),
    "ours, routing alone": ("serve --brown-out off", "routed"),
    "ours, full width": ("serve", "full"),
    "TEI's scheduler": ("tei", "full"),
    "LitServe": ("litserve", "full"),
}
REFERENCE = "ours, full width"
SINGLES = 200
AFTER = 8.0  # seconds at half of the capacity after an overload
TARGET_TIMES = 10


@dataclass(frozen=True, slots=True)
class Bench:
    """What cells share.

    Attributes:
        models: A directory with the exports of a set.
        texts: Of the set's test split.
        target: Seconds: ten times the full network's for one text.
        capacity: Texts a second of the full network.
        litserve: Where LitServe is installed; None where it is not.
    """

    models: Path
    texts: list[str]
    target: float
    capacity: float
    litserve: Path | None

    @property
    def bodies(self) -> list[bytes]:
        """Write requests of single texts."""
        return [json.dumps({"inputs": text}).encode() for text in self.texts]

    def start(self, arm: str) -> AbstractContextManager[Server]:
        """Start an arm."""
        program, export = ARMS[arm]
        return self.program(program, export, self.litserve if program == "litserve" else None)

    def program(self, program: str, export: str, extra_path: Path | None = None) -> AbstractContextManager[Server]:
        """Start a program of its own."""
        port = servers.free_port()
        command = servers.command_of(program, self.models / export, port, self.target)
        return servers.running(command, port, extra_path)

    def load(self, server: Server, rate: float, seconds: float, seed: int) -> list[Outcome]:
        """Put a server under load, from the front's core."""
        os.sched_setaffinity(0, {servers.FRONT_CORE})
        return put_under_load(server.address, self.bodies, due_times(rate, seconds, seed))


def reference(models: Path, texts: list[str]) -> dict[str, float]:
    """Measure the full network on the engine's core: seconds of one text, and texts a second."""
    full = _runner(models, "full")
    list(full.predict(texts[:50]))
    times = []
    for text in texts[:SINGLES]:
        began = time.perf_counter()
        list(full.predict([text]))
        times.append(time.perf_counter() - began)
    single = statistics.median(times)
    for _ in range(2):  # what is made once, and the time
        capacity = _texts_a_second(full, texts)
    return {"seconds_of_one": single, "target": TARGET_TIMES * single, "capacity": capacity}


def throughputs(bench: Bench, rounds: int = 9) -> dict[str, Any]:
    """Measure texts a second by the full network and by the calibrated policy, in turns, on the engine's core."""
    runners = {name: _runner(bench.models, name) for name in ("full", "routed")}
    found: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(rounds):
        for name, runner in runners.items():
            found[name].append(_texts_a_second(runner, bench.texts))
    ratios = [routed / full for full, routed in zip(found["full"][1:], found["routed"][1:], strict=True)]
    return {**found, "ratio": statistics.median(ratios)}


def _runner(models: Path, name: str) -> Any:
    from sharcs_runtime import OnnxRunner

    os.sched_setaffinity(0, {servers.ENGINE_CORE})
    return OnnxRunner(models / name, threads=1)


def _texts_a_second(runner: Any, texts: list[str]) -> float:
    began = time.perf_counter()
    list(runner.predict(texts[: 4 * SINGLES]))
    return len(texts[: 4 * SINGLES]) / (time.perf_counter() - began)


def watched(server: Server, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Do a cell's work, and note what the processors did meanwhile."""
    engines = server.engines()
    fronts = [each for each in server.processes() if each not in engines]
    before, mine = (server.seconds(fronts), server.seconds(engines)), time.process_time()
    machine, began = servers.machine_seconds(), time.perf_counter()
    found = work()
    seconds = time.perf_counter() - began
    alive = server.processes()  # who has died took something, too, which is lost
    front = server.seconds([each for each in fronts if each in alive]) - before[0]
    engine = server.seconds([each for each in engines if each in alive]) - before[1]
    generator = time.process_time() - mine
    others = servers.machine_seconds() - machine - front - engine - generator
    return found | {
        "front": front / seconds,
        "engine": engine / seconds,
        "generator": generator / seconds,
        "others": max(0.0, others / seconds),
        "load_average": os.getloadavg()[0],
    }


def rate(bench: Bench, arm: str, multiple: float, seconds: float, seed: int) -> dict[str, Any]:
    """Offer a multiple of the full network's capacity (figures 2 and 3)."""
    with bench.start(arm) as server:
        bench.load(server, bench.capacity / 2, 2.0, 1000 + seed)  # what is made once, and the estimates
        asked = multiple * bench.capacity

        def work() -> dict[str, Any]:
            return counts(bench.load(server, asked, seconds, seed), seconds, bench.target)

        return {"rate": asked} | watched(server, work)


def overload(
    bench: Bench, arm: str, times: float, own: float, most: float, seconds: float, seed: int
) -> dict[str, Any]:
    """Offer a multiple of what an arm answers by its calibrated policy, and then half of it (figures 4 and 5)."""
    with bench.start(arm) as server:
        bench.load(server, bench.capacity / 2, 2.0, 1000 + seed)

        def work() -> dict[str, Any]:
            due = due_times(times * own, seconds, seed)
            after = due_times(own / 2, AFTER, seed + 1)
            together = [*due.tolist(), *(seconds + after).tolist()]
            os.sched_setaffinity(0, {servers.FRONT_CORE})
            outcomes = put_under_load(server.address, bench.bodies, np.array(together))
            found = counts(outcomes[: len(due)], seconds, bench.target)
            recovered = recovery_seconds(outcomes[len(due) :], after.tolist())
            return found | {"own_capacity": own, "most": most, "recovery_seconds": recovered}

        return {"rate": times * own} | watched(server, work)


def front(bench: Bench, name: str, seconds: float, seed: int) -> dict[str, Any]:
    """Measure what a front takes of a request with one text (figure 1)."""
    programs = {"ours": ("serve", "full"), "noop": ("noop", "full"), "LitServe": ("litserve", "full")}
    program, export = programs[name]
    with bench.program(program, export, bench.litserve if name == "LitServe" else None) as server:
        asked = bench.capacity / 2
        bench.load(server, asked, 2.0, 1000 + seed)

        def work() -> dict[str, Any]:
            outcomes = bench.load(server, asked, seconds, seed)
            return {"requests": len(outcomes), "answered": sum(each.status == OK for each in outcomes)}

        found = watched(server, work)
        return found | {"front_ms": 1000 * found["front"] * seconds / max(1, found["requests"])}


def start(bench: Bench) -> dict[str, Any]:
    """Measure how long a service takes to its first answer, and whether it loads torch (figure 22)."""
    times, torch = [], False
    for _ in range(5):
        with bench.start("ours") as server:
            times.append(server.started)
            maps = [Path(f"/proc/{number}/maps").read_text() for number in server.processes()]
            torch = torch or any("libtorch" in each for each in maps)
    return {"seconds": times, "torch": torch}
