"""Tests finding the line of each key in a TOML document."""

from __future__ import annotations

import pytest
from workers_ai_emulator.models.toml_lines import key_lines


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", {}),
        ("a = 1\n\nb = 2", {("a",): 1, ("b",): 3}),
        ("# [x]\n[t]\n\n  k = 1", {("t",): 2, ("t", "k"): 4}),
        ('["a.b"]\nc = 1', {("a.b",): 1, ("a.b", "c"): 2}),
        ("[t]\nu.v = 1", {("t",): 1, ("t", "u"): 2, ("t", "u", "v"): 2}),
        ("a = { b = { c = 1 } }", {("a",): 1, ("a", "b"): 1, ("a", "b", "c"): 1}),
        ("a = [\n 1, # ]\n 2,\n]\nb = 1", {("a",): 1, ("b",): 5}),
        ('a = """\n[x]\n\\"""\n""""\nb = 1', {("a",): 1, ("b",): 5}),
        ("a = '''\n[\n'''\nb = '['\nc = 1", {("a",): 1, ("b",): 4, ("c",): 5}),
        ('a = "\\"["\nb = 1', {("a",): 1, ("b",): 2}),
        ("[[t]]\nk = 1\n[[t]]\nk = 1", {("t",): 1, ("t", "k"): 2}),
        ("[t]\n[t.u]\nk = 1", {("t",): 1, ("t", "u"): 2, ("t", "u", "k"): 3}),
    ],
)
def test_each_key_has_the_line_of_its_first_statement(
    text: str, lines: dict[tuple[str, ...], int]
) -> None:
    assert key_lines(text) == lines
