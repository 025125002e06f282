"""Training on several processes against one, at the same rows a step: rows per second, and how far weights differ.

    python benchmarks/processes_study.py

Trains MiniLM by sharcs+ on rows of sst2, which are short, and of agnews, an epoch in each of its two runs, without
dropout, which draws otherwise in each process; a thread a process, over gloo. Nothing else may run. Writes
benchmarks/results/processes.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from common import RESULTS, collator, machine, save, splits
from sharcs import SharcsForSequenceClassification, SharcsTrainer, SharcsTrainingArguments
from sharcs.data.named import minilm_path

BATCH = 32  # rows of all processes together
COUNTS = (1, 2)
SETS = {"sst2": 2000, "agnews": 1000}  # and how many of their rows
# Their gradient is zero, and Adam makes steps out of its rounding; nothing that the network answers hangs on them.
WITHOUT_EFFECT = "key.bias"


def train(name: str, folder: Path) -> None:
    """Train on the processes that run this; the first one writes the weights and what it took."""
    processes = int(os.environ["WORLD_SIZE"])
    data, _, names = splits(name, 0, tune=False, train_rows=SETS[name])
    torch.manual_seed(0)
    model = SharcsForSequenceClassification.from_encoder(minilm_path(), num_labels=len(names))
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    settings = SharcsTrainingArguments(
        str(folder / "runs"),
        num_train_epochs=1,
        subnetwork_epochs=1,
        per_device_train_batch_size=BATCH // processes,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
        use_cpu=True,
    )
    trainer = SharcsTrainer(model=model, args=settings, train_dataset=data, data_collator=collator())
    begun = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - begun
    if settings.process_index == 0:
        runs = (trainer, trainer.subnetwork_trainer)
        full, narrow = (run.state.log_history[-1]["train_samples_per_second"] for run in runs if run is not None)
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "weights")
        measured = {
            "seconds": round(seconds, 1),
            "rows_per_second_full_network": full,
            "rows_per_second_sub_networks": narrow,
        }
        save(folder / "measured.json", measured)


def compare(name: str) -> dict[str, Any]:
    """Train on each number of processes, and compare with one."""
    data, _, _ = splits(name, 0, tune=False, train_rows=SETS[name])
    found: dict[str, Any] = {"rows": SETS[name], "tokens_a_row": float(np.mean(data["length"])), "processes": {}}
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as parent:
        weights = {}
        for count in COUNTS:
            folder = Path(parent) / f"{count}"
            folder.mkdir()
            starter = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
            words = [__file__, "--set", name, "--folder", str(folder)]
            subprocess.run([*starter, *words], check=True, env=environment)
            weights[count] = load_file(folder / "weights")
            measured = json.loads((folder / "measured.json").read_text())
            found["processes"][count] = measured | differences(weights[1], weights[count])
    return found


def differences(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> dict[str, float]:
    apart = {name: float((one[name].double() - other[name].double()).abs().max()) for name in one}
    of_keys = {name for name in apart if name.endswith(WITHOUT_EFFECT)}
    return {
        "largest_difference": max(value for name, value in apart.items() if name not in of_keys),
        "largest_difference_of_key_biases": max(apart[name] for name in of_keys),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", choices=SETS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.folder is not None:
        train(given.set, given.folder)
        return
    of_machine = machine() | {"training_precision": "float32"}
    sets = {name: compare(name) for name in SETS}
    save(RESULTS / "processes.json", {"machine": of_machine, "batch": BATCH, "sets": sets})


if __name__ == "__main__":
    main()
