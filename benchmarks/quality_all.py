"""All of the quality study: fine-tuned networks, ours, what else was tried of it, and every peer.

    python benchmarks/quality_all.py --workers 2 --minutes 150

Ours and the three peers that are best over the sets with seed 0 get three seeds. Finished runs are skipped, so an
interrupted study goes on where it was; a run that has begun when the time is up is finished. Workers are forked from
one process that has imported everything and tokenised the texts, and run one study after the other.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import statistics
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple

import torch

import quality_study
import quality_tuning
from peers import early_exit
from quality_study import CASCADES, FOLDER, SEEDS, SETS

SEVERAL_SEEDS = 3  # peers
PEERS = (
    "dynabert", *early_exit.SIGNALS, "first-4-layers", "first-3-layers", "first-2-layers", *CASCADES, "tfidf"
)  # fmt: skip
SLOW_FIRST = ("banking77", "cola", "sst2", "agnews", "mrpc", "sick", "rte")
log = logging.getLogger("quality")


class Task(NamedTuple):
    """A run of one of the two studies; a tuning has a router layer and a width."""

    name: str
    method: str
    seed: int
    choice: quality_tuning.Choice | None = None

    @property
    def file(self) -> Path:
        if self.choice is not None:
            return quality_tuning.file_of(self.name, self.choice, self.seed)
        return FOLDER / f"{self.name}-{self.method}-{self.seed}.json"

    @property
    def needs(self) -> list[Task]:
        """What has to be there before: else two runs would train the same network."""
        plain = Task(self.name, "plain", self.seed)
        if self.method == "cascade-2-layers":
            return [plain, Task(self.name, "first-2-layers", self.seed)]
        return [plain] if self.method in ("sharcs+", "tuning", "dynabert", "cascade-tfidf", "tfidf") else []

    def run(self) -> None:
        if self.choice is not None:
            quality_tuning.run(self.name, self.choice, self.seed)
        else:
            quality_study.run(self.name, self.method, self.seed)


def best_peers() -> list[str]:
    """Name the peers with the highest mean over sets and budgets with seed 0; none before all of them are there."""
    files = {peer: [Task(name, peer, 0).file for name in SETS] for peer in PEERS}
    if not all(file.exists() for some in files.values() for file in some):
        return []
    scores = {
        peer: statistics.mean(json.loads(file.read_text())["mean_over_budgets"] for file in some)
        for peer, some in files.items()
    }
    return sorted(scores, key=lambda peer: -scores[peer])[:SEVERAL_SEEDS]


def study() -> list[Task]:
    """List all that is to be run, what others wait for and what takes long first."""
    return [
        *(Task(name, "plain", seed) for seed in SEEDS for name in SLOW_FIRST),
        *(Task(name, "sharcs+", seed) for seed in SEEDS for name in SLOW_FIRST),
        *(Task(name, "tuning", 0, choice) for choice in quality_tuning.CHOICES for name in SLOW_FIRST),
        *(Task(name, peer, 0) for peer in PEERS for name in SLOW_FIRST),
        *(Task(name, peer, seed) for peer in best_peers() for seed in SEEDS[1:] for name in SLOW_FIRST),
        *(Task(name, "paper", 0) for name in SLOW_FIRST),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=90)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True)
    end = time.monotonic() + 60 * args.minutes
    torch.set_num_threads(1)  # a fork of a process with more of them would hang
    for name in SETS:
        quality_study.tokenised(name)
    running: dict[Future[None], tuple[Task, float]] = {}
    started: set[Task] = set()
    with ProcessPoolExecutor(args.workers, multiprocessing.get_context("fork")) as pool:
        while True:
            waiting = [task for task in study() if task not in started and not task.file.exists()]
            ready = [task for task in waiting if all(need.file.exists() for need in task.needs)]
            for task in ready[: args.workers - len(running)] if time.monotonic() < end else []:
                running[pool.submit(task.run)] = task, time.monotonic()
                started.add(task)
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                task, since = running.pop(future)
                failure = future.exception()
                seconds = time.monotonic() - since
                log.info("%s %s", task.file.name, f"failed: {failure!r}" if failure else f"{seconds:.0f} s")
    log.info("%d runs are missing", len(waiting))


if __name__ == "__main__":
    main()
