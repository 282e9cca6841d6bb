"""A fake of the class `Loader`, which needs no GGUF files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

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
    snapshot_tokens: int = 0
    template: FakeTemplate = field(default_factory=FakeTemplate)
    is_closed: bool = False

    @property
    def weights(self) -> Weights:
        return Weights(self.spec.weights_file)

    def memory(self, num_slots: int) -> int:
        return SIZE

    def close(self) -> None:
        self.is_closed = True


@dataclass
class FakeLoader:
    """A loader that needs no files. `failures`: the errors of the next calls of `open`."""

    failures: list[Exception] = field(default_factory=list)
    runner_of: Callable[[], FakeRunner] = FakeRunner
    opened: list[FakeOpenModel] = field(default_factory=list)

    def open(self, spec: ModelSpec) -> FakeOpenModel:
        if self.failures:
            raise self.failures.pop(0)
        self.opened.append(FakeOpenModel(spec))
        return self.opened[-1]

    def num_slots(self, opened: FakeOpenModel, free: int) -> int:
        return int(free >= SIZE)

    def memory_error(self, opened: FakeOpenModel, free: int) -> WeightsUnusable:
        return WeightsUnusable(f"{SIZE} bytes do not fit into {free}")

    def runner(self, opened: FakeOpenModel, num_slots: int) -> FakeRunner:
        return self.runner_of()
