"""What a benchmark finds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class BenchmarkRow:
    """One way of running a network.

    Attributes:
        name: The contestant's.
        accuracy: Fraction of the answers that are right, or None without labels.
        texts_per_second: Where many texts are there at once.
        p50_ms: Median milliseconds of one text alone.
        p99_ms: Their 99th percentile.
        time_ratio: Time over that of the full network in PyTorch, by batch size.
        flops_ratio: Mean FLOPs over the full network's.
        peak_mb: Peak memory of a process that answers texts, in MiB.
        flops_ratio_at: By batch size, that of the very texts whose time is in ``time_ratio``.
    """

    name: str
    accuracy: float | None
    texts_per_second: float
    p50_ms: float
    p99_ms: float
    time_ratio: dict[int, float]
    flops_ratio: float
    peak_mb: float
    flops_ratio_at: dict[int, float]


@dataclass(frozen=True, slots=True)
class BenchmarkReport:
    """What each way of running a network takes on this machine.

    Attributes:
        rows: The contestants.
        advice: What to use here, in a line.
    """

    rows: list[BenchmarkRow]
    advice: str

    def to_dict(self) -> dict[str, Any]:
        """Write it as plain values, the JSON of ``sharcs benchmark``."""
        values = asdict(self)
        for row in values["rows"]:
            for name in ("time_ratio", "flops_ratio_at"):
                row[name] = {str(size): ratio for size, ratio in row[name].items()}
        return values
