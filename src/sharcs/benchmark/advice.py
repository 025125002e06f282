"""What a benchmark's numbers say in one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sharcs.benchmark.results import BenchmarkRow

LOSS = 0.01  # of accuracy, or of agreement, beyond which speed is no comparison
MARGIN = 1.05  # a gain below it may be chance

HOW = {
    "pipeline": "transformers.pipeline",
    "full": "transformers, texts of one length together",
    "width-1": "sharcs predict --width 1",
    "full-ort": "sharcs export --width 1",
    "full-ort-int8": "sharcs export --width 1 --int8",
    "routed": "sharcs predict",
    "routed-ort": "sharcs export",
    "routed-ort-int8": "sharcs export --int8",
}


def advise(rows: Sequence[BenchmarkRow], agreement: Mapping[str, float]) -> str:
    """Say what to use here.

    A row is considered if it loses at most a point of accuracy against the full network, or without labels, if it
    answers at most one in a hundred texts otherwise. Of these the one with the most texts a second is advised.
    Routing pays if a routed row is the fastest, and no single width in PyTorch is as fast as routing in PyTorch: such
    a width could be exported, too.

    Args:
        rows: The benchmark's.
        agreement: By name, the share of the answers that are the full network's.
    """
    by_name = {row.name: row for row in rows}
    full = by_name["full"]

    def quality(row: BenchmarkRow) -> float:
        return agreement[row.name] if row.accuracy is None else row.accuracy

    enough = quality(full) - LOSS - 1e-9
    good = [row for row in rows if quality(row) >= enough]

    def fastest(candidates: Sequence[BenchmarkRow]) -> BenchmarkRow | None:
        return max(candidates, key=lambda row: row.texts_per_second, default=None)

    def speed(row: BenchmarkRow | None) -> float:
        return 0.0 if row is None else row.texts_per_second

    widths = [row for row in rows if row.name.startswith("width-")]
    narrow = fastest([row for row in good if row in widths[:-1]])
    routed = fastest([row for row in good if row.name in ("routed", "routed-ort", "routed-ort-int8")])
    other = fastest([row for row in good if not row.name.startswith("routed") and row not in widths[:-1]]) or full
    unrouted = max(speed(other), speed(narrow))
    one_width_does = narrow is not None and speed(narrow) >= max(speed(by_name["routed"]), MARGIN * speed(full))
    if routed is not None and speed(routed) >= MARGIN * unrouted and not one_width_does:
        use, why, how = routed, "", HOW[routed.name]
    else:
        use, why = other, "routing does not pay on this machine for these texts; "
        if one_width_does and narrow is not None:
            use = narrow
        width = use.name.removeprefix("width-")
        how = HOW.get(use.name, f"sharcs predict --width {width}, or sharcs export --width {width}")
    if full.accuracy is not None:
        answers = f"accuracy {100 * quality(use):.1f}%, {100 * quality(full):.1f}% of the full network"
    else:
        answers = f"{100 * quality(use):.1f}% of the answers are the full network's"
    return f"{why}use {use.name} ({how}): {speed(use) / speed(full):.2f} times the texts a second of full, {answers}"
