"""Servers as processes: front and generator on one core, the engine on the other, and what they take."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parents[1]
FRONT_CORE, ENGINE_CORE = 0, 1
PATIENCE = 120.0
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Server:
    """A server and its processes.

    Attributes:
        process: That was started.
        port: Where it listens, at 127.0.0.1.
        started: Seconds until it answered.
    """

    process: subprocess.Popen[bytes]
    port: int
    started: float = 0.0
    killed: list[int] = field(default_factory=list)

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    def ask(self, path: str, body: Any = None, timeout: float = 30.0) -> tuple[int, Any]:
        """Send a request: status and body, decoded where it is JSON."""
        connection = http.client.HTTPConnection(*self.address, timeout=timeout)
        with contextlib.closing(connection):
            data = None if body is None else json.dumps(body)
            connection.request("GET" if body is None else "POST", path, data, {"Content-Type": "application/json"})
            response = connection.getresponse()
            content = response.read().decode()
            is_json = response.headers.get_content_type() == "application/json"
            return response.status, json.loads(content) if is_json else content

    def metric(self, name: str) -> float:
        """Sum a metric over its labels."""
        lines = self.ask("/metrics")[1].splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0].split(" ")[0] == name)

    def processes(self) -> list[int]:
        """List the server's process and all below it."""
        found, waiting = [], [self.process.pid]
        while waiting:
            number = waiting.pop()
            found.append(number)
            for task in Path(f"/proc/{number}/task").glob("*/children"):
                waiting += map(int, task.read_text().split())
        return found

    def engines(self) -> list[int]:
        """List the processes that run on the engine's core alone."""
        return [each for each in self.processes()[1:] if os.sched_getaffinity(each) == {ENGINE_CORE}]

    def pin(self) -> None:
        """Give the engine processes, which are ours where there is a worker's command, the core of their own."""
        for number in self.processes()[1:]:
            command = Path(f"/proc/{number}/cmdline").read_bytes()
            if b"sharcs_serve.worker" in command or b"sharcs_serve import worker" in command:
                for task in Path(f"/proc/{number}/task").iterdir():
                    os.sched_setaffinity(int(task.name), {ENGINE_CORE})

    def seconds(self, numbers: list[int]) -> float:
        """Add up what processes have taken of the processors."""
        return sum(processor_seconds(number) for number in numbers)

    def megabytes(self) -> float:
        """Add up the processes' memory, what they share divided among them."""
        total = 0
        for number in self.processes():
            lines = Path(f"/proc/{number}/smaps_rollup").read_text().splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        return total / 1024

    def files(self) -> int:
        """Count the open files of all processes."""
        return sum(len(os.listdir(f"/proc/{number}/fd")) for number in self.processes())


def processor_seconds(number: int) -> float:
    """Read what a process has taken of the processors."""
    fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def machine_seconds() -> float:
    """Read what all processes have taken of the processors."""
    user, nice, system = map(int, Path("/proc/stat").read_text().split()[1:4])
    return (user + nice + system) / TICKS


@contextlib.contextmanager
def running(command: list[str], port: int, extra_path: Path | None = None) -> Iterator[Server]:
    """Start a server, wait until it answers a text, pin its processes, and end it at the end.

    Raises:
        RuntimeError: If it ends, or doesn't answer.
    """
    paths = [str(path) for path in (extra_path, HERE.parent / "src", HERE) if path is not None]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "TOKENIZERS_PARALLELISM": "false"}
    environment |= {"OMP_NUM_THREADS": "1"}
    log = Path(f"/tmp/sharcs-server-{port}.log")
    with log.open("wb") as file:
        process = subprocess.Popen(
            ["taskset", "-c", str(FRONT_CORE), *command], env=environment, stdout=file, stderr=file
        )
    server, began = Server(process, port), time.perf_counter()
    try:
        while not server.started:
            if process.poll() is not None or time.perf_counter() - began > PATIENCE:
                lines = log.read_text(errors="replace").strip().splitlines() or ["nothing"]
                raise RuntimeError(f"no server: {lines[-1]}; see {log}")
            with contextlib.suppress(OSError):
                server.ask("/predict", {"inputs": "a few words"})
                server.started = time.perf_counter() - began
            time.sleep(0.01)
        server.pin()
        yield server
    finally:
        for number in server.processes() if process.poll() is None else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        process.wait()


def free_port() -> int:
    """Find a port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def command_of(name: str, export: Path, port: int, target: float) -> list[str]:
    """Write the command of an arm: of the service itself, or of a program that it is compared with."""
    if name.startswith("serve"):
        options = name.split()[1:]
        service = ["-m", "sharcs_cli.app", "serve", str(export), "--port", str(port), "--workers", "1"]
        return [sys.executable, *service, "--deadline-ms", f"{1000 * target:g}", *options]
    return [sys.executable, "-m", "serving.programs", name, str(export), str(port), f"{target!r}"]
