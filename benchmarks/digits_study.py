"""A small ViT on scikit-learn's digits, trained from scratch by sharcs+: accuracy against FLOPs when routed.

    python benchmarks/digits_study.py            # three seeds, minutes on one core
    python benchmarks/digits_study.py --tune --seeds 0 1 --output /tmp/digits.json   # how its epochs were chosen

All 1,797 images, split anew for each seed: 30% are the test set, and of the rest a tenth is held out, on which the
thresholds of the routed curve are laid out. Training sees each image moved by a pixel in each direction, too. No
setting was chosen on a seed's test images. Writes benchmarks/results/digits.json and digits.png.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from transformers import ViTConfig, default_data_collator

from common import RESULTS, machine, processor_seconds, save
from peers.outputs import Outputs, at_budgets, curve
from sharcs import SharcsConfig, SharcsForImageClassification, SharcsTrainer, SharcsTrainingArguments
from sharcs.evaluation.accuracy import accuracy_report
from sharcs.evaluation.widths import run_all_widths, way_coefficients
from sharcs_runtime.policy import choose_width, flops
from sharcs_runtime.scores import blended
from sharcs_runtime.ways import ways_of

TEST, HELD_OUT = 0.3, 0.1
NETWORK = {
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 6,
    "intermediate_size": 128,
    "image_size": 8,
    "patch_size": 2,
    "num_channels": 1,
}
WIDTHS, ROUTER_LAYER, ROUTER_SIZE = [0.25, 1.0], 1, 64
Rows = list[dict[str, Any]]


def splits(seed: int) -> tuple[Rows, Rows, Rows]:
    """Training, held-out and test rows."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 8 - 1
    rows = [{"pixel_values": x, "labels": int(y)} for x, y in zip(images, data.target, strict=True)]
    rest, test = train_test_split(rows, test_size=TEST, random_state=seed, stratify=data.target)
    labels = [row["labels"] for row in rest]
    train, held_out = train_test_split(rest, test_size=HELD_OUT, random_state=seed, stratify=labels)
    return [moved for row in train for moved in shifted(row)], held_out, test


def shifted(row: dict[str, Any]) -> Rows:
    """An image as it is and moved by a pixel in each direction: so few images don't teach a transformer otherwise."""
    image = row["pixel_values"]
    padded = torch.nn.functional.pad(image, (1, 1, 1, 1), value=float(image.min()))
    places = ((1, 1), (0, 1), (2, 1), (1, 0), (1, 2))
    return [{**row, "pixel_values": padded[:, y : y + 8, x : x + 8].clone()} for y, x in places]


@torch.no_grad()
def outputs_of(model: SharcsForImageClassification, rows: Rows) -> Outputs:
    """Two stages: what an image runs first, and the full width for those that go on, which pay for both."""
    model.train(False)
    batch = default_data_collator(rows)
    found = model(pixel_values=batch["pixel_values"], widths="all")
    logits, policy = found.width_logits.float(), model.config.routing_policy
    ways = ways_of(len(WIDTHS))
    lengths = np.array([model.token_count(row) for row in rows])
    costs = torch.from_numpy(flops(way_coefficients(model, ways), lengths))  # [inputs, ways + 1]
    relative = costs[:, : len(WIDTHS)] / costs[:, -1:]
    first = choose_width(found.router_logits.float(), relative, policy)
    narrow, last = logits[first, torch.arange(len(rows))], torch.full_like(first, len(WIDTHS) - 1)
    went_on = (first < last).unsqueeze(1)
    answers = torch.stack([narrow, torch.where(went_on, blended(logits[-1], narrow, policy.blend), logits[-1])])
    row = torch.arange(len(rows))
    full = len(WIDTHS) - 1
    escalating = torch.tensor([ways.index(tuple(sorted({start, full}))) for start in first.tolist()])
    spent = torch.stack([costs[row, first], costs[row, escalating]])
    return Outputs(answers, spent, costs[:, -1], batch["labels"])


def by_chance(report: dict[str, Any], cost: float) -> float:
    """Accuracy of sending images at random to one of the two widths, at some mean cost."""
    narrow, full = report["widths"]
    share = (cost - narrow["flops_ratio"]) / (full["flops_ratio"] - narrow["flops_ratio"])
    return float(narrow["accuracy"] + min(max(share, 0), 1) * (full["accuracy"] - narrow["accuracy"]))


