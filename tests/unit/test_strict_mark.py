"""Tests the values of the mark `workers_ai_strict`."""

from __future__ import annotations

from typing import cast

import pytest
from workers_ai_emulator.pytest_plugin import _is_strict
from workers_ai_emulator.pytest_plugin.server import Server
from workers_ai_emulator.pytest_plugin.workers_ai import WorkersAI

MARK = pytest.mark.workers_ai_strict


class Item:
    """A test with a mark."""

    def __init__(self, mark: pytest.MarkDecorator) -> None:
        self._mark = mark.mark

    def get_closest_marker(self, name: str) -> pytest.Mark:
        return self._mark


def is_strict(mark: pytest.MarkDecorator) -> bool:
    # The mark decides alone, so the emulator's server is never asked.
    emulator = WorkersAI(Server("http://127.0.0.1:1"), "a" * 32)
    return _is_strict(cast(pytest.Item, Item(mark)), emulator)


@pytest.mark.parametrize(
    ("mark", "expected"), [(MARK, True), (MARK(False), False), (MARK(is_strict=True), True)]
)
def test_the_mark_decides(mark: pytest.MarkDecorator, expected: bool) -> None:
    assert is_strict(mark) is expected


@pytest.mark.parametrize("mark", [MARK("no"), MARK(maybe=True), MARK(True, is_strict=False)])
def test_a_mark_with_other_values_is_an_error(mark: pytest.MarkDecorator) -> None:
    with pytest.raises(pytest.fail.Exception, match="takes only True or False"):
        is_strict(mark)
