"""``sharcs+`` against its own full network: two sets, three seeds, every width and the routed policy on test rows.

    python benchmarks/own_full.py             # resumes: a run that is in own_full.json is skipped
    python benchmarks/own_full.py --tune      # measures on a tenth of train, and writes own_full_tuning.json
    python benchmarks/own_full.py --source OLD_CHECKOUT/src --json own_full_before.json

The full network is what plain fine-tuning makes of the same rows by the same settings, since ``sharcs+`` doesn't
change it. So the table says what routing costs against it, and nothing of other methods. The rate of banking77 was
chosen with --tune, that of sst2 not; the policy is the one that training leaves. ``tools/docs_tables.py`` writes the
table. With --source another checkout trains on the same rows, back to commit 51ed7c4: that shows what a change of
the trainers does.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from common import RESULTS, machine, save, splits

TRAIN_ROWS = {"sst2": 2000, "banking77": 2000}
SEEDS = (0, 1, 2)
SETTINGS = {
    "sst2": {"num_train_epochs": 3, "learning_rate": 1e-4, "per_device_train_batch_size": 32},
    "banking77": {"num_train_epochs": 6, "learning_rate": 2e-4, "per_device_train_batch_size": 16},
}
REPORTED = ("samples", "full", "routed", "widths", "random")
# What an older checkout can run too. A trained network is read back, since mixed precision stays on in the object.
PROGRAM = """
import json, resource, sys
from pathlib import Path
import torch, transformers
from datasets import load_from_disk
import sharcs
from sharcs import SharcsForSequenceClassification, SharcsTrainer, SharcsTrainingArguments
try:
    from sharcs.data.named import minilm_path
    from sharcs.evaluation.accuracy import accuracy_report
    from sharcs.evaluation.widths import run_all_widths
except ImportError:
    from sharcs.builtin import minilm_path
    from sharcs.evaluation import accuracy_report, run_all_widths
folder, task = Path(sys.argv[1]), json.loads(sys.argv[2])
torch.set_num_threads(task["threads"])
transformers.set_seed(task["seed"])
collate = transformers.DataCollatorWithPadding(transformers.AutoTokenizer.from_pretrained(minilm_path()))
rows, measured = load_from_disk(folder / "train"), load_from_disk(folder / "measured")
start = resource.getrusage(resource.RUSAGE_SELF).ru_utime
model = SharcsForSequenceClassification.from_encoder(minilm_path(), num_labels=task["labels"], router_layer=1)
arguments = SharcsTrainingArguments(
    str(folder / "checkpoints"), seed=task["seed"], save_strategy="no", report_to=[], disable_tqdm=True,
    dataloader_pin_memory=False, use_cpu=True, bf16=task["bf16"], **task["settings"],
)
SharcsTrainer(model=model, args=arguments, train_dataset=rows, data_collator=collate).train()
seconds = resource.getrusage(resource.RUSAGE_SELF).ru_utime - start
model.save_pretrained(folder / "model")
model = SharcsForSequenceClassification.from_pretrained(folder / "model")
report = accuracy_report(
    model, run_all_widths(model, measured, collate), torch.tensor(measured["labels"]), seed=task["seed"]
)
report = report if isinstance(report, dict) else report.to_dict()
extra = {"policy": model.config.policy, "train_cpu_seconds": seconds, "sharcs": sharcs.__version__}
(folder / "report.json").write_text(json.dumps(report | extra))
"""


def run(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train on one set by one checkout, and measure."""
    rows, measured, labels = splits(name, seed, options.tune, TRAIN_ROWS[name])
    about = machine()
    task = {
        "seed": seed,
        "labels": len(labels),
        "threads": options.threads,
        "bf16": about["training_precision"] == "bfloat16",
        "settings": SETTINGS[name],
    }
    with tempfile.TemporaryDirectory() as work:
        rows.save_to_disk(f"{work}/train")
        measured.save_to_disk(f"{work}/measured")
        environment = os.environ | {"PYTHONPATH": str(options.source)}
        subprocess.run([sys.executable, "-c", PROGRAM, work, json.dumps(task)], env=environment, check=True)
        report = json.loads(Path(work, "report.json").read_text())
    return {
        "set": name,
        "seed": seed,
        "train_rows": len(rows),
        **SETTINGS[name],
        **{key: report[key] for key in ("policy", *REPORTED, "train_cpu_seconds", "sharcs")},
        **about,
        "threads": options.threads,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tune", action="store_true", help="train on nine tenths of train, measure on the rest")
    parser.add_argument("--sets", nargs="+", choices=TRAIN_ROWS, default=list(TRAIN_ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--source", type=Path, default=Path(__file__).parents[1] / "src", help="whose code trains")
    parser.add_argument("--json", help="a file in results/")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)  # what machine() names
    file = RESULTS / (options.json or ("own_full_tuning.json" if options.tune else "own_full.json"))
    runs = json.loads(file.read_text())["runs"] if file.exists() else []
    finished = {(entry["set"], entry["seed"]) for entry in runs}
    for seed, name in itertools.product(options.seeds, options.sets):
        if (name, seed) in finished and not options.tune:
            continue
        result = run(name, seed, options)
        runs.append(result)
        save(file, {"runs": runs})
        print({key: result[key] for key in ("set", "seed", "full", "routed", "train_cpu_seconds")}, flush=True)


if __name__ == "__main__":
    main()
