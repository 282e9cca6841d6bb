"""How much memory this process may still take."""

from __future__ import annotations

from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")


def available() -> int:
    """Bytes: free or reclaimable on the machine, or left of the container's limit if less."""
    on_machine = psutil.virtual_memory().available
    return min(on_machine, _left_in_cgroup(on_machine))


def _left_in_cgroup(default: int) -> int:
    """What a control group (version 2, as in a container) still allows."""
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
    except (OSError, ValueError):  # no such control group here
        return default
    return default if limit == "max" else max(int(limit) - used, 0)


def in_units(size: int) -> str:
    """Bytes for people: `1.5 GiB`, `144 MiB`."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
