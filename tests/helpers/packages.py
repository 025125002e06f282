"""Packages that only a few tests want, installed for one session beside the environment."""

import subprocess
import sys
from pathlib import Path


def installed(factory, *names):
    """Install packages with their dependencies into a folder of their own, once a session; its path.

    Args:
        factory: pytest's ``tmp_path_factory``.
        names: As pip takes them.
    """
    folder = Path(factory.getbasetemp()) / ("packages-" + "-".join(names))
    if not folder.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), *names]
        subprocess.run(pip, check=True, capture_output=True)
    return folder


def run_with(folder, code, *arguments):
    """Run Python code that may import what is in a folder.

    Raises:
        AssertionError: If it fails; says what it said.
    """
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(folder)!r})\n{code}", *map(str, arguments)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
