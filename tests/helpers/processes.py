"""Trainings that one process and several have to end alike, and who starts several."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist
from torch import nn
from transformers import TrainerCallback, TrainingArguments

from helpers import cli, tokens
from helpers.front import front_model
from helpers.tiny import TRAINERS, arguments, collate, task_model, task_rows, tiny_model, toy_rows
from sharcs.errors import InputError
from sharcs.inference import folder as folders
from sharcs.training import checkpoints, numbered
from sharcs.training.arguments import PAPER, PLUS
from sharcs.training.processes import average
from sharcs_cli import app

TESTS = Path(__file__).parents[1]
BATCH = 12  # rows of all processes together
# Adam would take the rounding of a gradient that is zero, as a key's bias has, for a direction.
STEADY = {"adam_epsilon": 1e-3}
SHORT = {"num_train_epochs": 2, "subnetwork_epochs": 2, "front_epochs": 1}
JUDGED = {
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "load_best_model_at_end": True,
    "metric_for_best_model": "eval_loss",
}
SAVED = {"save_strategy": "steps", "save_steps": 3, "eval_strategy": "no", "load_best_model_at_end": False}
RANDOM = {
    "train_sampling_strategy": "random",
    "gradient_accumulation_steps": 2,
    "class_weights": "balanced",
    "made_texts": 0,
}

# By name: the recipe, the model, the rows, and the settings. A batch has one row, for the first process alone, and is
# not the last one.
CASES = {
    "lengths": (PLUS, lambda: tiny_model(weights="own"), lambda: toy_rows(37), JUDGED),
    "front": (PLUS, front_model, lambda: toy_rows(29), RANDOM),
    "paper": (PAPER, tiny_model, lambda: toy_rows(37), {"num_train_epochs": 3, "window": 1, **JUDGED}),
    "labels": (PLUS, lambda: task_model("labels", weights="own"), lambda: task_rows("labels", 31), {}),
    "smoothed": (
        PLUS,
        lambda: tiny_model("roberta", weights="own"),
        lambda: toy_rows(31),
        {"label_smoothing_factor": 0.2, "gradient_accumulation_steps": 3},
    ),
    "spans": (PLUS, lambda: tokens.toy_model("spans", weights="own"), lambda: tokens.toy_rows("spans", 31), {}),
    "tokens": (PLUS, lambda: tokens.toy_model("tokens", weights="own"), lambda: tokens.toy_rows("tokens", 31), {}),
    "accumulated": (
        PLUS,
        lambda: tokens.toy_model("tokens", weights="own"),
        lambda: tokens.toy_rows("tokens", 31),
        {"gradient_accumulation_steps": 2},
    ),
    "tokens by the paper": (
        PAPER,
        lambda: tokens.toy_model("tokens"),
        lambda: tokens.toy_rows("tokens", 31),
        {"num_train_epochs": 3, "window": 1},
    ),
}
FIRST_CASES = ("lengths", "front", "paper")


def without_dropout(model):
    """Switch off what draws by the row, in the hidden twins of shared weights too."""
    twins = [twin for network in model.tail.subnetworks for twin in getattr(network, "twins", ())]
    for module in (part for whole in (model, *twins) for part in whole.modules()):
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


class Dies(TrainerCallback):
    """Ends a run after some steps, as if it were killed."""

    def on_step_end(self, args, state, control, **kwargs):
        """End it."""
        if state.global_step == 6:
            raise KeyboardInterrupt


def trainer_of(case, folder, processes, *, dropout=False, **more):
    """Build the trainer of a case; processes have other weights at first, where they count as the first one's."""
    recipe, model, rows, settings = CASES[case]
    own = SHORT if recipe == PLUS else {}
    sizes = {"per_device_train_batch_size": BATCH // processes, "per_device_eval_batch_size": BATCH // processes}
    network = model() if dropout else without_dropout(model())
    if int(os.environ.get("RANK", "0")):
        nn.init.zeros_(next(network.parameters()))
    callbacks = more.pop("callbacks", [])
    labelled_texts = not case.startswith(("spans", "tokens", "accumulated"))
    return TRAINERS[recipe](
        model=network,
        args=arguments(folder, recipe=recipe, **STEADY | own | {"importance_samples": 16} | sizes | settings | more),
        train_dataset=rows(),
        eval_dataset=toy_rows(19, seed=5) if case in ("lengths", "paper") else rows()[:19],
        data_collator=collate if labelled_texts else tokens.collate,
        callbacks=callbacks,
    )


def trained(case, folder, processes, *, resume=False, **more):
    """Train a case: its weights, what was logged of losses, and what it answers."""
    trainer = trainer_of(case, folder, processes, **more)
    trainer.train(resume_from_checkpoint=resume)
    log = trainer.state.log_history
    answers = trainer.predict(trainer.eval_dataset).predictions
    return {
        "weights": trainer.model.state_dict(),
        "log": [entry["loss"] for entry in log if "loss" in entry],
        "judged": [entry["eval_loss"] for entry in log if "eval_loss" in entry],
        "predicted": torch.tensor(answers[0] if isinstance(answers, tuple) else answers),
    }


def resumed(case, folder, processes):
    """Train a case at once, and after a kill: the weights of both."""
    whole = trained(case, folder / "whole", processes, dropout=True, **SAVED)
    with contextlib.suppress(KeyboardInterrupt):
        trained(case, folder / "again", processes, dropout=True, callbacks=[Dies()], **SAVED)
    again = trained(case, folder / "again", processes, dropout=True, resume=True, **SAVED)
    return whole["weights"], again["weights"]


def refusals(folder, processes):
    """Ask for what several processes can't do: the messages."""
    number = int(os.environ["RANK"])

    def rows():
        trainer = trainer_of("lengths", folder, processes)
        trainer.train_dataset = toy_rows(16, seed=number)
        trainer.train()

    def with_setting(name, value):
        trainer_of("lengths", folder, processes, **{name: value})

    def alone():
        args = TrainingArguments(str(folder))
        TRAINERS[PLUS](model=tiny_model(weights="own"), args=args, train_dataset=toy_rows(16))

    asked = {
        "rows": rows,
        "search": lambda: trainer_of("lengths", folder, processes).hyperparameter_search(),
        "auto_find_batch_size": lambda: with_setting("auto_find_batch_size", True),
        "include_num_input_tokens_seen": lambda: with_setting("include_num_input_tokens_seen", "all"),
        "train_sampling_strategy": lambda: with_setting("train_sampling_strategy", "batch_rebalance"),
        "accelerator_config": lambda: with_setting("accelerator_config", {"split_batches": True}),
        "alone": alone,
    }
    messages = {}
    for name, ask in asked.items():
        try:
            ask()
        except InputError as error:
            messages[name] = str(error)
    return messages


def gradients(number):
    """Make gradients of many kinds, other ones in each process: tables of few rows, of which some are no number."""
    torch.manual_seed(number)
    table, other, empty = torch.zeros(20_000, 3), torch.zeros(17_000, 2), torch.zeros(16_500, 2)
    table[number : number + 3] = torch.randn(3, 3)
    other[:5] = torch.randn(5, 2)
    other[9 - number, 1] = float("nan")
    large, sliced, small = torch.randn(300, 200), torch.randn(300, 400)[:, ::2], torch.randn(7)
    return [table, small, large, other, small.double(), sliced, empty, large.bfloat16()]


def averages(number):
    """Average these over the processes."""
    found = gradients(number)
    average(found)
    return found


# The command


def command(folder, output, **options):
    """Write the words of a training on the toys in a folder."""
    given = {
        "data": folder / "train.csv",
        "validation": folder / "test.csv",
        "model": folder / "encoder",
        "output": folder / output,
        "widths": "0.25,1.0",
        "epochs": 2,
        "sub-network-epochs": 1,
        "batch-size": 24,
        "max-length": cli.MAX_LENGTH,
        "learning-rate": 3e-3,
        "readout": "first",
    }
    options = {name.replace("_", "-"): value for name, value in options.items()}
    words = [(f"--{name}", value) for name, value in (given | options).items()]
    return ["train", *(word for pair in words for word in pair)]


def commands(folder):
    """Run the command well and badly: how each ended, by name."""

    def full(*_):
        raise OSError(28, "No space left on device")

    ended = {
        "trained": cli.sharcs(*command(folder, "together")),
        "in use": cli.sharcs(*command(folder, "together")),
        "no column": cli.sharcs(*command(folder, "no-column", label_column="kind")),
        "batch": cli.sharcs(*command(folder, "batch", batch_size=25)),
    }
    with mock.patch.object(folders, "finish", full):
        ended["full"] = cli.sharcs(*command(folder, "full", epochs=1))
    return {name: vars(run) for name, run in ended.items()}


# Several processes


def launch(processes, *words):
    """Run a module on several processes, one thread each."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
    starter = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    return subprocess.run(
        [*starter, "-m", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env=environment,
    )


def fails(folder, number):
    """Run the command; at its first checkpoint, one process fails."""

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    if int(os.environ["RANK"]) == number:
        checkpoints.save_file = full
        numbered.NumberedTrainer._save_rng_state = full
    sys.argv = ["sharcs", *map(str, command(folder, f"fails-{number}", epochs=6, batch_size=6))]
    app.main()


def main():
    """Train some cases on the processes that run this, and write what each of them has."""
    folder, cases = Path(sys.argv[1]), sys.argv[2:]
    if cases[0].isdecimal():
        fails(folder, int(cases[0]))
    number, processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    for case in cases:
        torch.save(trained(case, folder / case, processes), folder / f"{case}-{number}.pt")
    torch.save(resumed("paper", folder / "paper", processes), folder / f"resumed-paper-{number}.pt")
    torch.save(resumed("lengths", folder / "lengths", processes), folder / f"resumed-lengths-{number}.pt")
    torch.save(averages(number), folder / f"averages-{number}.pt")
    said = {"refusals": refusals(folder / "refused", processes), "commands": commands(folder)}
    (folder / f"said-{number}.json").write_text(json.dumps(said))
    dist.destroy_process_group()  # the trainers', which no command has joined


if __name__ == "__main__":
    main()
