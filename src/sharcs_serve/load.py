"""An open-loop load: requests go out when they are due, whatever has become of the earlier ones.

Latency counts from the moment that a request was due, so that a server that stalls can't hide it.
"""

from __future__ import annotations

import asyncio
import gc
import json
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np

from sharcs_runtime.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from matplotlib.figure import Figure
    from numpy.typing import NDArray

LOOPBACK = ("127.0.0.1", "localhost", "::1")
JSON = "Content-Type: application/json"
OK, REFUSED = 200, 429
PATIENCE = 60.0  # seconds until a request counts as lost
GOOD_SHARE = 0.99  # of the offered requests that have to be in time


@dataclass(frozen=True, slots=True)
class Load:
    """What came of one rate.

    Attributes:
        rate: Requests a second that were meant.
        offered: Requests a second that were sent.
        answered: Share with an answer.
        refused: Share with status 429.
        lost: Share with another status, or none.
        degraded: Share of the answers that a later rung gave.
        p50_ms: Median latency of the answers; None without any.
        p99_ms: The 99th percentile.
        goodput: Answers a second that were in time.
        good_share: Share of what was offered that was answered in time.
    """

    rate: float
    offered: float
    answered: float
    refused: float
    lost: float
    degraded: float
    p50_ms: float | None
    p99_ms: float | None
    goodput: float
    good_share: float


class Outcome(NamedTuple):
    """What came of a request.

    Attributes:
        status: Of the answer; 0 without one.
        seconds: From when it was due.
        degraded: Whether a later rung answered.
        come_again: Seconds after which to come again, where the answer says it.
    """

    status: int
    seconds: float
    degraded: bool = False
    come_again: float | None = None


def due_times(rate: float, seconds: float, seed: int, bursty: bool = False) -> NDArray[np.float64]:
    """Draw when requests are due, in seconds from the start, ascending.

    Args:
        rate: Mean number a second.
        seconds: How long.
        seed: Draws them.
        bursty: Whether all come in the first half of each second, at twice the rate; else it is a Poisson process.
    """
    draw = np.random.default_rng(seed)
    count = draw.poisson(rate * seconds)
    times = np.sort(draw.random(count) * seconds)
    if bursty:
        times = np.floor(times) + (times - np.floor(times)) / 2
    return times


def check_address(url: str, allowed: str | None) -> tuple[str, int]:
    """Read where to send requests.

    Raises:
        InputError: If it is no plain HTTP address, or another machine's that wasn't allowed.
    """
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme != "http" or not parts.hostname or port is None:
        raise InputError(f"{url}: has to be like http://127.0.0.1:8080")
    if parts.hostname not in (*LOOPBACK, allowed):
        raise InputError(f"{url}: is another machine; allow it by `allow_host` {parts.hostname}")
    return parts.hostname, port


def measure(
    address: tuple[str, int], texts: Sequence[str], times: NDArray[np.float64], rate: float, target_ms: float
) -> Load:
    """Send single texts when they are due, and sum up what came of them.

    Args:
        address: Host and port of a service that takes ``/predict``.
        texts: In turns.
        times: When requests are due, seconds from the start.
        rate: What they were drawn for.
        target_ms: In which an answer is good.
    """
    bodies = [json.dumps({"inputs": text}).encode() for text in texts]
    return summary(put_under_load(address, bodies, times), times, rate, target_ms)


def summary(outcomes: Sequence[Outcome], times: NDArray[np.float64], rate: float, target_ms: float) -> Load:
    """Sum up what came of each request."""
    count = max(1, len(outcomes))
    seconds = float(times[-1]) if len(times) else 1.0
    status = np.array([outcome.status for outcome in outcomes])
    latencies = 1000 * np.array([outcome.seconds for outcome in outcomes if outcome.status == OK])
    answered = len(latencies)
    good = int((latencies <= target_ms).sum())
    p50, p99 = np.percentile(latencies, [50, 99]).tolist() if answered else (None, None)
    refused = int((status == REFUSED).sum())
    return Load(
        rate=rate,
        offered=len(outcomes) / seconds,
        answered=answered / count,
        refused=refused / count,
        lost=(len(outcomes) - answered - refused) / count,
        degraded=sum(outcome.degraded for outcome in outcomes) / max(1, answered),
        p50_ms=p50,
        p99_ms=p99,
        goodput=good / seconds,
        good_share=good / count,
    )


