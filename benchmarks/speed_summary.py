"""Sum up the finished parts of speed_study.py and speed_gpu.py: speed.json, speed.png, and the README's tables.

python benchmarks/speed_summary.py
"""

from __future__ import annotations

import json
from typing import Any

import matplotlib as mpl

import tables
from common import RESULTS, heading, save
from speed_study import FOLDER, PARTS

mpl.use("Agg")
from matplotlib import pyplot as plt


def row_of(part: dict[str, Any], name: str) -> dict[str, Any]:
    return next(row for row in part["rows"] if row["name"] == name)  # type: ignore[no-any-return]


def gpu_table(parts: list[dict[str, Any]]) -> None:
    """Print the routed network's time over the full one's on a GPU, from texts and from tokens."""
    sizes = list(parts[0]["batch_sizes"])
    heading("network and texts", "", *(f"batch of {size}" for size in sizes))
    for part in parts:
        rows = part["batch_sizes"]
        lines = {"FLOPs": [rows[size]["flops_ratio"] for size in sizes]} | {
            f"time, {kind.replace('_', ' ')}": [rows[size][f"time_ratio_{kind}"]["routed"] for size in sizes]
            for kind in ("from_texts", "from_tokens")
        }
        for name, values in lines.items():
            print(f"| {part['part']} | {name} | {' | '.join(f'{value:.2f}' for value in values)} |")


def draw(parts: list[dict[str, Any]]) -> None:
    columns = 4
    lines = -(-len(parts) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(9.6, 2.6 * lines + 0.4), layout="constrained", sharey=True, squeeze=False
    )
    for panel in axes.flat[len(parts) :]:
        panel.set_axis_off()
    for panel, part in zip(axes.flat, parts, strict=False):
        routed = row_of(part, "routed")
        sizes = list(routed["time_ratio"])
        panel.bar(sizes, [routed["time_ratio"][size] for size in sizes], color="tab:blue", label="routed, time")
        full = row_of(part, "width-1")["time_ratio"]
        panel.plot(
            sizes, [full[size] for size in sizes], "_", color="black", markersize=22, markeredgewidth=1.5,
            label="full width in the same engine",
        )  # fmt: skip
        panel.plot(
            sizes, [routed["flops_ratio_at"][size] for size in sizes], "_", color="tab:orange", markersize=22,
            markeredgewidth=2.5, label="routed, FLOPs of these texts",
        )  # fmt: skip
        panel.axhline(1.0, color="black", linewidth=0.8, label="plain network")
        panel.set_title(part["part"], fontsize="medium")
    for panel in axes[-1]:
        panel.set_xlabel("batch size")
    figure.supylabel("over the plain network in PyTorch", fontsize="medium")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower right")
    figure.savefig(RESULTS / "speed.png", dpi=110)
    plt.close(figure)


def main() -> None:
    files = [FOLDER / f"{part}.json" for part in PARTS]
    found = [json.loads(file.read_text()) for file in files if file.exists()]
    save(RESULTS / "speed.json", {"parts": found})
    print(tables.speed_sizes({"parts": found}), "\n")
    print(tables.speed_claims({"parts": found}))
    draw([part for part in found if "rows" in part])
    on_gpu = [json.loads(file.read_text()) for file in sorted(FOLDER.glob("gpu-*.json"))]
    if on_gpu:
        print(f"\n{on_gpu[0]['accelerator']}, {on_gpu[0]['precision']}\n")
        gpu_table(on_gpu)
    print(tables.speed_service({"parts": found}))
    print(json.dumps(next(part for part in found if part["part"] == "overhead"), indent=1))
    print(f"\nwrote {RESULTS / 'speed.json'} and .png")


if __name__ == "__main__":
    main()
