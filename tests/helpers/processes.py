"""Trainings that one process and several have to end alike, and who starts several."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn
from transformers import TrainerCallback

from helpers.front import front_model
from helpers.tiny import TRAINERS, arguments, collate, task_model, task_rows, tiny_model, toy_rows
from sharcs.errors import InputError
from sharcs.training.arguments import PAPER, PLUS

TESTS = Path(__file__).parents[1]
BATCH = 12  # rows of all processes together
# Adam would take the rounding of a gradient that is zero, as a key's bias has, for a direction.
STEADY = {"adam_epsilon": 1e-4}
SHORT = {"num_train_epochs": 2, "subnetwork_epochs": 2, "front_epochs": 1, "importance_samples": 16}
JUDGED = {
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "load_best_model_at_end": True,
    "metric_for_best_model": "eval_loss",
}


def without_dropout(model):
    """Switch off what draws by the row, in the hidden twins of shared weights too."""
    twins = [twin for network in model.tail.subnetworks for twin in getattr(network, "twins", ())]
    for module in (part for whole in (model, *twins) for part in whole.modules()):
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


# By name: the recipe, the model, the rows, and the settings. The last batch has a row, and is not the last one.
CASES = {
    "lengths": (PLUS, lambda: tiny_model(weights="own"), lambda: toy_rows(37), JUDGED),
    "random": (
        PLUS,
        lambda: tiny_model(weights="own"),
        lambda: toy_rows(37),
        {
            "train_sampling_strategy": "random",
            "gradient_accumulation_steps": 2,
            "class_weights": "balanced",
        },
    ),
    "labels": (PLUS, lambda: task_model("labels", weights="own"), lambda: task_rows("labels", 31), {}),
    "front": (PLUS, front_model, lambda: toy_rows(29), {"made_texts": 0}),
    "paper": (PAPER, tiny_model, lambda: toy_rows(37), {"num_train_epochs": 4, "window": 1, **JUDGED}),
}


class Dies(TrainerCallback):
    """Ends a run after some steps, as if it were killed."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        """End it."""
        if state.global_step == self.step:
            raise KeyboardInterrupt


def trainer_of(case, folder, processes, callbacks=(), **settings):
    """Build the trainer of a case."""
    recipe, model, rows, more = CASES[case]
    own = SHORT if recipe == PLUS else {"importance_samples": 16}
    sizes = {"per_device_train_batch_size": BATCH // processes, "per_device_eval_batch_size": BATCH // processes}
    torch.manual_seed(int(os.environ.get("RANK", "0")))  # weights that differ at first are those of the first process
    return TRAINERS[recipe](
        model=without_dropout(model()),
        args=arguments(folder, recipe=recipe, **STEADY | own | sizes | more | settings),
        train_dataset=rows(),
        eval_dataset=toy_rows(19, seed=5) if more is JUDGED or "eval_strategy" in more else None,
        data_collator=collate,
        callbacks=list(callbacks),
    )


def trained(case, folder, processes, resume=False, callbacks=(), **settings):
    """Train a case: its weights, and what was logged of losses."""
    trainer = trainer_of(case, folder, processes, callbacks, **settings)
    trainer.train(resume_from_checkpoint=resume)
    log = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    judged = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    return {"weights": trainer.model.state_dict(), "log": log, "judged": judged}


def launch(script, processes, *words):
    """Run a script of this folder's kind on several processes, one thread each."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    return subprocess.run(
        [*command, *map(str, [*script, *words])],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=environment,
    )


def main():
    """Train some cases on the processes that run this, and write what each of them has."""
    folder, cases = Path(sys.argv[1]), sys.argv[2:]
    number, processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    for case in cases:
        torch.save(trained(case, folder / case, processes), folder / f"{case}-{number}.pt")
    refusals = {}
    if "paper" in cases:
        settings = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "no", "load_best_model_at_end": False}
        for case in ("paper", "lengths"):
            whole = trained(case, folder / "whole" / case, processes, **settings)
            again = folder / "again" / case
            with contextlib.suppress(KeyboardInterrupt):
                trained(case, again, processes, callbacks=[Dies(6)], **settings)
            resumed = trained(case, again, processes, resume=True, **settings)
            torch.save((whole, resumed), folder / f"{case}-resumed-{number}.pt")
    rows = toy_rows(16, seed=number)
    try:
        trainer = trainer_of("lengths", folder / "rows", processes)
        trainer.train_dataset = rows
        trainer.train()
    except InputError as error:
        refusals["rows"] = str(error)
    (folder / f"refusals-{number}.json").write_text(json.dumps(refusals))


if __name__ == "__main__":
    main()
