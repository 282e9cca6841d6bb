"""The memory and the cores that this process may use, within the limits of its container."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")  # control groups version 2, as in a container


def available_memory() -> int:
    """Returns the bytes that this process can still allocate.

    This is the smaller of two numbers: the machine's free and reclaimable memory, and the rest of
    the container's limit.
    """
    on_machine = psutil.virtual_memory().available
    limit = _cgroup_value("memory.max")
    used = _cgroup_value("memory.current")
    if limit is None or used is None:
        return on_machine
    return min(on_machine, max(limit - used, 0))


def num_cores() -> int:
    """Returns the number of cores that CPU affinity and the container's quota allow; at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota, period = _cgroup_value("cpu.max"), _cgroup_value("cpu.max", field=1)
    if quota is None or not period:
        return allowed or 1
    return max(1, min(allowed or 1, quota // period))


def in_units(size: int) -> str:
    """Returns a number of bytes as text for people: `1.5 GiB`, `144 MiB`."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def _cgroup_value(name: str, field: int = 0) -> int | None:
    """Returns a number from a file of the control group.

    Returns None if the file contains no number, which means no limit, or does not exist.
    """
    try:
        return int((_CGROUP / name).read_text().split()[field])
    except (OSError, ValueError, IndexError):
        return None
