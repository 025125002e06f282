"""The service under load beside text-embeddings-inference's scheduler, LitServe and its own full width.

    pip install --target /tmp/litserve litserve==0.2.19       # in an environment of its own
    python benchmarks/serve_study.py prepare --data agnews    # the judge's networks: exports, calibrates
    python benchmarks/serve_study.py run --data agnews --minutes 20 --litserve /tmp/litserve  # again until done
    python benchmarks/serve_study.py summary                  # results/serving.json, its picture, the table

The networks are the judge's, seed 0, with a ladder that its held-out rows calibrated. All run on ONNX Runtime in
int8, run_seconds.py's fastest where batches are small, as a service's are.
One engine process has core 1; the front and the generator have core 0. The target is ten times what the full network
takes for one text, measured when a set is first run, and again in each part, which ends if it has changed by a
quarter. Rates are multiples of the full network's throughput. All arms take a rate and a seed in turns. A cell is
written as it ends, to results/serving/SET/CELL.json, with what other processes took of the machine meanwhile; the
summary concludes nothing of a set where that was much. What can't run here is named with its error.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from common import RESULTS, machine, save, test_file, tokenizer
from judge import routed
from judge.pair import Pair
from judge.settings import Study
from serving import cells, faults, report
from serving.cells import ARMS, REFERENCE, Bench
from serving.scores import is_hopeless
from sharcs.data.texts import load_texts
from sharcs.export.bundle import export_model

FOLDER = RESULTS / "serving"
CACHE = Path(__file__).parent / "cache" / "serving"
MULTIPLES = (0.125, 0.25, 0.375, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0)
FIGURES = ("1", "2", "4", "6", "7", "8", "9", "13", "14", "18", "22")  # 3 is read off 2, and 5 off 4
LADDER = "0.02,0.05,0.10"
CHANGE = 0.25  # of the target between two parts
Cell = tuple[str, float, Callable[[Bench], dict[str, Any]]]  # its name, about its seconds, its work


def prepare(options: argparse.Namespace) -> None:
    """Export the judge's networks, routed and the full one alone; held-out rows calibrate the routed export."""
    folder = CACHE / options.data
    if (folder / "full").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    pair = Pair(Study.read(), options.data, 0)
    model, held_out = routed.model_of(pair), pair.parts.held_out
    names = model.config.id2label or {}
    with (folder / "held-out.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows(zip(held_out.texts, [names[int(label)] for label in held_out.labels], strict=True))
    for part in (model, tokenizer()):
        part.save_pretrained(folder / "model")
    shutil.rmtree(folder / "routed", ignore_errors=True)
    export_model(model, tokenizer(), folder / "routed", int8=True)
    _sharcs("calibrate", folder / "routed", "--data", folder / "held-out.csv", "--ladder", LADDER)
    export_model(model, tokenizer(), folder / "full", width="full", int8=True)


def _sharcs(*arguments: Any) -> None:
    code = subprocess.run([sys.executable, "-m", "sharcs_cli.app", *map(str, arguments)], check=False).returncode
    if code not in (0, 3):  # 3: no policy keeps the strictest limit, which the ladder then doesn't have
        raise SystemExit(code)


def most(folder: Path, arm: str) -> float | None:
    """Look up the most that an arm answered in time in a second; None before its rates are measured."""
    found = [json.loads(file.read_text()) for file in folder.glob("rate *.json")]
    goodputs = [cell["goodput"] for cell in found if cell.get("arm") == arm and "goodput" in cell]
    return max(goodputs, default=None)


def cells_of(options: argparse.Namespace, folder: Path) -> Iterator[Cell]:
    """List the cells of a set, in the order in which they run; what was hopeless at lower rates is left out."""
    seconds, seeds, figures = options.seconds, options.seeds, options.figures

    def known(multiple: float, arm: str, seed: int) -> dict[float, float]:
        lower = {each: folder / f"rate {each:g}, {arm}, {seed}.json" for each in MULTIPLES if each < multiple}
        read = {each: json.loads(file.read_text()) for each, file in lower.items() if file.exists()}
        return {each: cell["good_share"] for each, cell in read.items() if "good_share" in cell}

    if "2" in figures:
        yield "throughputs", 60, cells.throughputs
    for seed in range(seeds):
        if "1" in figures:
            for name in ("noop", "ours", "LitServe"):
                yield f"front {name}, {seed}", seconds + 10, lambda b, n=name, s=seed: cells.front(b, n, seconds, s)
        for multiple in MULTIPLES if "2" in figures else ():
            for arm in ARMS:
                if not is_hopeless(known(multiple, arm, seed)):
                    yield (
                        f"rate {multiple:g}, {arm}, {seed}",
                        seconds + 15,
                        lambda b, a=arm, m=multiple, s=seed: {"arm": a} | cells.rate(b, a, m, seconds, s),
                    )
        yield from _after_rates(options, folder, seed)
    if "8" in figures:
        yield "poison", 20, faults.poison
    if "9" in figures:
        yield "leaving", 20, faults.leaving
    if "14" in figures:
        yield "equality", 60, faults.equality
    if "22" in figures:
        yield "start", 30, cells.start
    for export in ("routed", "model") if "18" in figures else ():
        yield f"soak {export}", options.soak + 20, lambda b, e=export: faults.soak(b, e, options.soak, 0)


def _after_rates(options: argparse.Namespace, folder: Path, seed: int) -> Iterator[Cell]:
    """List the cells whose rate is a multiple of an arm's own capacity, which figure 2 finds."""
    figures, long = options.figures, 1.5 * options.seconds
    for arm, calibrated in (("ours", "ours, routing alone"), (("TEI's scheduler",) * 2)) if "4" in figures else ():
        own, highest = most(folder, calibrated), most(folder, arm)
        for times, seconds in ((3, long), (10, 2 * long)) if own and highest else ():
            yield (
                f"overload {times}, {arm}, {seed}",
                seconds + 25,
                lambda b, a=arm, t=times, o=own, m=highest, s=seconds: cells.overload(b, a, t, o, m, s, seed),
            )
    if own := most(folder, "ours, routing alone"):
        if "6" in figures:
            yield f"come again, {seed}", 60, lambda b, o=own: faults.come_again(b, o, seed)
        if "7" in figures:
            yield f"kills, {seed}", 90, lambda b, o=own: faults.kills(b, o, seed)
        if "13" in figures:
            yield f"drain, {seed}", 30, lambda b, o=own: faults.drain(b, o, seed)


def run(options: argparse.Namespace) -> None:
    """Measure cells that are missing, as far as the time goes."""
    end, folder, models = time.time() + 60 * options.minutes, FOLDER / options.data, CACHE / options.data
    load_before = os.getloadavg()[0]
    texts = load_texts(test_file(options.data)).texts
    found = cells.reference(models, texts)
    first = folder / "reference.json"
    if not first.exists():
        save(first, machine() | found | {"load_before": []})
    kept = json.loads(first.read_text())
    change = found["target"] / kept["target"] - 1
    if abs(change) > CHANGE:
        raise SystemExit(
            f"{options.data}: one text takes {100 * change:+.0f}% of what it took; wait for a quiet machine"
        )
    save(first, kept | {"load_before": [*kept["load_before"], load_before]})
    bench = Bench(models, texts, kept["target"], kept["capacity"], options.litserve)
    tried: set[str] = set()
    while cell := next((each for each in cells_of(options, folder) if _is_missing(each[0], folder, tried)), None):
        name, seconds, work = cell
        if time.time() + seconds > end:
            print(f"the time is up before {name!r}; run it again")
            return
        tried.add(name)
        try:
            content = work(bench)
        except Exception as error:  # named in the results
            content = {"error": f"{type(error).__name__}: {error}"}
        save(folder / f"{name}.json", content)
        print(name, json.dumps({key: value for key, value in content.items() if key != "looks"}), flush=True)


def _is_missing(name: str, folder: Path, tried: set[str]) -> bool:
    return name not in tried and not (folder / f"{name}.json").exists()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["prepare", "run", "summary"])
    parser.add_argument("--data", default="sst2", help="name of a set below ../shared/data")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0, help="of a rate")
    parser.add_argument("--soak", type=float, default=1800.0, help="seconds of a soak")
    parser.add_argument(
        "--figures", type=lambda text: text.split(","), default=FIGURES, help="like 2,4; by default all"
    )
    parser.add_argument("--minutes", type=float, default=20.0, help="of this part")
    parser.add_argument("--litserve", type=Path, help="where LitServe is installed, by pip install --target")
    options = parser.parse_args()
    if options.command == "summary":
        report.write(FOLDER, RESULTS / "serving.json")
        return
    {"prepare": prepare, "run": run}[options.command](options)


if __name__ == "__main__":
    assert REFERENCE in ARMS
    main()
