"""The paper's recipe against plain fine-tuning of the same encoder, on four data sets and three seeds.

    python benchmarks/core_study.py run --set sst2 --method plain --seed 0
    python benchmarks/core_study.py all --workers 2 --minutes 90   # resumes: finished runs are skipped
    python benchmarks/core_study.py memory                         # peak memory, of short trainings of their own

Each run is a process of its own and writes benchmarks/results/core/SET-METHOD-SEED.json when it ends;
benchmarks/core_summary.py makes the table and the picture of them. --tune measures on a tenth of train: the learning
rate was chosen that way (benchmarks/results/core/tuning).
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForSequenceClassification, Trainer

from common import RESULTS, collator, machine, peak_megabytes, processor_seconds, run_processes, save, splits
from sharcs import PaperTrainer, PaperTrainingArguments, SharcsForSequenceClassification
from sharcs.data.named import minilm_path
from sharcs.evaluation.accuracy import accuracy_report
from sharcs.evaluation.inputs import model_inputs
from sharcs.evaluation.widths import run_all_widths

SETS = ("sst2", "sick", "banking77", "mrpc")
METHODS = ("plain", "paper")
SEEDS = (0, 1, 2)
EPOCHS = 10
MEMORY_ROWS, MEMORY_EPOCHS = 1000, 3  # with a window of 1 epoch, so that two of them have every width and a router
FOLDER = RESULTS / "core"


def arguments(folder: str, seed: int, epochs: int, learning_rate: float, window: int = 3) -> PaperTrainingArguments:
    return PaperTrainingArguments(
        folder,
        window=window,
        seed=seed,
        num_train_epochs=epochs,
        learning_rate=learning_rate,
        save_strategy="no",
        report_to=[],
        logging_steps=50,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        use_cpu=True,
        bf16=True,
    )


def plain_accuracy(model: Any, rows: Any, collate: Any) -> float:
    model.eval()
    order = sorted(range(len(rows)), key=lambda i: -rows[i]["length"])
    right = 0
    with torch.inference_mode():
        for start in range(0, len(order), 64):
            batch = [rows[i] for i in order[start : start + 64]]
            inputs = collate([model_inputs(row) for row in batch])
            labels = torch.tensor([row["labels"] for row in batch])
            right += int((model(**inputs).logits.argmax(-1) == labels).sum())
    return right / len(rows)


def run(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    train, test, names = splits(args.set, args.seed, args.tune)
    transformers.set_seed(args.seed)
    settings = arguments(f"/tmp/sharcs-core-{args.set}-{args.method}-{args.seed}", args.seed, args.epochs, args.rate)
    collate = collator()
    common = {"args": settings, "train_dataset": train, "data_collator": collate}
    start = time.time()
    result: dict[str, Any] = {
        "set": args.set, "method": args.method, "seed": args.seed, "epochs": args.epochs,
        "learning_rate": args.rate, "train_rows": len(train), "tuning": args.tune,
    }  # fmt: skip
    if args.method == "plain":
        model = AutoModelForSequenceClassification.from_pretrained(minilm_path(), num_labels=len(names))
        trainer: Trainer = Trainer(model=model, **common)
        trainer.train()
        result |= {**spent(start), "accuracy": plain_accuracy(model, test, collate)}
    else:
        routed = SharcsForSequenceClassification.from_encoder(minilm_path(), num_labels=len(names), weights="shared")
        trainer = PaperTrainer(model=routed, **common)
        trainer.train()
        result |= spent(start)
        outputs = run_all_widths(routed, test, collate)
        result["report"] = accuracy_report(routed, outputs, torch.tensor(test["labels"]), seed=args.seed).to_dict()
        result["shares_by_epoch"] = [
            {k: v for k, v in entry.items() if k.startswith(("share", "epoch"))}
            for entry in trainer.state.log_history
            if any(k.startswith("share") for k in entry)
        ]
    result |= {"optimiser_steps": trainer.state.global_step, **machine()}
    save(Path(args.output) if args.output else path_of(args.set, args.method, args.seed), result)
    print(json.dumps({k: v for k, v in result.items() if k != "report"}))


def spent(start: float) -> dict[str, float]:
    """Seconds by the clock and on the processors: the latter hardly depend on what else the machine does."""
    return {"train_seconds": time.time() - start, "train_cpu_seconds": processor_seconds()}


def peak(args: argparse.Namespace) -> None:
    """Train on the longest rows, in which any peak is, and note the peak memory of the process."""
    torch.set_num_threads(1)
    train, _, names = splits(args.set, 0, False)
    longest = sorted(range(len(train)), key=lambda row: -train[row]["length"])[:MEMORY_ROWS]
    transformers.set_seed(0)
    settings = arguments(f"/tmp/sharcs-core-memory-{args.set}-{args.method}", 0, MEMORY_EPOCHS, 1e-4, window=1)
    common = {"args": settings, "train_dataset": train.select(longest), "data_collator": collator()}
    if args.method == "plain":
        model = AutoModelForSequenceClassification.from_pretrained(minilm_path(), num_labels=len(names))
        Trainer(model=model, **common).train()
    else:
        routed = SharcsForSequenceClassification.from_encoder(minilm_path(), num_labels=len(names), weights="shared")
        PaperTrainer(model=routed, **common).train()
    result = {"set": args.set, "method": args.method, "rows": MEMORY_ROWS, "epochs": MEMORY_EPOCHS}
    save(memory_path_of(args.set, args.method), result | {"peak_megabytes": peak_megabytes(), **machine()})


def memory(args: argparse.Namespace) -> None:
    """Measure what is missing, each training in a process of its own."""
    commands = [
        (f"core-memory-{name}-{method}", [__file__, "peak", "--set", name, "--method", method])
        for name, method in itertools.product(SETS, METHODS)
        if not memory_path_of(name, method).exists()
    ]
    run_processes(commands, workers=args.workers, minutes=60)


def memory_path_of(name: str, method: str) -> Path:
    return FOLDER / "memory" / f"{name}-{method}.json"


def path_of(name: str, method: str, seed: int) -> Path:
    return FOLDER / f"{name}-{method}-{seed}.json"


def everything(args: argparse.Namespace) -> None:
    """Run what is missing, seed by seed, until the time is up; a run that has begun is finished."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    waiting = []
    for seed, name, method in itertools.product(SEEDS, SETS, METHODS):
        if path_of(name, method, seed).exists():
            continue
        command = [__file__, "run", "--set", name, "--method", method, "--seed", str(seed)]
        command += ["--threads", str(args.threads), "--rate", str(args.rate), "--epochs", str(args.epochs)]
        waiting.append((f"core-{name}-{method}-{seed}", command))
    run_processes(waiting, workers=args.workers, minutes=args.minutes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("run", "all"):
        command = commands.add_parser(name)
        command.add_argument("--threads", type=int, default=1)
        command.add_argument("--rate", type=float, default=1e-4)
        command.add_argument("--epochs", type=int, default=EPOCHS)
    one, every = commands.choices["run"], commands.choices["all"]
    one.add_argument("--set", required=True)
    one.add_argument("--method", choices=METHODS, required=True)
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--tune", action="store_true", help="train on nine tenths of train, measure on the rest")
    one.add_argument("--output")
    every.add_argument("--workers", type=int, default=2)
    every.add_argument("--minutes", type=float, default=90)
    short, every_peak = commands.add_parser("peak"), commands.add_parser("memory")
    short.add_argument("--set", required=True)
    short.add_argument("--method", choices=METHODS, required=True)
    every_peak.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    {"run": run, "all": everything, "peak": peak, "memory": memory}[args.command](args)


if __name__ == "__main__":
    main()
