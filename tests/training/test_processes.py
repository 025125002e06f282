"""Training on several processes ends like training on one: both recipes, each run, any rows; the command."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers.cli import Run, error_message, save_encoder, succeeds, toy_rows, write_csv
from helpers.compare import differences
from helpers.processes import CASES, FIRST_CASES, SAVED, command, gradients, launch, trained, trainer_of
from sharcs.errors import InputError


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.extended)])
def together(request, tmp_path_factory):
    """What several processes have trained: their number, and the folder of what each of them has."""
    folder = tmp_path_factory.mktemp("together")
    save_encoder(folder / "encoder", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    write_csv(folder / "train.csv", toy_rows(61))
    write_csv(folder / "test.csv", toy_rows(160, seed=1))
    done = launch(request.param, "helpers.processes", folder, *(FIRST_CASES if request.param == 2 else CASES))
    assert done.returncode == 0, done.stderr
    return request.param, folder


def largest_difference(one, other):
    """Compare two trainings' weights."""
    assert one.keys() == other.keys()
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


def said(together, what):
    """Read what each process said."""
    processes, folder = together
    return [json.loads((folder / f"said-{number}.json").read_text())[what] for number in range(processes)]


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=() if case in FIRST_CASES else pytest.mark.extended) for case in CASES]
)
def test_several_processes_end_like_one(together, tmp_path, case):
    processes, folder = together
    if not (folder / f"{case}-0.pt").exists():
        pytest.skip("on three processes")
    alone = trained(case, tmp_path, 1)
    for number in range(processes):
        shared = torch.load(folder / f"{case}-{number}.pt")
        assert largest_difference(alone["weights"], shared["weights"]) < 1e-5
        assert shared["log"] == pytest.approx(alone["log"], abs=1e-5)
        assert shared["judged"] == pytest.approx(alone["judged"], abs=1e-5)
        torch.testing.assert_close(shared["predicted"], alone["predicted"], atol=1e-4, rtol=0)


def test_gradients_are_averaged(together):
    """Tables too, of which each process has rows of its own, and what lies in memory in another order."""
    processes, folder = together
    every = [gradients(number) for number in range(processes)]
    for number in range(processes):
        for found, *parts in zip(torch.load(folder / f"averages-{number}.pt"), *every, strict=True):
            truth = sum(part.double() for part in parts) / processes
            assert found.dtype == parts[0].dtype
            tolerance = 1e-2 if found.dtype == torch.bfloat16 else 1e-6
            torch.testing.assert_close(found.double(), truth, rtol=tolerance, atol=tolerance, equal_nan=True)


@pytest.mark.parametrize("case", ["paper", "lengths"])
def test_a_killed_training_goes_on_as_if_it_was_not(together, case):
    """With dropout, so that each process has to draw what it would have drawn."""
    processes, folder = together
    for number in range(processes):
        whole, again = torch.load(folder / f"resumed-{case}-{number}.pt")
        assert largest_difference(whole, again) == 0


@pytest.mark.parametrize("case", ["paper", "lengths"])
def test_a_checkpoint_of_another_number_of_processes_is_refused(together, case):
    processes, folder = together
    trainer = trainer_of(case, folder / case / "whole", 1, **SAVED)
    with pytest.raises(InputError, match=f"processes: was made with {processes}, not 1; resume with"):
        trainer.train(resume_from_checkpoint=True)


def test_what_several_processes_do_not_do_alike_is_refused(together):
    processes, _ = together
    beginnings = {
        "alone": f"use_cpu: {processes} processes were launched, and each would train alone; set it where",
        "auto_find_batch_size": f"auto_find_batch_size: with {processes} processes one alone may lack memory",
        "include_num_input_tokens_seen": f"include_num_input_tokens_seen: with {processes} processes is counted in",
        "train_sampling_strategy": f"train_sampling_strategy batch_rebalance: with {processes} processes rows are",
        "accelerator_config": f"accelerator_config split_batches: with {processes} processes rows are shared out",
        "rows": "train_dataset: has other rows in another process; give all the same, in",
        "search": "hyperparameter_search: searches in one process; start it with python",
    }
    for messages in said(together, "refusals"):
        assert messages.keys() == beginnings.keys()
        for name, beginning in beginnings.items():
            assert messages[name].startswith(beginning)


# The command


def test_the_command_trains_the_model_of_one_process(together, tmp_path):
    _, folder = together
    succeeds(*command(folder, tmp_path / "alone"))
    first, *others = said(together, "commands")
    assert first["trained"]["code"] == 0
    assert "the model is in" in first["trained"]["err"]
    for of_process in others:
        assert of_process["trained"] == vars(Run(0, "", ""))
    shared, alone = folder / "together", tmp_path / "alone"
    assert {path.name for path in shared.iterdir()} == {path.name for path in alone.iterdir()}
    of_shared, of_alone = (json.loads((path / "config.json").read_text()) for path in (shared, alone))
    assert differences(of_shared, of_alone, tolerance=1e-4) == []  # thresholds are scores, which round differently
    assert "promise" in of_shared
    assert (shared / "training.json").read_bytes() == (alone / "training.json").read_bytes()
    weights = [load_file(path / "model.safetensors") for path in (shared, alone)]
    # Those apart whose gradient is zero, of which Adam makes steps out of its rounding.
    kept = [{name: value for name, value in each.items() if not name.endswith("key.bias")} for each in weights]
    assert largest_difference(*kept) < 1e-4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("in use", "together: is in use; name a new directory, or add --resume"),
        ("no column", "no column 'kind'; it has 'text', 'label'; name the label column with --label-column"),
        ("batch", "--batch-size 25: has to be a multiple of the "),
        ("full", "can't be written"),
    ],
)
def test_what_is_wrong_is_said_once_and_ends_all(together, name, message):
    first, *others = said(together, "commands")
    assert message in error_message(Run(**first[name]))
    for of_process in others:
        assert of_process[name] == vars(Run(2, "", ""))
    assert not Path(together[1] / "no-column").exists()


@pytest.mark.extended
@pytest.mark.parametrize("number", [0, 1])
def test_a_process_that_fails_on_the_way_ends_all_and_says_it(together, number):
    """The launcher adds a report of its own."""
    processes, folder = together
    done = launch(processes, "helpers.processes", folder, number)
    assert done.returncode == 1
    ours = done.stderr[: done.stderr.index("torch/distributed")]
    assert "Traceback" not in ours
    said = [line for line in done.stderr.splitlines() if "sharcs: error:" in line]
    full = f"--output {folder}/fails-{number}: can't be written ([Errno 28] No space left"
    assert any(full in line for line in said), said
    assert len(said) <= 1 + number, said  # the first process says that another has gone
