"""Describes the machine: its processor, and the memory and cores that this process may use."""

from __future__ import annotations

import os
import platform
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")  # contains the limits of the container (cgroup v2)
_CPUINFO = Path("/proc/cpuinfo")


def available_memory() -> int:
    """Returns how many bytes this process can still allocate.

    The result is the smaller of two numbers: the machine's free and reclaimable memory, and the
    container's memory limit minus the memory that the container uses.
    """
    import psutil  # this import is slow, and most commands do not need it

    on_machine = psutil.virtual_memory().available
    limit = _cgroup_value("memory.max")
    used = _cgroup_value("memory.current")
    if limit is None or used is None:
        return on_machine
    return min(on_machine, max(limit - used, 0))


def total_memory() -> int:
    """Returns the machine's memory in bytes, or the container's memory limit if it is smaller."""
    import psutil  # this import is slow, and most commands do not need it

    on_machine = psutil.virtual_memory().total
    return min(on_machine, _cgroup_value("memory.max") or on_machine)


def processor_name() -> str:
    """Returns the processor's model name on Linux, and its general type on other systems."""
    try:
        lines = _CPUINFO.read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def num_cores() -> int:
    """Returns how many cores the CPU affinity and the container's CPU quota allow; at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota, period = _cgroup_value("cpu.max"), _cgroup_value("cpu.max", field=1)
    if quota is None or not period:
        return allowed or 1
    return max(1, min(allowed or 1, quota // period))


def in_units(size: int) -> str:
    """Formats a number of bytes as text, such as `1.5 GiB` or `144 MiB`."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def _cgroup_value(name: str, field: int = 0) -> int | None:
    """Returns one of the numbers in a file of the container's control group (cgroup).

    `field` is the index of the number in the file, from 0. Returns None if the file does not exist,
    or if the value is not a number. For example, the value `max` means that there is no limit.
    """
    try:
        return int((_CGROUP / name).read_text().split()[field])
    except (OSError, ValueError, IndexError):
        return None
