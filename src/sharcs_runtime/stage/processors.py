"""The processors of this machine, and processes that take one each."""

from __future__ import annotations

import math
import os
from pathlib import Path

GROUP = Path("/sys/fs/cgroup")


def usable_cpus(group: Path = GROUP) -> int:
    """Count the processors that this process may use: by its affinity, and by its control group's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (group / "cpu.max").read_text().split()[:2]
        return count if quota == "max" else max(1, min(count, math.floor(int(quota) / int(period))))
    except (OSError, ValueError):
        return count