def advice(loads: Sequence[Load], target_ms: float) -> str:
    """Say up to which rate the target is kept."""
    kept = [load for load in loads if load.good_share >= GOOD_SHARE]
    if not kept:
        return f"no rate kept {target_ms:g} ms for 99% of its requests; offer less, or add engine processes"
    best = max(kept, key=lambda load: load.rate)
    more = "" if best is not max(loads, key=lambda load: load.rate) else "; higher rates were not tried"
    narrowed = f", {100 * best.degraded:.1f}% of the answers by later rungs" if best.degraded else ""
    return f"up to {best.rate:g} a second, 99% of the requests were answered within {target_ms:g} ms{narrowed}{more}"


def draw_load(loads: Sequence[Load], target_ms: float, path: str | Path, title: str) -> None:
    """Draw latency against the offered load.

    Args:
        loads: What came of each rate.
        target_ms: In which an answer is good.
        path: The picture, .png; written beside and renamed.
        title: Shown above.

    Raises:
        InputError: If the picture can't be written.
    """
    from sharcs.evaluation.plot import save_picture

    save_picture(lambda: _figure(loads, target_ms), path, title)


def _figure(loads: Sequence[Load], target_ms: float) -> Figure:
    from matplotlib.ticker import StrMethodFormatter

    from sharcs.evaluation.plot import new_figure

    figure = new_figure(layout="constrained")
    axes = figure.subplots()
    for name, label in (("p50_ms", "p50"), ("p99_ms", "p99")):
        points = [(load.offered, getattr(load, name)) for load in loads if getattr(load, name) is not None]
        axes.plot(*zip(*points, strict=True) if points else ([], []), marker="o", label=label)
    axes.axhline(target_ms, linestyle="--", color="grey", label="target")
    axes.set(xlabel="requests a second, offered", ylabel="milliseconds, of answers", yscale="log")
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))  # powers of ten would need TeX
    return figure


def record(loads: Sequence[Load], target_ms: float) -> dict[str, Any]:
    """Write loads as plain values."""
    return {"target_ms": target_ms, "loads": [asdict(load) for load in loads], "advice": advice(loads, target_ms)}


@contextmanager
def without_pauses() -> Iterator[None]:
    """Leave what this process has imported out of the search for garbage.

    It takes up to a quarter of a second, in which nothing goes out, and which would count as the server's.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def put_under_load(address: tuple[str, int], bodies: Sequence[bytes], times: NDArray[np.float64]) -> list[Outcome]:
    """Send requests when they are due, without pauses of our own; see :func:`send`."""
    with without_pauses():
        return asyncio.run(send(address, bodies, times))


async def send(address: tuple[str, int], bodies: Sequence[bytes], times: NDArray[np.float64]) -> list[Outcome]:
    """Send requests when they are due, on connections that are kept: what came of each.

    Args:
        address: Host and port of a service that takes ``/predict``.
        bodies: Of requests, in turns.
        times: When requests are due, seconds from the start.
    """
    loop = asyncio.get_running_loop()
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    began = loop.time()

    async def ask(body: bytes, due: float) -> Outcome:
        try:
            async with asyncio.timeout(PATIENCE):
                status, headers = await _ask(address, body, idle)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError):
            status, headers = 0, {}
        again = headers.get("retry-after")
        degraded = headers.get("x-sharcs-degraded", "0") != "0"
        return Outcome(status, loop.time() - began - due, degraded, None if again is None else float(again))

    tasks = []
    for number, due in enumerate(times.tolist()):
        await asyncio.sleep(max(0.0, began + due - loop.time()))
        tasks.append(asyncio.create_task(ask(bodies[number % len(bodies)], due)))
    outcomes = list(await asyncio.gather(*tasks))
    for _, writer in idle:
        writer.close()
    return outcomes


async def _ask(
    address: tuple[str, int], body: bytes, idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]
) -> tuple[int, dict[str, str]]:
    """Send a request on a connection that is kept: the answer's status and headers."""
    while idle and idle[-1][0].at_eof():  # the server has closed it
        idle.pop()[1].close()
    reader, writer = idle.pop() if idle else await asyncio.open_connection(*address)
    done = False
    try:
        head = f"POST /predict HTTP/1.1\r\nHost: {address[0]}\r\nContent-Length: {len(body)}\r\n{JSON}\r\n\r\n"
        writer.write(head.encode() + body)
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        await reader.readexactly(int(headers.get("content-length", 0)))
        done = headers.get("connection", "").lower() != "close"
        return int(lines[0].split()[1]), headers
    finally:
        if done:
            idle.append((reader, writer))
        else:
            writer.close()
