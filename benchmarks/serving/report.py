"""The study's summary, its table and its picture, from the cells."""

from __future__ import annotations

import json
from statistics import fmean
from typing import TYPE_CHECKING, Any

from serving.scores import busy, kept_rate, ratio

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

OURS, ALONE, FULL, TEI, LITSERVE = "ours", "ours, routing alone", "ours, full width", "TEI's scheduler", "LitServe"
Cells = dict[str, dict[str, Any]]
HEADINGS = ("figure", "what", "asked", "measured", "kept")


def read(folder: Path) -> Cells:
    """Read the cells of a set by their names."""
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))}


def curves(cells: Cells) -> dict[str, dict[str, dict[float, dict[str, Any]]]]:
    """Sort what rates gave by arm, seed and rate."""
    found: dict[str, dict[str, dict[float, dict[str, Any]]]] = {}
    for name, cell in cells.items():
        if name.startswith("rate ") and "good_share" in cell:
            seed = name.rpartition(", ")[2]
            found.setdefault(cell["arm"], {}).setdefault(seed, {})[cell["rate"]] = cell
    return found


def kept(by_seed: dict[str, dict[float, dict[str, Any]]]) -> list[float]:
    """Find for each seed the highest rate that kept the target."""
    return [
        kept_rate({rate: cell["good_share"] for rate, cell in points.items()})
        for _, points in sorted(by_seed.items())
    ]


def summary(cells: Cells) -> dict[str, Any]:
    """Sum up a set.

    Returns:
        ``reasons`` not to conclude anything; ``figures``: rows of number, name, what is asked, what was measured and
        whether that keeps it, which is None where nothing is concluded; ``kept_rates`` by arm; ``errors`` by cell.
    """
    reference = cells["reference"]
    measured = [cell for cell in cells.values() if "others" in cell]
    reasons = busy(max(reference["load_before"]), [cell["others"] for cell in measured])
    rates = {arm: kept(by_seed) for arm, by_seed in curves(cells).items()}
    figures = [
        {"figure": number, "what": what, "asked": f"{sign} {bound:g}", "measured": value,
         "kept": None if reasons or value is None else (value <= bound if sign == "≤" else value >= bound)}
        for number, what, sign, bound, value in rows(cells, rates)
    ]  # fmt: skip
    return {
        "target_ms": 1000 * reference["target"],
        "full_width_texts_per_second": reference["capacity"],
        "processor": reference.get("processor"),
        "reasons": reasons,
        "figures": figures,
        "kept_rates": rates,
        "errors": {name: cell["error"] for name, cell in cells.items() if "error" in cell},
    }


def rows(cells: Cells, rates: dict[str, list[float]]) -> list[tuple[str, str, str, float, float | None]]:
    """List figures: number, name, sign, bound and what was measured, None where it wasn't."""

    def mean_of(start: str, key: str) -> float | None:
        values = [cell.get(key) for name, cell in cells.items() if name.startswith(start)]
        known = [value for value in values if value is not None]
        return fmean(known) if known else None

    def over(above: float | None, below: float | None) -> float | None:
        return None if above is None or not below else above / below

    def rate_over(ours: str, theirs: str) -> float | None:
        return ratio(rates[ours], rates[theirs]) if rates.get(ours) and rates.get(theirs) else None

    def half(arm: str, key: str) -> float | None:
        return mean_of(f"rate 0.5, {arm}, ", key)

    found: list[tuple[str, str, str, float, float | None]] = []
    front = mean_of("front ours", "front_ms")
    found.append(("1", "front's CPU over a bare no-op", "≤", 2.5, over(front, mean_of("front noop", "front_ms"))))
    found.append(("1", "front's CPU over LitServe's", "≤", 0.2, over(front, mean_of("front LitServe", "front_ms"))))
    own_ratio = mean_of("throughputs", "ratio")
    alone = rate_over(ALONE, FULL)
    found.append(("2", "by routing alone, over full width", "≥", 1.5, alone))
    found.append(("2", "the same, over the policy's ratio of throughputs", "≥", 0.6, over(alone, own_ratio)))
    for other, name in ((FULL, "full width"), (TEI, "TEI's scheduler"), (LITSERVE, "LitServe")):
        found.append(("2", f"with brown-out, over {name}", "≥", 2.0, rate_over(OURS, other)))
    for key, bound in (("p50_ms", 0.75), ("p99_ms", 0.85)):
        value = over(half(ALONE, key), half(FULL, key))
        found.append(("3", f"{key[:3]} at half of the capacity, over full width", "≤", bound, value))
    return found + _overload(cells) + _faults(cells)


