"""A fake of the class `Loader`, which needs no GGUF files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from workers_ai_emulator.errors import WeightsUnusable
from workers_ai_emulator.models.catalog import ModelSpec
from workers_ai_emulator.models.store import Weights

from tests.fakes import FakeRunner

SIZE = 100  # the size of each model


class FakeTemplate:
    def __init__(self) -> None:
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True


@dataclass
class FakeOpenModel:
    """A fake of an opened model. It needs SIZE bytes of memory for any number of slots."""

    spec: ModelSpec
    weights: Weights
    snapshot_tokens: int = 0
    template: FakeTemplate = field(default_factory=FakeTemplate)
    is_closed: bool = False

    def memory(self, num_slots: int) -> int:
        return SIZE

    def close(self) -> None:
        self.is_closed = True


@dataclass
class FakeLoader:
    """A loader that needs no files. `failures`: the errors of the next calls of `open`.

    `targets`: the paths of weights that differ from the path in the model spec. `trusted`: the
    paths of the stand-in model.
    """

    failures: list[Exception] = field(default_factory=list)
    runner_of: Callable[[], FakeRunner] = FakeRunner
    opened: list[FakeOpenModel] = field(default_factory=list)
    templates: list[FakeTemplate] = field(default_factory=list)
    targets: dict[Path, Path] = field(default_factory=dict)
    trusted: set[Path] = field(default_factory=set)

    def weights(self, spec: ModelSpec) -> Weights:
        path = self.targets.get(spec.weights_file, spec.weights_file)
        return Weights(path, is_trusted=path in self.trusted)

    def open(self, spec: ModelSpec, weights: Weights) -> FakeOpenModel:
        if self.failures:
            raise self.failures.pop(0)
        self.opened.append(FakeOpenModel(spec, weights))
        return self.opened[-1]

    def template(self, spec: ModelSpec, opened: FakeOpenModel) -> FakeTemplate:
        self.templates.append(FakeTemplate())
        return self.templates[-1]

    def num_slots(self, opened: FakeOpenModel, free: int) -> int:
        return int(free >= SIZE)

    def memory_error(self, opened: FakeOpenModel, free: int) -> WeightsUnusable:
        return WeightsUnusable(f"{SIZE} bytes do not fit into {free}")

    def runner(self, opened: FakeOpenModel, num_slots: int) -> FakeRunner:
        return self.runner_of()
