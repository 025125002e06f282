"""The start of the command: help without heavy packages, the version, options that stand twice."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from helpers.cli import error_message, sharcs, succeeds
from sharcs.training.arguments import DEFAULT_WINDOW, PAPER, PLUS, RECIPES

COMMANDS = ("train", "evaluate", "predict", "calibrate", "export", "benchmark", "report")
HEAVY = ("torch", "transformers", "datasets", "pyarrow", "sklearn", "scipy", "matplotlib", "onnxruntime", "sharcs")

HELP = """
import sys
from sharcs_cli.app import main
sys.argv[0] = "sharcs"
try:
    main()
finally:
    print("loaded:", *sys.modules)
"""


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)], ids=lambda command: " ".join(command))
def test_help_loads_nothing_heavy(command):
    run = subprocess.run([sys.executable, "-c", HELP, *command, "--help"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    *shown, loaded = run.stdout.splitlines()
    assert any("Usage: sharcs" in line for line in shown)
    assert {"typer", "sharcs_cli.app"} <= set(loaded.split())
    assert not set(HEAVY) & set(loaded.split())


def test_the_version_is_that_of_the_distribution():
    assert succeeds("--version").out == f"sharcs {metadata.version('sharcs')}\n"


def test_help_shows_the_defaults_of_the_recipes():
    shown = " ".join(succeeds("train", "--help").out.replace("│", " ").split())
    plus, paper = RECIPES[PLUS], RECIPES[PAPER]
    assert (plus.learning_rate, paper.learning_rate) == (5e-5, 2e-5)
    assert "Peak learning rate. [default: (5e-5; paper: 2e-5)]" in shown
    assert f"fine-tuned. [default: ({plus.epochs:g}; paper: {paper.epochs:g})]" in shown
    assert f"sharcs+, or paper. [default: ({PLUS})]" in shown
    assert (plus.router_layer(12), paper.router_layer(12)) == (2, 3)
    assert "before the router. [default: (a sixth; paper: a quarter)]" in shown
    assert f"hardness label. [default: ({DEFAULT_WINDOW})]" in shown


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (("train", "--data", "a.csv", "--output", "out", "--data", "b.csv"), "--data"),
        (("train", "--data", "a.csv", "--output", "out", "--seed=1", "--seed=1"), "--seed"),
        (("evaluate", "model", "--data", "a.csv", "--width", 0.25, "--width", 1.0), "--width"),
        (("predict", "model", "--data", "a.csv", "--output", "a.csv", "--output", "b.csv"), "--output"),
        (("calibrate", "model", "--data", "a.csv", "--budget", 0.5, "--budget", 0.6), "--budget"),
        (("export", "model", "--output", "a", "--output", "b"), "--output"),
        (("benchmark", "model", "--data", "a.csv", "--json", "a.json", "--json", "b.json"), "--json"),
        (("report", "model", "--data", "a.csv", "--output", "a.html", "--data", "b.csv"), "--data"),
    ],
)
def test_an_option_that_stands_twice_is_refused(arguments, option, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert error_message(sharcs(*arguments)) == f"{option}: is given 2 times; give it once"
    assert not list(Path().iterdir())


def test_what_may_stand_twice(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bands = ("--band", "0.25=0.8,1.0", "--band", "1.0=0.0,1.0", "--recipe", "paper", "--resume", "--resume")
    assert "absent.csv: no such file" in error_message(
        sharcs("train", "--data", "absent.csv", "--output", "out", *bands)
    )