def _overload(cells: Cells) -> list[tuple[str, str, str, float, float | None]]:
    target = 1000 * cells["reference"]["target"]
    ours = [cell for name, cell in cells.items() if name.startswith("overload 3, ours") and "goodput" in cell]
    tei = [cell for name, cell in cells.items() if name.startswith("overload 3, TEI") and "goodput" in cell]
    ten = [cell for name, cell in cells.items() if name.startswith("overload 10, ours") and "goodput" in cell]

    def worst(values: Iterable[float | None]) -> float | None:
        return max((value for value in values if value is not None), default=None)

    def goodput(found: list[dict[str, Any]]) -> float | None:
        # Brown-out may answer more than what was offered, which is then all that there was to answer.
        return fmean(cell["goodput"] / min(cell["most"], cell["rate"]) for cell in found) if found else None

    return [
        ("4", "threefold overload: goodput over its maximum or the offer", "≥", 0.9, goodput(ours)),
        ("4", "threefold overload: p99 of answered over the target", "≤", 1.0, worst(_over(ours, "p99_ms", target))),
        (
            "4",
            "threefold overload: p99 of refusals over the target",
            "≤",
            0.25,
            worst(_over(ours, "refusal_p99_ms", target)),
        ),
        ("4", "threefold overload: lost", "≤", 0, worst(cell["lost"] for cell in ours)),
        (
            "4",
            "threefold overload: refused without Retry-After",
            "≤",
            0,
            worst(cell["without_retry_after"] for cell in ours),
        ),
        ("4", "threefold overload: TEI's goodput over its maximum", "≤", 0.1, goodput(tei)),
        (
            "5",
            "seconds to recover from threefold overload",
            "≤",
            2.0,
            worst(cell["recovery_seconds"] for cell in ours),
        ),
        ("5", "seconds to recover from tenfold overload", "≤", 2.0, worst(cell["recovery_seconds"] for cell in ten)),
    ]


def _over(cells: list[dict[str, Any]], key: str, below: float) -> list[float | None]:
    return [None if cell[key] is None else cell[key] / below for cell in cells]


def _faults(cells: Cells) -> list[tuple[str, str, str, float, float | None]]:
    def total(start: str, key: str) -> float | None:
        found = [cell[key] for name, cell in cells.items() if name.startswith(start) and key in cell]
        return sum(found) if found else None

    def share(start: str, above: str, below: str) -> float | None:
        top, bottom = total(start, above), total(start, below)
        return None if top is None or not bottom else top / bottom

    back = [each for name, cell in cells.items() if name.startswith("kills") for each in cell.get("back_seconds", ())]
    start = cells.get("start", {}).get("seconds")
    soaks = [
        cell["memory_ratio"] for name, cell in cells.items() if name.startswith("soak") and "memory_ratio" in cell
    ]
    poison = cells.get("poison", {})
    return [
        ("6", "admitted who came again as told", "≥", 0.95, share("come again", "admitted", "told")),
        ("7", "lost by ten kills in a minute", "≤", 0, total("kills", "lost")),
        ("7", "seconds until full capacity", "≤", 3.0, max(back, default=None)),
        (
            "8",
            "a text that kills gets status 424",
            "≥",
            1,
            float(poison["poison"] == 424) if "poison" in poison else None,
        ),
        ("8", "worst status of the others", "≤", 200, max(poison.get("rest", ()), default=None)),
        ("9", "computed of a thousand that left", "≤", 0.1, share("leaving", "computed", "clients")),
        ("13", "lost by SIGTERM", "≤", 0, total("drain", "lost")),
        (
            "14",
            "largest difference of a served score",
            "≤",
            1e-6,
            cells.get("equality", {}).get("largest_difference"),
        ),
        ("18", "memory at the end of the soak", "≤", 1.05, max(soaks, default=None)),
        ("22", "seconds to the first answer", "≤", 3.0, max(start, default=None) if start else None),
    ]


def serving(content: dict[str, Any], name: str) -> str:
    """Lay out a set's figures as Markdown."""
    found = content["sets"][name]
    lines = [HEADINGS, ["---"] * len(HEADINGS)]
    words = {True: "yes", False: "no", None: "-"}
    for row in found["figures"]:
        value = "not measured" if row["measured"] is None else f"{row['measured']:.3g}"
        lines.append([row["figure"], row["what"], row["asked"], value, words[row["kept"]]])
    laid = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    why = "".join(f"\n\nNothing is concluded: {reason}." for reason in found["reasons"])
    missing = "".join(f"\n\n{cell} did not run: {error}." for cell, error in found["errors"].items())
    return f"{laid}{why}{missing}"


def write(folder: Path, target: Path) -> None:
    """Write the summary of all sets, and the picture beside it."""
    from common import save

    sets = {each.name: read(each) for each in sorted(folder.iterdir()) if (each / "reference.json").exists()}
    content = {"sets": {name: summary(cells) for name, cells in sets.items()}}
    save(target, content)
    draw({name: curves(cells) for name, cells in sets.items()}, content, target.with_suffix(".png"))
    for name in sets:
        print(f"\n{name}\n\n{serving(content, name)}")


def draw(found: dict[str, Any], content: dict[str, Any], path: Path) -> None:
    """Draw for each set the share that was in time, and p99, against the offered load."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, len(found), figsize=(4.8 * len(found), 6), layout="constrained", squeeze=False)
    for column, (name, by_arm) in enumerate(found.items()):
        about = content["sets"][name]
        for arm in (arm for arm in (OURS, ALONE, FULL, TEI, LITSERVE) if arm in by_arm):
            first = sorted(next(iter(by_arm[arm].values())).items())
            offered = [rate for rate, _ in first]
            axes[0, column].plot(offered, [100 * cell["good_share"] for _, cell in first], marker="o", label=arm)
            axes[1, column].plot(offered, [cell["p99_ms"] or float("nan") for _, cell in first], marker="o")
        axes[0, column].set(title=name, ylabel="% of the requests in time" if column == 0 else "")
        axes[1, column].axhline(about["target_ms"], linestyle="--", color="grey")
        label = "p99 of the answers, milliseconds" if column == 0 else ""
        axes[1, column].set(xlabel="requests a second, offered", ylabel=label, yscale="log")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.savefig(path, dpi=110)
    plt.close(figure)