def study(seed: int, epochs: float, subnetwork_epochs: float, rate: float, tune: bool) -> dict[str, Any]:
    train, held_out, test = splits(seed)
    test = held_out if tune else test
    transformers.set_seed(seed)
    encoder = ViTConfig(**NETWORK, num_labels=10)
    config = SharcsConfig(encoder=encoder, widths=WIDTHS, router_layer=ROUTER_LAYER, router_hidden_size=ROUTER_SIZE)
    model = SharcsForImageClassification(config)
    settings = SharcsTrainingArguments(
        f"/tmp/sharcs-digits-{seed}",
        seed=seed,
        num_train_epochs=epochs,
        subnetwork_epochs=subnetwork_epochs,
        learning_rate=rate,
        per_device_train_batch_size=32,
        save_strategy="no",
        report_to=[],
        logging_steps=1000,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        use_cpu=True,
    )
    start, before = time.time(), processor_seconds()
    SharcsTrainer(model=model, args=settings, train_dataset=train, data_collator=default_data_collator).train()
    seconds = {"train_seconds": time.time() - start, "train_cpu_seconds": processor_seconds() - before}
    labels = torch.tensor([row["labels"] for row in test])
    report = accuracy_report(model, run_all_widths(model, test, default_data_collator), labels, seed=seed).to_dict()
    points = curve(outputs_of(model, held_out), outputs_of(model, test), "confidence", "digits")
    budgets = [{**at, "random": by_chance(report, at["cost"])} for at in at_budgets(points)]
    del report["curve"]
    rows = {"train_rows": len(train), "held_out_rows": len(held_out), "test_rows": len(test)}
    return {"seed": seed, **rows, **seconds, "report": report, "curve": points, "budgets": budgets}


def draw(runs: list[dict[str, Any]], path: Path) -> None:
    """Draw the mean over the seeds, and each seed's routed curve behind it."""
    figure, axes = plt.subplots(figsize=(6.4, 4.4), layout="constrained")

    def mean(read: Any) -> float:
        return 100 * sum(read(run) for run in runs) / len(runs)

    for run in runs:
        points = sorted(run["curve"], key=lambda at: at["cost"])
        xs, ys = ([100 * at[key] for at in points] for key in ("cost", "metric"))
        axes.plot(xs, ys, color="tab:blue", alpha=0.2)
    count = range(len(runs[0]["budgets"]))
    costs = [mean(lambda run, i=i: run["budgets"][i]["cost"]) for i in count]
    for key, style, label in (("metric", "o-", "routed, at a budget"), ("random", "--", "random router, equal cost")):
        values = [mean(lambda run, i=i, key=key: run["budgets"][i][key]) for i in count]
        axes.plot(costs, values, style, color="tab:blue" if key == "metric" else "tab:gray", label=label)
    for index, (marker, label) in enumerate((("s", "narrow for all"), ("D", "full for all, with the router"))):
        at = [
            mean(lambda run, i=index, key=key: run["report"]["widths"][i][key]) for key in ("flops_ratio", "accuracy")
        ]
        axes.plot(*at, marker, color="black", label=f"{label} ({at[1]:.1f}%)")
    for name, marker, color, label in (
        ("routed", "D", "tab:blue", "policy of sharcs+"),
        ("oracle", "*", "tab:green", "oracle"),
    ):
        at = [mean(lambda run, name=name, key=key: run["report"][name][key]) for key in ("flops_ratio", "accuracy")]
        axes.plot(*at, marker, color=color, label=f"{label} ({at[1]:.1f}%)", markersize=9)
    axes.set_xlabel("FLOPs, % of the full network")
    axes.set_ylabel("accuracy on test images, %")
    axes.set_title(f"ViT on digits from scratch, mean of {len(runs)} seeds")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=float, default=12)
    parser.add_argument("--subnetwork-epochs", type=float, default=4)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--tune", action="store_true", help="measure on the held-out images")
    parser.add_argument("--note", default="", help="what else the machine did, for the record")
    parser.add_argument("--output", type=Path, default=RESULTS / "digits.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    runs = [study(seed, args.epochs, args.subnetwork_epochs, args.rate, args.tune) for seed in args.seeds]
    settings = {"network": NETWORK, "widths": WIDTHS, "router_layer": ROUTER_LAYER, "router_size": ROUTER_SIZE}
    settings |= {"epochs": args.epochs, "subnetwork_epochs": args.subnetwork_epochs, "learning_rate": args.rate}
    save(args.output, {**settings, "note": args.note, **machine(), "runs": runs})
    draw(runs, args.output.with_suffix(".png"))
    for run in runs:
        report = run["report"]
        parts = [f"{name} {100 * report[name]['accuracy']:.1f}" for name in ("full", "routed", "random", "oracle")]
        print(f"seed {run['seed']}: {', '.join(parts)}, narrow {100 * report['widths'][0]['accuracy']:.1f};", end=" ")
        print(f"FLOPs {100 * report['routed']['flops_ratio']:.1f}%, {run['train_seconds']:.0f} s")


if __name__ == "__main__":
    main()
