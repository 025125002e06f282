"""Does routing carry over: the same weights in other architectures, and encoders that are compressed already.

    python benchmarks/architecture_study.py run --encoder roberta --set sick --seed 0
    python benchmarks/architecture_study.py all --workers 2 --minutes 150    # resumes: finished runs are skipped
    python benchmarks/architecture_study.py summary

Each encoder is fine-tuned (4 epochs, the best one on a tenth of train), then gets its narrow network by sharcs+, as
in quality_study.py, whose splits, budgets and counter these are. The FLOPs ratio is over the encoder's own full
network, a compressed one's too. Ports are MiniLM written as another architecture (ports.py). Compressed: the first 4
and 3 layers, distilled from the fine-tuned network; DynaBERT's width 0.5; the 8 most important of 12 heads, tuned
again; int8 by ONNX Runtime of the routed network. Runs go to benchmarks/results/architectures.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F  # noqa: N812
import transformers
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

import pruned
from common import (
    RESULTS,
    collator,
    heading,
    machine,
    processor_seconds,
    run_processes,
    save,
    study_commands,
    tokenizer,
)
from peers import ours, static
from peers.fitting import fit, run_all
from peers.outputs import at_budgets, metric_of
from ports import ARCHITECTURES, port
from quality_study import EPOCHS, RATE, Rows, first_layers
from sharcs import SharcsForSequenceClassification
from sharcs.evaluation.answers import AllAnswers
from sharcs.export.bundle import export_model, quantise
from sharcs.inference.folder import best_device
from sharcs.tasks.classification import Task
from sharcs_runtime.bundle import Bundle
from sharcs_runtime.scores import SINGLE_LABEL

SETS = ("sick", "banking77")
COMPRESSED = ("minilm", "4-layers", "3-layers", "dynabert-0.5", "8-heads", "int8")
ENCODERS = ("minilm", *ARCHITECTURES, *COMPRESSED[1:])
BUDGET = 0.6
WIDTHS = {"dynabert-0.5": (1 / 3, 1.0)}  # of 6 heads; elsewhere a quarter
FOLDER = RESULTS / "architectures"


class Plain(nn.Module):
    """Any encoder with a head, for plain fine-tuning; with a teacher, it learns from its answers, too."""

    def __init__(self, model: Any, teacher: nn.Module | None = None) -> None:
        super().__init__()
        self.model = model
        self.teacher = [teacher]  # in a list: not a part of this module

    def forward(self, labels: Tensor, **inputs: Tensor) -> dict[str, Tensor]:
        logits = self.model(**inputs).logits.float()
        loss = F.cross_entropy(logits, labels)
        if self.teacher[0] is not None:
            with torch.no_grad():
                answers = self.teacher[0](**inputs).logits
            loss = loss + Task(SINGLE_LABEL).divergence(logits, answers)
        return {"loss": loss}

    def score(self, rows: Any, name: str) -> float:
        self.train(False)
        (logits,), _ = run_all(lambda inputs: (self.model(**inputs).logits.unsqueeze(0),), rows)
        return float(metric_of(name)(np.array(rows["labels"]), logits[0].argmax(-1).numpy()))


def fine_tune(model: Any, name: str, rows: Rows, seed: int, *, teacher: nn.Module | None = None) -> Any:
    """Train a network in the study's way and take its best epoch."""
    plain = Plain(model, teacher)
    fit(plain, rows.train, lambda: plain.score(rows.dev, name), seed=seed, epochs=EPOCHS, learning_rate=RATE)
    return plain.model


def without_types(rows: Rows) -> None:
    """Take the token types away from an architecture that has none."""
    for part in ("train", "dev", "test"):
        setattr(rows, part, getattr(rows, part).remove_columns("token_type_ids"))


