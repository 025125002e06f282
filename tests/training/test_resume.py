"""Runs that are killed and resumed end exactly like runs that are not."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import Trainer, TrainerCallback

from helpers.tiny import tiny_encoder, tiny_model, toy_rows, trainer_for
from sharcs.errors import InputError
from sharcs.model.text import SharcsForSequenceClassification
from sharcs.training import checkpoints as training_state
from sharcs.training.checkpoints import LAST_FILE, STATE_FILE, last_complete_checkpoint

# 48 rows in batches of 8: the first epoch, at full width, has 6 steps; the others have two groups and more steps.
ROWS = 48
EVERY = 3
BOUNDARY = 6
MIDWAY = 18  # within the third epoch
SETTINGS = {
    "num_train_epochs": 3,
    "window": 1,
    "save_strategy": "steps",
    "save_steps": EVERY,
    "importance_samples": 16,
    "warmup_steps": 2,
    "bands": {0.25: (0.4, 1.0), 1.0: (0.0, 0.4)},
}

# Clock times, and a mean over the steps of this process only.
CLOCK = {"train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss"}

SCRIPT = """
import sys, time
sys.path[:0] = {paths!r}
from transformers import TrainerCallback
from sharcs.model.text import SharcsForSequenceClassification
import test_resume

class Slow(TrainerCallback):
    def on_step_end(self, *args, **kwargs):
        time.sleep(0.05)

encoder, *folders = sys.argv[1:]
for folder in folders:
    resume = folder.startswith("resume:")
    callbacks = [] if resume else [Slow()]
    trainer = test_resume.make_trainer(encoder, folder.removeprefix("resume:"), callbacks=callbacks)
    trainer.train(resume_from_checkpoint=resume)
"""


def make_trainer(encoder, folder, rows=ROWS, **settings):
    """Build the trainer as a user's script does, from a saved encoder."""
    torch.manual_seed(0)
    model = SharcsForSequenceClassification.from_encoder(encoder, router_layer=1, weights="shared")
    return trainer_for(folder, model, toy_rows(rows), **SETTINGS | settings)


def numbers(folder):
    """List the steps of the complete checkpoints."""
    return sorted(int(path.parent.name.split("-")[1]) for path in Path(folder).glob(f"checkpoint-*/{LAST_FILE}"))


def ending(folder):
    """Read everything that the last checkpoint says about a run's end."""
    last = Path(folder) / f"checkpoint-{numbers(folder)[-1]}"
    state = json.loads((last / "trainer_state.json").read_text())
    with safe_open(last / STATE_FILE, framework="pt") as file:
        progress = file.metadata()
    return {
        "weights": load_file(last / "model.safetensors"),
        "optimizer": torch.load(last / "optimizer.pt", weights_only=True),
        "scheduler": torch.load(last / "scheduler.pt", weights_only=False)["last_epoch"],
        "random": torch.load(last / "rng_state.pth", weights_only=False)["cpu"],
        "sharcs": load_file(last / STATE_FILE),
        "progress": progress,
        "step": state["global_step"],
        "epoch": state["epoch"],
        "max_steps": state["max_steps"],
        "log": [entry for entry in state["log_history"] if not CLOCK & set(entry)],
    }


def assert_same(found, expected, path="ending"):
    """Compare nested dictionaries and lists exactly."""
    assert type(found) is type(expected), path
    if isinstance(expected, dict):
        assert set(found) == set(expected), path
        for key in expected:
            assert_same(found[key], expected[key], f"{path}.{key}")
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected), path
        for index, pair in enumerate(zip(found, expected, strict=True)):
            assert_same(*pair, f"{path}[{index}]")
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(found.nan_to_num(-1), expected.nan_to_num(-1)), path
    else:
        assert found == expected, path


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A plain encoder on disk, with dropout."""
    folder = tmp_path_factory.mktemp("encoder")
    model = tiny_encoder()
    assert model.config.hidden_dropout_prob > 0
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def uninterrupted(encoder, tmp_path_factory):
    """A run to the end, in this process."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    trainer = make_trainer(encoder, folder)
    trainer.train()
    end = ending(folder)
    # What the tests below rely on.
    assert set(trainer.width_index.tolist()) == {0, 1}
    assert end["step"] == trainer.state.global_step > MIDWAY + EVERY
    assert 2 * BOUNDARY < int(end["progress"]["epoch_start"]) < MIDWAY
    assert {BOUNDARY, MIDWAY} < set(numbers(folder))
    return folder, end


