"""What the studies share: the development data, the machine's name, results written as they come."""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from sklearn.model_selection import train_test_split
from transformers import AutoTokenizer, DataCollatorWithPadding

from sharcs.data.named import minilm_path
from sharcs.data.texts import load_texts
from sharcs.data.tokens import tokenise
from sharcs.inference.folder import best_device

DATA = Path(__file__).parents[2] / "shared" / "data"
RESULTS = Path(__file__).parent / "results"
TRAIN_ROWS = {"sst2": 8000}  # the others are used whole
MAX_LENGTH = 128
HOLDOUT = 0.1


def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(minilm_path())


def collator() -> DataCollatorWithPadding:
    return DataCollatorWithPadding(tokenizer())


def test_file(name: str) -> str:
    """Find what is reported on: the test split, or validation where the labels of test are not public."""
    file = DATA / name / "test.csv.gz"
    return str(file if file.exists() else DATA / name / "validation.csv.gz")


def splits(name: str, seed: int, tune: bool, train_rows: int | None = None) -> tuple[Dataset, Dataset, list[str]]:
    """Tokenise a data set's training rows, that many if it is said, and what is measured on.

    With ``tune``, a tenth of train is measured on, so that no setting is chosen on what is reported; else the test
    split, or validation where the labels of test are not public.
    """
    rows_kept = train_rows or TRAIN_ROWS.get(name)
    train = load_texts(str(DATA / name / "train.csv.gz"), max_samples=rows_kept, seed=0)
    test = load_texts(test_file(name))
    assert train.labels is not None
    names = sorted(set(train.labels))
    label2id = {label: index for index, label in enumerate(names)}
    rows = tokenise(train, tokenizer(), max_length=MAX_LENGTH, label2id=label2id)
    if tune:
        kept, held = train_test_split(range(len(rows)), test_size=HOLDOUT, random_state=seed, stratify=rows["labels"])
        return rows.select(kept), rows.select(held), names
    return rows, tokenise(test, tokenizer(), max_length=MAX_LENGTH, label2id=label2id), names


def machine() -> dict[str, Any]:
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "processor": _of_processor("model name") or platform.processor(),
        "accelerator": torch.cuda.get_device_name() if on_gpu() else None,
        "training_precision": training_precision(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _of_processor(field: str) -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(field):
            return line.partition(":")[2].strip()
    return ""


def on_gpu() -> bool:
    return best_device().type == "cuda"


def training_precision() -> str:
    """Name what trainings multiply in, the same for every method.

    TensorFloat-32 on a GPU; else bfloat16 where the processor multiplies it itself: that saves much time, and takes
    ten times as long where it doesn't.
    """
    if on_gpu():
        return "tfloat32"
    has_bfloat16 = {"avx512_bf16", "amx_bf16"} & set(_of_processor("flags").split())
    return "bfloat16" if has_bfloat16 else "float32"


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def processor_seconds() -> float:
    """Seconds on the processors so far, which hardly depend on what else the machine does."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def run_processes(waiting: list[tuple[str, list[str]]], *, workers: int, minutes: float) -> None:
    """Run commands (a name and its arguments), some at a time, until the time is up; what has begun is finished."""
    end = time.time() + 60 * minutes
    queue = list(waiting)
    running: list[subprocess.Popen[bytes]] = []
    while queue or running:
        running = [process for process in running if process.poll() is None]
        while queue and len(running) < workers and time.time() < end:
            name, command = queue.pop(0)
            log = Path(f"/tmp/sharcs-{name}.log")
            print(time.strftime("%H:%M:%S"), name, "log:", log, flush=True)
            with log.open("wb") as file:
                running.append(subprocess.Popen([sys.executable, *command], stdout=file, stderr=subprocess.STDOUT))
        if time.time() >= end:
            queue = []
        time.sleep(1)


def save(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    partial.replace(path)
