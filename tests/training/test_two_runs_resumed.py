"""A training of sharcs+ that is killed in either run, or between them, ends as if it wasn't; others are refused."""

import copy
import shutil

import pytest
import torch
from transformers import TrainerCallback

from helpers.tiny import tiny_model, toy_rows
from sharcs.errors import InputError
from sharcs.training.checkpoints import LAST_FILE, STATE_FILE, furthest_checkpoint
from training.test_two_runs import NARROW_EPOCHS, ROWS, STEPS, full_weights, same, trainer_of

SAVING = {"save_strategy": "steps", "save_steps": 1, "seed": 3}


@pytest.fixture(scope="module", params=["group_by_length", "random"])
def whole(request, tmp_path_factory):
    """A run that wasn't interrupted, and the settings of it."""
    folder = tmp_path_factory.mktemp("whole")
    settings = SAVING | {"train_sampling_strategy": request.param}
    torch.manual_seed(0)
    trainer = trainer_of(folder, **settings)
    trainer.train()
    return folder, settings, {name: value.clone() for name, value in trainer.model.state_dict().items()}


@pytest.mark.parametrize(
    "kept",
    [
        "checkpoint-2",
        *(pytest.param(f"checkpoint-{step}", marks=pytest.mark.extended) for step in (3, 5, 6)),
        "subnetworks/checkpoint-0",
        *(pytest.param(f"subnetworks/checkpoint-{step}", marks=pytest.mark.extended) for step in (1, 5, 6)),
        "subnetworks/checkpoint-3",
    ],
)
def test_a_resumed_training_ends_like_one_that_was_not_interrupted(whole, tmp_path, kept):
    folder, settings, weights = whole
    shutil.copytree(folder / kept, tmp_path / kept)
    torch.manual_seed(1)
    again = trainer_of(tmp_path, model=tiny_model(weights="own", seed=9), **settings)
    again.train(resume_from_checkpoint=True)
    assert same(again.model.state_dict(), weights)
    assert again.model.config.routing_policy.escalates
    steps = again.subnetwork_trainer.state.global_step
    assert steps == NARROW_EPOCHS * STEPS


def test_true_goes_on_from_the_furthest_complete_checkpoint(whole, tmp_path):
    folder = shutil.copytree(whole[0], tmp_path / "copy")
    assert furthest_checkpoint(folder) == str(folder / "subnetworks" / "checkpoint-6")
    for step in range(7):
        (folder / "subnetworks" / f"checkpoint-{step}" / (LAST_FILE if step % 2 else STATE_FILE)).unlink()
    assert furthest_checkpoint(folder) == str(folder / "checkpoint-6")


class Killed(BaseException):
    """The process ends here."""


class Dies(TrainerCallback):
    """Ends the process when the n-th run begins."""

    runs = 0

    def on_train_begin(self, args, state, control, **kwargs):
        """End it."""
        type(self).runs += 1
        if type(self).runs == 2:
            raise Killed


def test_a_kill_between_the_runs_costs_no_epoch(tmp_path):
    """Although the last checkpoint of the first run is an epoch old."""
    Dies.runs = 0
    settings = {"save_strategy": "steps", "save_steps": STEPS + 1}
    trainer = trainer_of(tmp_path, callbacks=[Dies()], **settings)
    with pytest.raises(Killed):
        trainer.train()
    full = full_weights(trainer.model)
    again = trainer_of(tmp_path, model=tiny_model(weights="own", seed=9), **settings)
    first = []
    again.model.register_forward_hook(lambda module, *_: first.append(1) if module.training else None)
    again.train(resume_from_checkpoint=True)
    assert same(full, full_weights(again.model))
    assert first == []  # in the second run, only sub-networks are in training mode
    assert again.subnetwork_trainer.state.global_step == NARROW_EPOCHS * STEPS


def test_a_new_training_does_not_go_on_with_an_older_ones_second_run(whole, tmp_path):
    folder = shutil.copytree(whole[0], tmp_path / "copy")

    class Stops(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 2:
                raise Killed

    with pytest.raises(Killed):
        trainer_of(folder, callbacks=[Stops()], **whole[1]).train()
    assert "subnetworks" not in furthest_checkpoint(folder)


def other_rows(change):
    rows = copy.deepcopy(toy_rows(ROWS))
    if change == "order":
        rows[3], rows[4] = rows[4], rows[3]
    elif change == "token":
        rows[3]["input_ids"][-2] += 1
    else:
        rows.append(rows[0])
    return rows


@pytest.mark.parametrize("checkpoint", ["checkpoint-2", "subnetworks/checkpoint-2"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("order", "rows: was made with others"),
        ("token", "rows: was made with others"),
        ("more", "training samples: was made with 24, not 25"),
        ("widths", r"widths: was made with \[0.25, 1.0\], not \[0.5, 1.0\]"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(whole, tmp_path, checkpoint, change, message):
    widths = (0.5, 1.0) if change == "widths" else (0.25, 1.0)
    rows = toy_rows(ROWS) if change == "widths" else other_rows(change)
    trainer = trainer_of(tmp_path, model=tiny_model(weights="own", widths=widths), rows=rows, **whole[1])
    with pytest.raises(InputError, match=message):
        trainer.train(resume_from_checkpoint=str(whole[0] / checkpoint))
    assert trainer.state.global_step == 0


def test_a_checkpoint_without_an_optimizer_is_refused(tmp_path):
    settings = SAVING | {"save_only_model": True}
    trainer_of(tmp_path, **settings).train()
    with pytest.raises(InputError, match="save_only_model leaves it out"):
        trainer_of(tmp_path, **settings).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
