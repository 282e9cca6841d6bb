"""Defines the weights, threads and rounds of all benchmarks, and describes the machine."""

from __future__ import annotations

import datetime
import os
import platform
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

import psutil
from workers_ai_emulator import __version__, machine
from workers_ai_emulator.engine.devices import cpu_features
from workers_ai_emulator.engine.types import WeightsType
from workers_ai_emulator.models.catalog import CATALOG
from workers_ai_emulator.models.store import Store
from workers_ai_emulator.settings import Settings

MODEL_NAME = "@cf/meta/llama-2-7b-chat-int8"
# The names of the measured models, by the type of their stand-in model's weights.
MODELS: dict[WeightsType, str] = {
    "Q8_0": MODEL_NAME,
    "F16": "@cf/meta/llama-2-7b-chat-fp16",
}
BINDINGS = "llama-cpp-python"


@dataclass(frozen=True, slots=True)
class Conditions:
    """The settings that all benchmarks share.

    `model`: the name of the measured model, and `weights` its GGUF file. `num_threads`: threads of
    each server. `num_rounds`: runs of each measurement. `minutes` and `seed`: duration and random
    seed of the attack.
    """

    models_dir: Path
    model: str
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
        return cls(
            models_dir=settings.models_dir,
            model=MODEL_NAME,
            weights=store.weights(CATALOG[MODEL_NAME]).path,
            num_threads=settings.threads,
            num_rounds=num_rounds,
            is_quick=is_quick,
            minutes=minutes,
            seed=seed,
        )

    def with_weights(self, weights_type: WeightsType) -> Conditions:
        """Returns the same conditions for the built-in model whose weights have this type.

        Converts the stand-in model's weights if they are not in the cache.
        """
        model = MODELS[weights_type]
        store = Store(self.models_dir, num_threads=self.num_threads)
        return replace(self, model=model, weights=store.weights(CATALOG[model]).path)

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
                f"median of {self.num_rounds}, unless a table says otherwise",
                f"- date: {datetime.date.today()}",
            )
        )


def has_avx512() -> bool:
    """Returns whether llama.cpp uses AVX-512 on this machine's processor."""
    return any(feature.startswith("AVX512") for feature in cpu_features())
