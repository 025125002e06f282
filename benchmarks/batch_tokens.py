"""How many tokens a batch should have on this machine: texts a second, of the plain network and ours, in turns.

    python benchmarks/batch_tokens.py --threads 2

Wants the networks that quality_study.py left in the cache, and a machine that does nothing else. Writes
benchmarks/results/speed/batch-tokens.json.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
import transformers

import quality_study
from common import heading, machine, save
from quality_study import Rows
from speed_networks import HALF, LENGTHS_OF, SEED, network, opened, route_to, test_texts
from speed_study import FOLDER

SIZES = (512, 1024, 2048, 4096, 8192)
TURNS, TEXTS = 3, 1024
COMPARED = ("full", "width-1", "routed", "routed-ort")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=quality_study.CACHE)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(args.threads)
    rows = []
    heading("texts", "network", *(f"{size:,} tokens" for size in SIZES))
    for name in LENGTHS_OF:
        trained = network(name, args.cache)
        route_to(trained.model, HALF, Rows(name, SEED).dev)
        texts = test_texts(trained, name)[0][:TEXTS]
        with tempfile.TemporaryDirectory() as temporary:
            engines = opened(trained, Path(temporary), COMPARED)
        for kind, engine in engines.items():
            taken: dict[int, list[float]] = {size: [] for size in SIZES}
            for turn in range(TURNS + 1):
                for size in SIZES:
                    engine.batch_tokens = size
                    start = time.perf_counter()
                    for _ in engine.predict(texts):
                        pass
                    if turn:  # the first warms up
                        taken[size].append(time.perf_counter() - start)
            speeds = {size: len(texts) / statistics.median(of) for size, of in taken.items()}
            rows.append({"set": name, "network": kind, "texts_per_second": speeds})
            print(f"| {name} | {kind} | {' | '.join(f'{speed:.0f}' for speed in speeds.values())} |", flush=True)
    save(FOLDER / "batch-tokens.json", {"rows": rows, **machine()})


if __name__ == "__main__":
    main()
