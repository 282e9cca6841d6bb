"""Defines the weights, threads and rounds of all benchmarks, and describes the machine."""

from __future__ import annotations

import datetime
import os
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import psutil
from workers_ai_emulator import __version__, machine
from workers_ai_emulator.models.catalog import CATALOG
from workers_ai_emulator.models.store import Store
from workers_ai_emulator.settings import Settings

MODEL_NAME = "@cf/meta/llama-2-7b-chat-int8"
BINDINGS = "llama-cpp-python"


@dataclass(frozen=True, slots=True)
class Conditions:
    """The settings that all benchmarks share.

    `num_threads`: threads of each server. `num_rounds`: runs of each measurement. `minutes` and
    `seed`: duration and random seed of the attack.
    """

    models_dir: Path
    weights: Path
    num_threads: int
    num_rounds: int
    is_quick: bool
    minutes: float
    seed: int

    @classmethod
    def here(cls, *, num_rounds: int, is_quick: bool, minutes: float, seed: int) -> Conditions:
        """Returns the conditions of the benchmarks on this machine.

        Converts the stand-in model's weights if they are not in the cache.
        """
        settings = Settings()
        store = Store(settings.models_dir, num_threads=settings.threads)
        weights = store.weights(CATALOG[MODEL_NAME]).path
        return cls(
            settings.models_dir, weights, settings.threads, num_rounds, is_quick, minutes, seed
        )

    @property
    def description(self) -> str:
        memory = machine.in_units(psutil.virtual_memory().total)
        load = os.getloadavg()[0]
        return "\n".join(
            (
                f"- machine: {machine.processor_name()}, {machine.num_cores()} cores, {memory}, "
                f"{platform.system()}; load {load:.1f} before the first run",
                f"- versions: emulator {__version__}, {BINDINGS} {metadata.version(BINDINGS)} and "
                f"the llama.cpp in it, Python {platform.python_version()}",
                f"- settings: {self.weights.name}, {self.num_threads} threads, temperature 0, "
                f"median of {self.num_rounds}",
                f"- date: {datetime.date.today()}",
            )
        )
