"""What this process may still take of the machine, or of its container."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")  # version 2, as in a container


def available_memory() -> int:
    """Bytes: free or reclaimable on the machine, or left of the container's limit if less."""
    on_machine = psutil.virtual_memory().available
    limit = _cgroup_value("memory.max")
    used = _cgroup_value("memory.current")
    if limit is None or used is None:
        return on_machine
    return min(on_machine, max(limit - used, 0))


def num_cores() -> int:
    """Cores that this process may use, by its affinity and its container's quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota, period = _cgroup_value("cpu.max"), _cgroup_value("cpu.max", field=1)
    if quota is None or not period:
        return allowed or 1
    return max(1, min(allowed or 1, quota // period))


def in_units(size: int) -> str:
    """Bytes for people: `1.5 GiB`, `144 MiB`."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def _cgroup_value(name: str, field: int = 0) -> int | None:
    """A number from the control group's file; None for no limit, or no such group here."""
    try:
        return int((_CGROUP / name).read_text().split()[field])
    except (OSError, ValueError, IndexError):
        return None
