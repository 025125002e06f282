"""``sharcs+`` against its own full network: two sets, three seeds, every width and the routed policy on test rows.

    python benchmarks/own_full.py             # resumes: a run that is in own_full.json is skipped
    python benchmarks/own_full.py --tune      # measures on a tenth of train, and writes own_full_tuning.json

The full network is what plain fine-tuning makes of the same rows by the same settings, since ``sharcs+`` doesn't
change it. So the table says what routing costs against it, and nothing of other methods. The rate of banking77 was
chosen with --tune, that of sst2 not; the policy is the one that training leaves. ``tools/docs_tables.py`` writes the
table.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset

import sharcs
from common import RESULTS, collator, machine, processor_seconds, save, splits, training_precision
from sharcs import SharcsForSequenceClassification, SharcsTrainer, SharcsTrainingArguments
from sharcs.data.named import minilm_path
from sharcs.evaluation.accuracy import accuracy_report
from sharcs.evaluation.widths import run_all_widths

TRAIN_ROWS = {"sst2": 2000, "banking77": 2000}
SEEDS = (0, 1, 2)
SETTINGS = {
    "sst2": {"num_train_epochs": 3, "learning_rate": 1e-4, "per_device_train_batch_size": 32},
    "banking77": {"num_train_epochs": 6, "learning_rate": 2e-4, "per_device_train_batch_size": 16},
}
REPORTED = ("samples", "full", "routed", "widths", "random")


def train(name: str, rows: Dataset, labels: list[str], seed: int, folder: Path) -> SharcsForSequenceClassification:
    """Train one network in full, and read it back, since mixed precision stays on in the trained object."""
    transformers.set_seed(seed)
    model = SharcsForSequenceClassification.from_encoder(minilm_path(), num_labels=len(labels), router_layer=1)
    arguments = SharcsTrainingArguments(
        str(folder / "checkpoints"),
        seed=seed,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
        use_cpu=True,
        bf16=training_precision() == "bfloat16",
        **SETTINGS[name],
    )
    SharcsTrainer(model=model, args=arguments, train_dataset=rows, data_collator=collator()).train()
    model.save_pretrained(folder / "model")
    return SharcsForSequenceClassification.from_pretrained(folder / "model")


def run(name: str, seed: int, tune: bool) -> dict[str, Any]:
    rows, measured, labels = splits(name, seed, tune, TRAIN_ROWS[name])
    start = processor_seconds()
    with tempfile.TemporaryDirectory() as folder:
        model = train(name, rows, labels, seed, Path(folder))
    seconds = processor_seconds() - start
    outputs = run_all_widths(model, measured, collator())
    report = accuracy_report(model, outputs, torch.tensor(measured["labels"]), seed=seed)
    return {
        "set": name,
        "seed": seed,
        "train_rows": len(rows),
        **SETTINGS[name],
        "policy": model.config.policy,
        **{key: report[key] for key in REPORTED},
        "train_cpu_seconds": seconds,
        "sharcs": sharcs.__version__,
        **machine(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tune", action="store_true", help="train on nine tenths of train, measure on the rest")
    parser.add_argument("--sets", nargs="+", choices=TRAIN_ROWS, default=list(TRAIN_ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    file = RESULTS / ("own_full_tuning.json" if arguments.tune else "own_full.json")
    runs = json.loads(file.read_text())["runs"] if file.exists() else []
    finished = {(entry["set"], entry["seed"]) for entry in runs}
    for seed, name in itertools.product(arguments.seeds, arguments.sets):
        if (name, seed) in finished and not arguments.tune:
            continue
        result = run(name, seed, arguments.tune)
        runs.append(result)
        save(file, {"runs": runs})
        print({key: result[key] for key in ("set", "seed", "full", "routed", "train_cpu_seconds")}, flush=True)


if __name__ == "__main__":
    main()
