"""Every command without a way out and with a fresh home: nothing is sent, nothing is written but what was named."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.cli import save_encoder, toy_rows, write_csv

# docs/reference/file-formats.md names them.
CACHES = (".cache/matplotlib/", ".config/matplotlib/")
NAMESPACE = ("unshare", "--map-root-user", "--net")

COMMANDS = """
import fcntl, signal, socket, struct, subprocess, sys, urllib.error, urllib.request

asked = []


def note(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "socket.gethostbyname"):
        asked.append((event, str(arguments[1:2] if event == "socket.connect" else arguments[:1])))


sys.addaudithook(note)
# The loopback interface of a new namespace is down; 0x8914 is SIOCSIFFLAGS, and 1 is IFF_UP.
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh", b"lo", 1))

sys.path.insert(0, {tests!r})
from helpers.cli import ONE_EPOCH, succeeds

rows = ("--data", "rows.csv")
succeeds("train", *rows, "--model", "encoder", "--output", "model", *ONE_EPOCH)
succeeds("evaluate", "model", *rows, "--json", "numbers.json")
succeeds("calibrate", "model", *rows, "--budget", 0.9)
succeeds("predict", "model", *rows, "--output", "answers.csv")
succeeds("report", "model", *rows, "--output", "page.html")
succeeds("export", "model", "--output", "graphs", "--int8")
succeeds("predict", "graphs", *rows, "--output", "others.csv")
succeeds("benchmark", "model", *rows, "--json", "speed.json", "--seconds", 1)
words = ["serve", "graphs", "--port", "8080", "--workers", "1", "--drain-seconds", "0"]
service = subprocess.Popen([sys.executable, "-m", "sharcs_cli.app", *words])
for _ in range(600):
    try:
        urllib.request.urlopen("http://127.0.0.1:8080/ready", timeout=1)
        break
    except (urllib.error.URLError, OSError):
        service.poll() is None or sys.exit("the service has ended")
        signal.sigtimedwait([], 0.1)
succeeds("load", "http://127.0.0.1:8080", *rows, "--rates", 5, "--seconds", 1, "--json", "load.json")
service.send_signal(signal.SIGTERM)
service.wait(60)
others = [event for event in asked if "127.0.0.1" not in event[1]]
assert not others, others
"""
# Of the outputs, before a dot or a dash.
NAMED = {"encoder", "rows", "model", "numbers", "answers", "page", "graphs", "others", "speed", "load"}


def has_namespaces():
    """Tell whether a process may have a network of its own, without a way out."""
    return shutil.which(NAMESPACE[0]) is not None and not subprocess.run([*NAMESPACE, "true"]).returncode


@pytest.mark.extended
def test_every_command_runs_without_a_network_and_leaves_nothing_elsewhere(tmp_path):
    if not has_namespaces():
        pytest.skip("a network namespace needs rights that this process has not (unshare --map-root-user --net)")
    home, work, temporary = (tmp_path / name for name in ("home", "work", "temporary"))
    for folder in (home, work, temporary):
        folder.mkdir()
    save_encoder(work / "encoder")
    write_csv(work / "rows.csv", toy_rows(48))
    # What would say where caches are, or switch something off.
    hidden = ("HF_", "XDG_", "MPLCONFIGDIR", "TRANSFORMERS", "TORCH", "PYTHONDONTWRITEBYTECODE", "TMP")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(hidden) and "TELEM" not in name}
    own = {"HOME": str(home), "TMPDIR": str(temporary), "PYTHONDONTWRITEBYTECODE": "1"}
    run = subprocess.run(
        [*NAMESPACE, sys.executable, "-c", COMMANDS.format(tests=str(Path(__file__).parents[1]))],
        cwd=work,
        env=kept | own,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    written = {f"{path.relative_to(home)}" for path in home.rglob("*") if path.is_file()}
    assert {path for path in written if not path.startswith(CACHES)} == set()
    assert [path for path in temporary.rglob("*") if path.is_file()] == []
    assert {path.name.split(".")[0].split("-")[0] for path in work.iterdir()} - {""} <= NAMED