@pytest.fixture(scope="module")
def killed(encoder, tmp_path_factory):
    """Three folders left by a killed process, which then all were resumed in a new process."""
    folder = tmp_path_factory.mktemp("killed")
    script = folder / "train.py"
    script.write_text(SCRIPT.format(paths=[str(folder) for folder in Path(__file__).parents[:2]]))
    command = [sys.executable, str(script), encoder]
    midway = folder / "midway"
    process = subprocess.Popen([*command, str(midway)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while not (midway / f"checkpoint-{MIDWAY}" / LAST_FILE).exists():
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(0.08)  # a step or two that will be lost
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL

    # The same folder, as if killed while the newest checkpoint was written, and as if killed an epoch earlier.
    incomplete = shutil.copytree(midway, folder / "incomplete")
    (incomplete / f"checkpoint-{numbers(midway)[-1]}" / LAST_FILE).unlink()
    boundary = shutil.copytree(midway, folder / "boundary")
    for number in numbers(boundary):
        if number > BOUNDARY:
            shutil.rmtree(boundary / f"checkpoint-{number}")
    left = {name: numbers(folder / name) for name in ("midway", "incomplete", "boundary")}
    done = subprocess.run(
        [*command, *(f"resume:{folder / name}" for name in left)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder, left


def test_run_killed_midway_through_an_epoch_ends_like_an_uninterrupted_one(killed, uninterrupted):
    folder, left = killed
    assert MIDWAY <= left["midway"][-1] < uninterrupted[1]["step"]
    assert_same(ending(folder / "midway"), uninterrupted[1])


def test_incomplete_checkpoint_is_passed_over_for_the_last_complete_one(killed, uninterrupted):
    folder, left = killed
    assert left["incomplete"] == left["midway"][:-1]
    assert_same(ending(folder / "incomplete"), uninterrupted[1])


def test_run_killed_between_epochs_ends_like_an_uninterrupted_one(killed, uninterrupted):
    folder, left = killed
    assert left["boundary"][-1] == BOUNDARY
    assert_same(ending(folder / "boundary"), uninterrupted[1])


ACCUMULATE = {
    "num_train_epochs": 3,
    "window": 1,
    "warmup_steps": 2,
    "gradient_accumulation_steps": 2,
    "save_strategy": "steps",
    "save_steps": 1,
}


@pytest.fixture(scope="module")
def accumulated(tmp_path_factory):
    """A run with gradient accumulation to the end, with a checkpoint of every step."""
    folder = tmp_path_factory.mktemp("accumulated")
    trainer_for(folder, tiny_model(), toy_rows(ROWS), **ACCUMULATE).train()
    end = ending(folder)
    assert end["step"] > 9
    assert end["progress"]["epoch_start"] == "7"
    return folder, end


@pytest.mark.parametrize("step", [1, 3, 5, 7, 9], ids=lambda step: f"step {step}")
def test_resuming_with_gradient_accumulation_changes_nothing(accumulated, tmp_path, step):
    # Three epochs of three steps and more: steps 3 and 7 are the ends of the first two, the others are within one.
    folder, end = accumulated
    shutil.copytree(folder / f"checkpoint-{step}", tmp_path / f"checkpoint-{step}")
    trainer_for(tmp_path, tiny_model(seed=9), toy_rows(ROWS), **ACCUMULATE).train(resume_from_checkpoint=True)
    assert_same(ending(tmp_path), end)


def test_resuming_a_finished_run_trains_no_more(encoder, uninterrupted):
    folder, end = uninterrupted
    trainer = make_trainer(encoder, folder)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == end["step"]
    expected = end["weights"]
    assert all(torch.equal(value, expected[name]) for name, value in trainer.model.state_dict().items())


def test_resuming_by_path_starts_from_that_checkpoint(encoder, uninterrupted, tmp_path):
    trainer = make_trainer(encoder, tmp_path)
    trainer.train(resume_from_checkpoint=str(uninterrupted[0] / f"checkpoint-{MIDWAY}"))
    assert_same(ending(tmp_path), uninterrupted[1])


class Interrupt(TrainerCallback):
    """Interrupts the run as Ctrl-C does."""

    def on_step_end(self, args, state, control, **kwargs):
        """Interrupt after a step that is not saved."""
        if state.global_step == MIDWAY + 1:
            raise KeyboardInterrupt


def test_an_interrupted_trainer_resumes_in_the_same_process(encoder, uninterrupted, tmp_path):
    trainer = make_trainer(encoder, tmp_path)
    callback = Interrupt()
    trainer.add_callback(callback)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer.remove_callback(callback)
    trainer.train(resume_from_checkpoint=True)
    assert_same(ending(tmp_path), uninterrupted[1])


# Death while a checkpoint is written. The exceptions leave on disk what a kill at that point leaves.


class Killed(BaseException):
    """The process ends here."""


def die_at(monkeypatch, owner, name, call):
    """Let the named function die at its n-th call."""
    real, calls = getattr(owner, name), []

    def dies(*args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            raise Killed
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, dies)


def test_death_while_the_state_is_written_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    die_at(monkeypatch, training_state, "save_file", 2)
    with pytest.raises(Killed):
        trainer_for(tmp_path, tiny_model(), toy_rows(ROWS), save_strategy="steps", save_steps=1).train()
    assert (tmp_path / "checkpoint-2").exists()
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-1")


def test_death_while_the_only_kept_checkpoint_is_replaced_leaves_one_of_them(tmp_path, monkeypatch):
    die_at(monkeypatch, training_state, "save_file", 2)
    settings = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 1}
    with pytest.raises(Killed):
        trainer_for(tmp_path, tiny_model(), toy_rows(ROWS), **settings).train()
    assert last_complete_checkpoint(tmp_path) is not None


def test_kept_checkpoints_are_as_many_as_the_limit(tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 2, "max_steps": 4}
    trainer_for(tmp_path, tiny_model(), toy_rows(ROWS), **settings).train()
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-4"]
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-4")


def test_death_while_a_checkpoint_of_an_older_run_is_overwritten_leaves_it_incomplete(tmp_path, monkeypatch):
    settings = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2}
    trainer_for(tmp_path, tiny_model(), toy_rows(ROWS), **settings).train()
    die_at(monkeypatch, Trainer, "_save_optimizer_and_scheduler", 2)
    with pytest.raises(Killed):
        trainer_for(tmp_path, tiny_model(seed=1), toy_rows(ROWS), **settings).train()
    # Its weights are the new run's, and its optimiser and history are still the old run's.
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-1")


def test_last_complete_checkpoint_goes_by_number_and_completeness(tmp_path):
    assert last_complete_checkpoint(tmp_path) is None
    assert last_complete_checkpoint(tmp_path / "missing") is None
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-11", "other-12", "checkpoint-best"):
        (tmp_path / name).mkdir()
        for file in (STATE_FILE, "optimizer.pt"):
            (tmp_path / name / file).touch()
        (tmp_path / name / LAST_FILE).write_text('{"step": ' if name == "checkpoint-11" else "{}")
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")


# What is refused


def test_resuming_without_a_checkpoint_is_refused_before_training(tmp_path):
    trainer = trainer_for(tmp_path, tiny_model(), toy_rows(ROWS))
    with pytest.raises(InputError, match="no complete checkpoint"):
        trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rows": ROWS - 8}, f"training samples: was made with {ROWS}, not {ROWS - 8}"),
        ({"window": 2}, "window: was made with 1, not 2"),
    ],
    ids=["other data", "other window"],
)
def test_resuming_with_other_data_or_window_is_refused(encoder, uninterrupted, tmp_path, settings, message):
    trainer = make_trainer(encoder, tmp_path, **settings)
    with pytest.raises(InputError, match=message):
        trainer.train(resume_from_checkpoint=str(uninterrupted[0] / f"checkpoint-{MIDWAY}"))


def test_resuming_by_the_path_of_an_incomplete_checkpoint_is_refused(encoder, uninterrupted, tmp_path):
    copy = shutil.copytree(uninterrupted[0] / f"checkpoint-{MIDWAY}", tmp_path / f"checkpoint-{MIDWAY}")
    (copy / STATE_FILE).unlink()
    with pytest.raises(InputError, match=f"checkpoint-{MIDWAY}"):
        make_trainer(encoder, tmp_path).train(resume_from_checkpoint=str(copy))
