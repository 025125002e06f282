"""The start of the command: help without heavy packages, the version, options that stand twice."""

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import typer
from typer import rich_utils

from helpers.cli import error_message, sharcs, succeeds
from sharcs import InputError
from sharcs.calibration.choice import Constraint
from sharcs.jobs.defaults import FRONT_RATE
from sharcs.jobs.work import FRONT_EPOCHS
from sharcs.training.arguments import PAPER, PLUS, RECIPES
from sharcs_cli.app import app, main

COMMANDS = ("train", "evaluate", "predict", "calibrate", "export", "benchmark", "report", "load", "serve")
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
    assert "--version" in succeeds("--help").out
    assert succeeds("--version").out == f"sharcs {metadata.version('sharcs')}\n"


def test_help_shows_the_defaults_of_the_recipes():
    shown = " ".join(succeeds("train", "--help").out.replace("│", " ").split())
    plus, paper = RECIPES[PLUS], RECIPES[PAPER]
    assert (plus.learning_rate, paper.learning_rate, FRONT_RATE) == (5e-5, 2e-5, 1e-4)
    assert "Peak learning rate. [default: (5e-5; paper: 2e-5; with one before the encoder: 1e-4)]" in shown
    front = f"with one before the encoder: {FRONT_EPOCHS}, and more of few rows"
    assert f"fine-tuned. [default: ({plus.epochs:g}; paper: {paper.epochs:g}; {front})]" in shown
    assert f"sharcs+, or paper. [default: ({PLUS})]" in shown
    assert (plus.router_layer(12), paper.router_layer(12)) == (2, 3)
    assert "before the router. [default: (a sixth; paper: a quarter)]" in shown
    assert f"hardness label. [default: ({paper.window})]" in shown


def test_help_shows_the_default_of_every_option_of_every_command(monkeypatch):
    monkeypatch.setattr(rich_utils, "MAX_WIDTH", 1000)
    commands = typer.main.get_command(app).commands
    assert set(commands) == set(COMMANDS)
    for name, command in commands.items():
        lines = [line.strip("│ \n") for line in succeeds(name, "--help").out.splitlines()]
        for option in command.params:
            if option.opts[0].startswith("--") and not option.is_flag:
                (line,) = [line for line in lines if re.search(rf"^(\* *)?{option.opts[0]}[ ,]", line)]
                assert line.endswith("[required]") or re.search(r"\[default: \S.*\]$", line), line
                if option.default is not None:
                    assert line.endswith(f"[default: {option.default}]")


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


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--port", "65536", "--port 65536: has to be from 1 to 65535, or 0"),
        ("--port", "-1", "--port -1: has to be"),
        ("--deadline-ms", "nan", "--deadline-ms, --body-seconds, --max-body, --max-inputs: have to be finite"),
        ("--body-seconds", "inf", "--deadline-ms, --body-seconds, --max-body, --max-inputs: have to be finite"),
        ("--drain-seconds", "nan", "--drain-seconds nan: has to be a finite number"),
    ],
)
def test_numbers_of_a_service_are_refused_before_it_starts(option, value, says, tmp_path):
    assert error_message(sharcs("serve", tmp_path, option, value)).startswith(says)


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--seconds", "inf", "--p99-ms, --seconds: have to be finite numbers above 0"),
        ("--p99-ms", "nan", "--p99-ms, --seconds: have to be finite numbers above 0"),
        ("--seed", "-1", "--seed -1: has to be from 0 on"),
    ],
)
def test_numbers_of_a_load_are_refused_before_the_service_is_asked(option, value, says):
    words = ("load", "http://127.0.0.1:1", "--data", "absent.csv", "--rates", "1", option, value)
    assert error_message(sharcs(*words)) == says


def test_what_may_stand_twice(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bands = ("--band", "0.25=0.8,1.0", "--band", "1.0=0.0,1.0", "--recipe", "paper", "--resume", "--resume")
    assert "absent.csv: no such file" in error_message(
        sharcs("train", "--data", "absent.csv", "--output", "out", *bands)
    )


def test_a_message_names_the_argument_in_python_and_the_option_on_the_command_line():
    with pytest.raises(InputError, match=r"^`max_disagreement` 2: has to be between 0 and 1"):
        Constraint("max_disagreement", 2.0)
    message = error_message(sharcs("calibrate", "model", "--data", "a.csv", "--max-disagreement", 2))
    assert message.startswith("--max-disagreement 2: has to be between 0 and 1")


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("`max_accuracy_drop`: needs labels", "--max-accuracy-drop: needs labels"),
        ("`resume`: `bands` is 1 now; name a new `output`", "--resume: --band is 1 now; name a new --output"),
        ("`datasets` cannot load `some text`", "`datasets` cannot load `some text`"),
    ],
)
def test_options_are_written_in_one_place(message, shown, monkeypatch):
    def stop(*_):
        raise InputError(message)

    monkeypatch.setattr("sharcs.inference.folder.open_model", stop)
    assert error_message(sharcs("export", "model", "--output", "absent")) == shown


def test_a_package_that_a_command_misses_on_its_way_is_named_with_its_extra(monkeypatch):
    def fail(*_):
        raise ModuleNotFoundError("No module named 'pyarrow'", name="pyarrow")

    monkeypatch.setattr("sharcs.inference.folder.open_model", fail)
    message = "No module named 'pyarrow'; install the extra train: pip install 'sharcs[train]'"
    assert error_message(sharcs("export", "model", "--output", "absent")) == message


def test_an_import_that_fails_in_the_library_itself_is_no_wrong_input(monkeypatch):
    def fail(*_):
        raise ModuleNotFoundError("No module named 'sharcs.gone'", name="sharcs.gone")

    monkeypatch.setattr("sharcs.inference.folder.open_model", fail)
    monkeypatch.setattr(sys, "argv", ["sharcs", "export", "model", "--output", "absent"])
    with pytest.raises(ModuleNotFoundError, match=r"sharcs\.gone"):
        main()
