"""Tests the description of the machine, and the limits of a container.

The limits are read from files of control groups.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

import psutil
import pytest
from workers_ai_emulator import machine


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    return tmp_path


def test_without_a_container_the_limits_are_the_machines(cgroup: Path) -> None:
    assert 0 < machine.available_memory() <= machine.total_memory()
    assert machine.total_memory() == psutil.virtual_memory().total
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
    assert machine.total_memory() == 3000
    assert machine.num_cores() == 1


def test_the_processors_name_is_in_cpuinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text("processor\t: 0\nmodel name\t: Fast 9000\nmodel name\t: Fast 9000\n")
    monkeypatch.setattr(machine, "_CPUINFO", path)
    assert machine.processor_name() == "Fast 9000"


def test_without_cpuinfo_the_processor_has_its_general_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "missing")
    assert machine.processor_name() in (platform.processor(), platform.machine())


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 MiB"), (144 * 2**20, "144 MiB"), (3 * 2**29, "1.5 GiB")]
)
def test_sizes_are_shown_in_mib_or_gib(size: int, text: str) -> None:
    assert machine.in_units(size) == text
