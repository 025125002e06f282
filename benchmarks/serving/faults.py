"""What a service does when something goes wrong, and in the long run: figures 6 to 9, 13, 14 and 18."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import socket
import threading
import time
from typing import Any

import numpy as np

from serving import servers
from serving.cells import Bench, watched
from serving.scores import counts
from sharcs_serve.load import OK, REFUSED, due_times, put_under_load, send, without_pauses

KILLS, KILL_SECONDS = 10, 60.0
LEAVING = 1000
WARM_TEXTS = 30_000


def come_again(bench: Bench, own: float, seed: int) -> dict[str, Any]:
    """Have clients that are refused wait as told, and count who is admitted then (figure 6)."""
    with bench.start("ours") as server:

        async def client(due: float, body: bytes) -> tuple[bool, bool]:
            await asyncio.sleep(due)
            (first,) = await send(server.address, [body], np.zeros(1))
            if first.status != REFUSED or first.come_again is None:
                return first.status == REFUSED, False
            await asyncio.sleep(first.come_again)
            (second,) = await send(server.address, [body], np.zeros(1))
            return True, second.status == OK

        async def everybody() -> list[tuple[bool, bool]]:
            due = due_times(2 * own, 5.0, seed).tolist()
            bodies = bench.bodies
            return await asyncio.gather(*(client(at, bodies[n % len(bodies)]) for n, at in enumerate(due)))

        def work() -> dict[str, Any]:
            os.sched_setaffinity(0, {servers.FRONT_CORE})
            with without_pauses():
                told = [admitted for refused, admitted in asyncio.run(everybody()) if refused]
            return {"told": len(told), "admitted": sum(told)}

        return watched(server, work)


def kills(bench: Bench, own: float, seed: int) -> dict[str, Any]:
    """Kill the busy engine process ten times in a minute at half of the capacity (figure 7)."""
    with bench.start("ours") as server:
        back: list[float] = []

        def kill() -> None:
            for _ in range(KILLS):
                time.sleep(KILL_SECONDS / KILLS - 3)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(server.engines()[0], signal.SIGKILL)
                began = time.perf_counter()
                while server.metric("sharcs_worker_restarts_total") == len(back) or server.ask("/health")[0] != OK:
                    time.sleep(0.02)
                back.append(time.perf_counter() - began)
                server.pin()
                time.sleep(max(0.0, 3 - back[-1]))

        def work() -> dict[str, Any]:
            thread = threading.Thread(target=kill)
            thread.start()
            outcomes = bench.load(server, own / 2, KILL_SECONDS, seed)
            thread.join()
            found = counts(outcomes, KILL_SECONDS, bench.target)
            return found | {"back_seconds": back, "restarts": server.metric("sharcs_worker_restarts_total")}

        return watched(server, work)


def poison(bench: Bench) -> dict[str, Any]:
    """Send a text that kills its engine process among others (figure 8)."""
    with bench.program("poison", "routed") as server:
        found: dict[str, int] = {}

        def ask(text: str) -> None:
            found[text] = server.ask("/predict", {"inputs": text, "deadline_ms": 60_000})[0]

        texts = ["poison", *bench.texts[:20]]
        threads = [threading.Thread(target=ask, args=(text,)) for text in texts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        others = [found[text] for text in texts[1:]]
        return {"poison": found["poison"], "rest": sorted(set(others)), "restarts": server.metric(
            "sharcs_worker_restarts_total")}  # fmt: skip


def leaving(bench: Bench) -> dict[str, Any]:
    """Let a thousand clients leave at once, and count whose texts were computed (figure 9)."""
    with bench.start("ours") as server:
        connections = [socket.create_connection(server.address) for _ in range(LEAVING)]
        for connection, body in zip(connections, itertools.cycle(bench.bodies), strict=False):
            head = f"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
        for connection in connections:
            connection.close()
        time.sleep(2.0)
        computed = server.metric("sharcs_queue_seconds_count") - 1  # one had found it ready
        return {
            "clients": LEAVING,
            "computed": computed,
            "refused": server.metric("sharcs_refused_total"),
            "cancelled": server.metric("sharcs_cancelled_total"),
        }


def drain(bench: Bench, own: float, seed: int) -> dict[str, Any]:
    """Send SIGTERM at 0.8 of the capacity to clients that keep their connections (figure 13)."""
    with bench.start("ours") as server:
        seen: dict[str, float] = {}

        def end() -> None:
            time.sleep(3.0)
            began = time.perf_counter()
            server.process.send_signal(signal.SIGTERM)
            while server.process.poll() is None:
                try:
                    ready = server.ask("/ready", timeout=5.0)[0]
                    if ready != OK:
                        seen.setdefault("not_ready", time.perf_counter() - began)
                except OSError:
                    seen.setdefault("closed", time.perf_counter() - began)
                time.sleep(0.01)
            seen["ended"] = time.perf_counter() - began

        thread = threading.Thread(target=end)
        thread.start()
        outcomes = bench.load(server, 0.8 * own, 7.0, seed)
        thread.join()
        times = due_times(0.8 * own, 7.0, seed)
        taken = [each for each, due in zip(outcomes, times, strict=True) if due < 3.0 + seen.get("closed", 0.0)]
        lost = sum(each.status not in (OK, REFUSED) for each in taken)
        return {"taken": len(taken), "lost": lost, "code": server.process.returncode, **seen}


def equality(bench: Bench, texts: int = 500) -> dict[str, Any]:
    """Compare served answers of the first rung with the engine's own (figure 14)."""
    from sharcs_runtime import OnnxRunner

    runner = OnnxRunner(bench.models / "routed", threads=1)
    chosen = bench.texts[:texts]
    expected = [next(runner.answers([text])) for text in chosen]
    classes, worst = 0, 0.0
    with bench.start("ours") as server:
        for start in range(0, len(chosen), 16):
            asked = {"inputs": chosen[start : start + 16], "brown_out": False, "deadline_ms": 60_000}
            for entries, answer in zip(server.ask("/predict", asked)[1], expected[start:], strict=False):
                classes += entries[0]["label"] == runner.labels[answer.classes[0]]
                scores = {entry["label"]: entry["score"] for entry in entries}
                pairs = zip(answer.classes, answer.scores, strict=True)
                worst = max(worst, *(abs(scores[runner.labels[index]] - score) for index, score in pairs))
    return {"texts": len(chosen), "same_class": classes, "largest_difference": worst}


def soak(bench: Bench, export: str, seconds: float, seed: int) -> dict[str, Any]:
    """Send texts of random length for long; memory and files after 30,000 or a tenth, and at the end (figure 18)."""
    draw = np.random.default_rng(seed)
    words = " ".join(bench.texts).split()
    texts = [" ".join(draw.choice(words, draw.integers(1, 120))) for _ in range(2000)]
    bodies = [json.dumps({"inputs": text}).encode() for text in texts]
    with bench.program("serve", export) as server:
        looks: list[dict[str, float]] = []
        sent = 0
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            due = due_times(bench.capacity / 2, min(30.0, seconds / 10), seed + len(looks))
            os.sched_setaffinity(0, {servers.FRONT_CORE})
            outcomes = put_under_load(server.address, bodies, due)
            sent += sum(each.status == OK for each in outcomes)
            looks.append({"texts": sent, "megabytes": server.megabytes(), "files": server.files()})
        first = next((look for look in looks if look["texts"] >= WARM_TEXTS), looks[max(0, len(looks) // 10 - 1)])
        return {"looks": looks, "memory_ratio": looks[-1]["megabytes"] / first["megabytes"],
                "more_files": looks[-1]["files"] - first["files"]}  # fmt: skip
