"""Tests the limits of a container, which are read from files of control groups."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest
from workers_ai_emulator import machine


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    return tmp_path


def test_without_a_container_the_limits_are_the_machines(cgroup: Path) -> None:
    assert machine.available_memory() > 0
    assert machine.num_cores() == len(os.sched_getaffinity(0))


def test_a_container_without_limits_has_the_machines(cgroup: Path) -> None:
    (cgroup / "memory.max").write_text("max\n")
    (cgroup / "memory.current").write_text("1000\n")
    (cgroup / "cpu.max").write_text("max 100000\n")
    assert machine.available_memory() > psutil.virtual_memory().total // 100
    assert machine.num_cores() == len(os.sched_getaffinity(0))


def test_a_container_limits_memory_and_cores(cgroup: Path) -> None:
    (cgroup / "memory.max").write_text("3000\n")
    (cgroup / "memory.current").write_text("1000\n")
    (cgroup / "cpu.max").write_text("150000 100000\n")
    assert machine.available_memory() == 2000
    assert machine.num_cores() == 1


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 MiB"), (144 * 2**20, "144 MiB"), (3 * 2**29, "1.5 GiB")]
)
def test_sizes_are_shown_in_mib_or_gib(size: int, text: str) -> None:
    assert machine.in_units(size) == text
