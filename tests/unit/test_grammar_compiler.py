"""Tests that compiling a grammar takes limited time and memory."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from unittest.mock import Mock

import pytest
from workers_ai_emulator.engine import grammar_compiler
from workers_ai_emulator.engine.child import LIMITS_CPU_TIME, ChildFailed, Supervisor
from workers_ai_emulator.engine.errors import (
    CapacityExceeded,
    EngineError,
    GrammarFailed,
    GrammarUnsupported,
)
from workers_ai_emulator.engine.grammar_compiler import GrammarCompiler

from tests.fakes import FakeVocabulary

# The number of patterns in this schema's `allOf` doubles the time with every pattern.
SLOW = {"allOf": [{"type": "string", "pattern": f"a.{{{n}}}b"} for n in range(1, 30)]}


@pytest.fixture(scope="module")
def compiler() -> Iterator[GrammarCompiler]:
    with closing(GrammarCompiler(FakeVocabulary(), limit_s=30)) as compiler:
        compiler.compile('start: "a"')  # starts the subprocess
        yield compiler


def json_grammar(schema: Any) -> str:
    return f"start: %json {json.dumps(schema)}"


def nested(schema: Any, depth: int) -> Any:
    for _ in range(depth):
        schema = {"anyOf": [schema, {"type": "array", "items": schema}]}
    return schema


def test_a_grammar_with_special_tokens_is_compiled(compiler: GrammarCompiler) -> None:
    grammar = compiler.compile("start: <|im_start|> /[a-z]+/ <[258]>")
    assert grammar.begin().allowed_tokens()


def test_a_lone_surrogate_becomes_a_replacement_character(compiler: GrammarCompiler) -> None:
    assert compiler.compile('start: "\ud800"').text == 'start: "\ufffd"'


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#"}}}},
        {"enum": [f"value {number}" for number in range(10_000)]},
        {"type": "array", "items": {"type": "string"}, "maxItems": 10**9},
        {"type": "array", "items": {"type": "string"}, "minItems": 10**9},
        {"type": "string", "minLength": 10**6, "maxLength": 10**9},
        {"type": "string", "pattern": "^((a{1,1000}){1,1000}){1,1000}$"},
        {"type": "string", "pattern": "(a|b)*a(a|b){40}"},
        {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(500)}},
        nested({"type": "string"}, 10),
    ],
    ids=[
        *("recursion", "enum", "maxItems", "minItems", "length", "repeats", "states"),
        *("properties", "anyOf"),
    ],
)
def test_a_large_schema_is_compiled(schema: Any, compiler: GrammarCompiler) -> None:
    assert compiler.compile(json_grammar(schema)).begin().allowed_tokens()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (json_grammar({"enum": ["x" * 2**18]}), "at most 262,144 are allowed"),
        ('start: %json {"not":' * 50_000, "recursion|not|expected"),
        ("start: " + "(" * 10**5 + '"a"' + ")" * 10**5, "too deeply nested"),
        (json_grammar({"pattern": "(" * 10**5 + "a" + ")" * 10**5}), r"\(\(\( error: exceed"),
        (json_grammar({"type": "integer", "multipleOf": 99_999_989}), "MiB of memory|longer than"),
        (json_grammar(SLOW), "MiB of memory|longer than"),
    ],
    ids=["long", "unclosed", "parentheses", "groups", "multipleOf", "allOf"],
)
def test_a_grammar_that_exceeds_a_limit_is_rejected(
    text: str, reason: str, compiler: GrammarCompiler
) -> None:
    with pytest.raises(GrammarUnsupported, match=reason):
        compiler.compile(text)
    assert compiler.compile('start: "a"').text == 'start: "a"'


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (ChildFailed("slow"), "longer than 30 s to compile"),
        (ChildFailed("crashed"), "320 MiB of memory"),
    ],
    ids=["slow", "crashed"],
)
def test_a_grammar_that_fails_by_itself_is_rejected_also_later(
    failure: ChildFailed, reason: str, compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f'start: "{failure}"'
    with monkeypatch.context() as patch, pytest.raises(GrammarUnsupported, match=reason):
        patch.setattr(Supervisor, "child", Mock(side_effect=failure))
        compiler.compile(text)
    with pytest.raises(GrammarUnsupported, match=reason):
        compiler.compile(text)


@pytest.mark.skipif(not LIMITS_CPU_TIME, reason="Windows cannot limit the time of the processor")
@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (ChildFailed("late"), CapacityExceeded),
        (ChildFailed("killed"), CapacityExceeded),
        (ChildFailed("crashed", is_prepared=False), EngineError),
        (ChildFailed("late", is_prepared=False), EngineError),
        (ChildFailed("closed"), EngineError),
    ],
    ids=["late", "killed", "crashed at the start", "late at the start", "closed"],
)
def test_a_grammar_that_fails_for_another_reason_is_compiled_later(
    failure: ChildFailed,
    expected: type[Exception],
    compiler: GrammarCompiler,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = f'start: "{failure} {failure.is_prepared}"'
    with monkeypatch.context() as patch, pytest.raises(EngineError) as caught:
        patch.setattr(Supervisor, "child", Mock(side_effect=failure))
        compiler.compile(text)
    assert type(caught.value) is expected
    assert compiler.compile(text).begin().allowed_tokens()


def test_the_grammars_that_were_used_last_are_not_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(grammar_compiler, "_MAX_TRIED", 2)
    with closing(GrammarCompiler(FakeVocabulary(), limit_s=30)) as compiler:
        for number in (0, 1, 0, 2):
            compiler.compile(f'start: "{number}"')
        assert compiler._check is not None
        compiler._check.close()
        assert compiler.compile('start: "0"').begin().allowed_tokens()
        with pytest.raises(EngineError, match="unloaded"):
            compiler.compile('start: "1"')


def test_a_repeated_unsupported_grammar_is_rejected_without_the_subprocess() -> None:
    text = json_grammar({"not": {}})
    with closing(GrammarCompiler(FakeVocabulary(), limit_s=30)) as compiler:
        with pytest.raises(GrammarUnsupported, match='"not"'):
            compiler.compile(text)
        assert compiler._check is not None
        compiler._check.close()
        with pytest.raises(GrammarUnsupported, match='"not"'):
            compiler.compile(text)
        with pytest.raises(EngineError, match="unloaded"):
            compiler.compile('start: "new"')


def test_a_grammar_that_found_the_subprocess_busy_is_tried_again() -> None:
    with closing(GrammarCompiler(FakeVocabulary(), limit_s=30)) as compiler:
        compiler.compile('start: "a"')
        check = compiler._check
        assert check is not None
        check._max_wait_s = 0.0
        with check._supervisor.child(limit_s=30), pytest.raises(CapacityExceeded):
            compiler.compile('start: "b"')
        check._max_wait_s = 30.0
        assert compiler.compile('start: "b"').begin().allowed_tokens()


def test_a_request_does_not_reach_the_limits_of_another(compiler: GrammarCompiler) -> None:
    text = json_grammar({"type": "string", "pattern": "^.*a.{200}b.{200}$"})
    state = compiler.compile(text).begin()
    with pytest.raises(GrammarFailed, match="too many states"):
        for byte in ('"' + "".join(random.Random(1).choices("ab", k=5_000))).encode():
            state.allowed_tokens()
            state.advance(byte)
    assert compiler.compile(text).begin().allowed_tokens()


def test_several_threads_compile_grammars(compiler: GrammarCompiler) -> None:
    texts: list[str] = []

    def run(start: int) -> None:
        texts.extend(compiler.compile(f'start: "{n % 12}"').text for n in range(start, start + 24))

    threads = [threading.Thread(target=run, args=[start]) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(texts) == sorted(f'start: "{n}"' for n in range(12) for _ in range(8))


@pytest.mark.parametrize("is_used", [True, False])
def test_a_closed_compiler_is_an_error(is_used: bool) -> None:
    compiler = GrammarCompiler(FakeVocabulary())
    if is_used:
        compiler.compile('start: "a"')
    compiler.close()
    compiler.close()
    with pytest.raises(EngineError, match="unloaded"):
        compiler.compile('start: "b"')
