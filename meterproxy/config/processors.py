"""Processors: how many of them this process may use, which is what `workers: auto` means."""

import math
import os
from pathlib import Path
from typing import Final

_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")


def usable_processors(quota: Path = _QUOTA) -> int:
    """CPUs that this process may run on, at most as many as its container's quota pays for."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, _paid_for(quota) or allowed)


def _paid_for(quota: Path) -> int | None:
    """Whole CPUs of a quota ("150000 100000" is two); None where there is none."""
    try:
        most, period = quota.read_text().split()
        return max(1, math.ceil(int(most) / int(period)))  # "max" is no number: no quota
    except (OSError, ValueError, ZeroDivisionError):
        return None
