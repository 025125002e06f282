"""Saved FLOPs against saved seconds on a GPU, in bfloat16, at batch sizes up to 1,024.

    python benchmarks/speed_gpu.py base-sst2 base-agnews minilm-sst2 minilm-agnews

As speed_study.py's tables of the same names: routed to half of the FLOPs, the full network in our own batches as the
fair baseline. Engines take turns on the same texts. A time is from texts to answers, or from tokens to answers: a GPU
often waits for the tokenizer. The largest batch runs at once, so a batch has up to 65,536 tokens here. Writes
benchmarks/results/speed/gpu-PART.json.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import timeit
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
import transformers

import quality_study
from common import machine, on_gpu, save
from quality_study import Rows
from sharcs.benchmark.contestants import PipelineEngine, PlainEngine, plain_network
from sharcs.benchmark.measure import flops_ratios
from sharcs.inference.engine import InferenceEngine, tokens_of
from sharcs.inference.folder import best_device
from speed_networks import HALF, LENGTHS_OF, SEED, base_rows, network, route_to, test_texts
from speed_study import FOLDER

PARTS = tuple(f"{kind}-{name}" for kind in ("base", "minilm") for name in LENGTHS_OF)
BATCH_SIZES = {1: 16, 8: 4, 32: 4, 128: 2, 512: 1, 1024: 1}  # and how many batches
PIPELINE_BATCHES = (1, 8)  # it runs one text after the other
ROUNDS = 7
BATCH_TOKENS = 2**16


def engines_of(trained: Any, folder: Path) -> dict[str, Any]:
    """Open the engines that are compared, all in bfloat16."""
    plain_network(trained.model).save_pretrained(folder)
    trained.tokenizer.save_pretrained(folder)
    pipeline, full = PipelineEngine(str(folder)), PlainEngine(str(folder))
    pipeline.pipeline.model.to(torch.bfloat16)
    full.model.to(torch.bfloat16)
    full.batch_tokens = BATCH_TOKENS
    routed, narrow = (
        InferenceEngine(trained.model, trained.tokenizer, width=width, batch_tokens=BATCH_TOKENS)
        for width in (None, trained.model.config.widths[0])
    )
    return {"pipeline": pipeline, "full": full, f"width-{trained.model.config.widths[0]:g}": narrow, "routed": routed}


def medians(engines: dict[str, Callable[[Any], Any]], batches: list[Any]) -> dict[str, float]:
    """Seconds a batch: the median of the rounds, summed over the batches, after one round to warm up."""
    times: dict[str, list[list[float]]] = {name: [[] for _ in batches] for name in engines}
    for turn in range(ROUNDS + 1):
        for number, batch in enumerate(batches):
            for name, answer in engines.items():
                # The answers are Python's numbers: nothing is still to be waited for.
                seconds = timeit.timeit(lambda answer=answer, batch=batch: answer(batch), number=1)
                if turn:
                    times[name][number].append(seconds)
    return {name: sum(map(statistics.median, of_batches)) / len(batches) for name, of_batches in times.items()}


def table(trained: Any, texts: list[Any]) -> dict[str, Any]:
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        engines = engines_of(trained, Path(folder))
    for size, count in BATCH_SIZES.items():
        source = cycle(texts)
        batches = [list(islice(source, size)) for _ in range(count)]
        told = {n: lambda b, e=e: list(e.predict(b)) for n, e in engines.items()}
        if size not in PIPELINE_BATCHES:
            del told["pipeline"]
        from_texts = medians(told, batches)
        on_tokens = {n: lambda b, e=e: e._answer(b) for n, e in engines.items() if n != "pipeline"}
        from_tokens = medians(on_tokens, [tokens_of(batch, trained.tokenizer) for batch in batches])
        given = [text for batch in batches for text in batch]
        answers = list(engines["routed"].predict(given))
        rows[str(size)] = {
            "flops_ratio": flops_ratios(trained, given, {"routed": answers})["routed"],
            "milliseconds_from_texts": {name: 1000 * seconds for name, seconds in from_texts.items()},
            "milliseconds_from_tokens": {name: 1000 * seconds for name, seconds in from_tokens.items()},
            "time_ratio_from_texts": {name: seconds / from_texts["full"] for name, seconds in from_texts.items()},
            "time_ratio_from_tokens": {name: seconds / from_tokens["full"] for name, seconds in from_tokens.items()},
        }
        print(time.strftime("%H:%M:%S"), size, rows[str(size)]["time_ratio_from_texts"], flush=True)
    return rows


def run(part: str, args: argparse.Namespace) -> None:
    kind, _, name = part.partition("-")
    if kind == "base":
        trained, rows = base_rows(name)
    else:
        trained, rows = network(name, args.cache), Rows(name, SEED).dev
    trained.model.to(best_device(), torch.bfloat16)
    spent = route_to(trained.model, HALF, rows)
    content = {
        "part": part, "precision": "bfloat16", "batch_tokens": BATCH_TOKENS, "rounds": ROUNDS,
        "flops_ratio_when_chosen": spent, "policy": trained.model.config.policy,
        "batch_sizes": table(trained, test_texts(trained, name)[0]), **machine(),
    }  # fmt: skip
    save(args.results / f"gpu-{part}.json", content)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--cache", type=Path, default=quality_study.CACHE, help="where the trained networks are")
    parser.add_argument("--results", type=Path, default=FOLDER)
    args = parser.parse_args()
    if not on_gpu():
        parser.error("there is no GPU; speed_study.py measures on the processor")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for part in args.parts:
        run(part, args)


if __name__ == "__main__":
    main()