def full_network(encoder: str, name: str, rows: Rows, seed: int) -> Any:
    """Train the network that gets a router."""
    labels = len(rows.names)
    if encoder in ARCHITECTURES:
        folder = port(encoder, Path(tempfile.mkdtemp()))
        model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=labels)
        if encoder in ("distilbert", "mpnet"):
            without_types(rows)
        return fine_tune(model, name, rows, seed)
    plain, _ = first_layers("plain", name, rows, seed)
    if encoder in ("4-layers", "3-layers"):
        transformers.set_seed(seed)
        student = static.FirstLayers(labels, int(encoder[0])).model
        return fine_tune(student, name, rows, seed, teacher=plain.model.train(False))
    if encoder == "dynabert-0.5":
        small, _ = static.train_dynabert(
            plain, name, rows.train, rows.dev, collator(), seed=seed, epochs=EPOCHS, rate=RATE
        )
        return pruned.first_units(small.model, heads=6, neurons=small.config.intermediate_size // 2)
    if encoder == "8-heads":
        ordered = static.DynaBert(plain, static.ordering_batches(rows.train, collator(), seed))
        eight = pruned.first_units(ordered.model, heads=8, neurons=plain.config.intermediate_size)
        return fine_tune(eight, name, rows, seed)
    return plain.model


def int8_outputs(model: SharcsForSequenceClassification, rows: Any, folder: Path) -> AllAnswers:
    """What the exported int8 graphs answer, at every width."""
    bundle = Bundle.read(folder)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    assert bundle.trunk is not None
    trunk, *tails = (onnxruntime.InferenceSession(str(file), options) for file in (bundle.trunk, *bundle.tails))

    def answer(inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        arrays = {key: value.cpu().numpy() for key, value in inputs.items()}
        scores, hidden = trunk.run(["router_logits", "hidden"], arrays)
        given = {"hidden": hidden, "attention_mask": arrays["attention_mask"]}
        logits = np.stack([tail.run(["logits"], given)[0] for tail in tails])
        return torch.from_numpy(logits), torch.from_numpy(scores).unsqueeze(0)

    (logits, scores), lengths = run_all(answer, rows)
    return ours.answers_from(model, logits, scores[0], lengths, torch.tensor(rows["labels"]))


def run(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    transformers.set_seed(args.seed)
    rows, start = Rows(args.set, args.seed), processor_seconds()
    encoder = full_network(args.encoder, args.set, rows, args.seed)
    with tempfile.TemporaryDirectory() as folder:
        encoder.save_pretrained(folder)
        model, _ = ours.train(
            "sharcs+", args.set, rows.train, rows.dev, len(rows.names), seed=args.seed, epochs=0, rate=RATE,
            encoder=folder, widths=WIDTHS.get(args.encoder, (0.25, 1.0)),
        )  # fmt: skip
        seconds = processor_seconds() - start
        # As a user finds it again: training in bfloat16 leaves its autocast around the network's forward pass.
        model.save_pretrained(Path(folder) / "routed")
        model = SharcsForSequenceClassification.from_pretrained(Path(folder) / "routed").to(best_device())
        if args.encoder == "int8":
            exported = Path(folder) / "onnx"
            export_model(model.train(False), tokenizer(), exported)
            quantise(exported)
            dev, test = (int8_outputs(model, part, exported) for part in (rows.dev, rows.test))
        else:
            dev, test = (ours.answers_of(model, part) for part in (rows.dev, rows.test))
    points = ours.policy_curve(dev, test, args.set)
    chosen = next(row for row in at_budgets(points) if row["budget"] == BUDGET)
    alone = ours.TwoWidths.of(test).summary(args.set, [chosen["cost"]])
    result = {
        "encoder": args.encoder, "set": args.set, "seed": args.seed, "budget": BUDGET,
        **{key: alone[key] for key in ("full", "narrow", "narrow_cost")}, "full_flops": float(test.costs.full.mean()),
        "routed": chosen["metric"], "cost": chosen["cost"],
        **{key: alone["bounds"][0][key] for key in ("random", "oracle")},
        "curve": points, "train_cpu_seconds": seconds, **machine(),
    }  # fmt: skip
    save(FOLDER / f"{args.encoder}-{args.set}-{args.seed}.json", result)
    print({key: result[key] for key in ("encoder", "set", "seed", "full", "narrow", "routed", "cost", "random")})


def everything(args: argparse.Namespace) -> None:
    """Run what is missing until the time is up; a run that has begun is finished."""
    commands = [
        (f"architecture-{encoder}-{name}-{seed}",
         [__file__, "run", "--encoder", encoder, "--set", name, "--seed", str(seed)])
        for seed in args.seeds for encoder in ENCODERS for name in SETS
        if not (FOLDER / f"{encoder}-{name}-{seed}.json").exists()
    ]  # fmt: skip
    run_processes(commands, workers=args.workers, minutes=args.minutes)


def load() -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Finished runs by encoder and set."""
    runs = {
        (encoder, name): [json.loads(file.read_text()) for file in sorted(FOLDER.glob(f"{encoder}-{name}-?.json"))]
        for encoder in ENCODERS
        for name in SETS
    }
    return {key: some for key, some in runs.items() if some}


def summary(args: argparse.Namespace) -> None:
    """Print one table of the ports and one of the compressed encoders; write both as JSON, and a picture of each."""
    runs = load()
    keys = ("full", "narrow", "routed", "random", "oracle")
    rows = []
    for (encoder, name), some in runs.items():
        means = {
            key: sum(run[key] for run in some) / len(some) for key in (*keys, "narrow_cost", "cost", "full_flops")
        }
        rows.append({"encoder": encoder, "set": name, "seeds": [run["seed"] for run in some], **means})
    of_minilm = {row["set"]: row["full_flops"] for row in rows if row["encoder"] == "minilm"}
    for title, encoders in (("Architectures", ("minilm", *ARCHITECTURES)), ("Compressed", COMPRESSED)):
        print(f"\n{title}\n")
        heading(
            "encoder", "set", "seeds", "FLOPs / MiniLM", "full", "narrow", "at %", "routed", "at %", "random",
            "oracle", "",
        )  # fmt: skip
        for row in (row for row in rows if row["encoder"] in encoders):
            size = row["full_flops"] / of_minilm.get(row["set"], float("nan"))
            verdict = "" if row["routed"] > row["random"] else "no better than random"
            seeds = ", ".join(str(seed) for seed in row["seeds"])
            print(
                f"| {row['encoder']} | {row['set']} | {seeds} | {size:.2f} | {100 * row['full']:.1f} "
                f"| {100 * row['narrow']:.1f} | {100 * row['narrow_cost']:.0f} | {100 * row['routed']:.1f} "
                f"| {100 * row['cost']:.0f} | {100 * row['random']:.1f} | {100 * row['oracle']:.1f} | {verdict} |"
            )
        draw(title.lower(), {key: some for key, some in runs.items() if key[0] in encoders}, of_minilm)
    save(RESULTS / "architectures.json", {"rows": rows})
    print(f"\nwrote {RESULTS / 'architectures.json'}; runs are in {FOLDER}")


def draw(title: str, runs: dict[tuple[str, str], list[dict[str, Any]]], of_minilm: dict[str, float]) -> None:
    """Draw each encoder's curve over FLOPs as a share of MiniLM's, so that compressed ones start further left."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(SETS), figsize=(11, 4.4), layout="constrained")
    colours = {encoder: f"C{number}" for number, encoder in enumerate(dict.fromkeys(key[0] for key in runs))}
    for panel, name in zip(axes, SETS, strict=True):
        for (encoder, of), some in runs.items():
            if of != name:
                continue
            scale = some[0]["full_flops"] / of_minilm.get(name, some[0]["full_flops"])
            points = sorted((scale * point["cost"], point["metric"]) for point in some[0]["curve"])
            panel.plot(
                *zip(*((100 * x, 100 * y) for x, y in points), strict=True), color=colours[encoder], label=encoder
            )
            panel.plot(100 * scale, 100 * some[0]["full"], "o", color=colours[encoder])
        panel.set_title(f"{name}, seed 0; points: without routing")
        panel.set_xlabel("FLOPs, % of MiniLM's")
        panel.set_ylabel("accuracy, %")
        panel.grid(alpha=0.3)
    axes[-1].legend(fontsize="small")
    FOLDER.mkdir(parents=True, exist_ok=True)
    figure.savefig(FOLDER / f"{title}.png", dpi=110)
    plt.close(figure)


def main() -> None:
    parser, commands = study_commands(__doc__)
    one, every = commands.choices["run"], commands.choices["all"]
    commands.add_parser("summary")
    one.add_argument("--encoder", required=True, choices=ENCODERS)
    one.add_argument("--set", required=True, choices=SETS)
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--threads", type=int, default=1)
    every.add_argument("--seeds", type=int, nargs="*", default=[0])
    args = parser.parse_args()
    {"run": run, "all": everything, "summary": summary}[args.command](args)


if __name__ == "__main__":
    main()
