"""Tests which tokens a grammar allows, and which grammars cannot be compiled."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from llguidance import LLTokenizer
from workers_ai_emulator.engine.errors import GrammarFailed, GrammarUnsupported
from workers_ai_emulator.engine.grammar import (
    GrammarState,
    compile_grammar,
    eog_tokens,
    new_tokenizer,
    special_names,
)

from tests.fakes import END, IM_END, IM_START, FakeVocabulary


@pytest.fixture(scope="module")
def tokenizer() -> LLTokenizer:
    vocabulary = FakeVocabulary()
    names = special_names(vocabulary)
    pieces = [
        names[token].encode() if token in names else vocabulary.piece(token)
        for token in range(vocabulary.size)
    ]
    return new_tokenizer(pieces, names, eog_tokens(vocabulary))


def json_grammar(schema: Any) -> str:
    return f"start: %json {json.dumps(schema)}"


def allowed(state: GrammarState) -> set[int]:
    bits = int.from_bytes(state.allowed_tokens(), "little")
    return {token for token in range(bits.bit_length()) if bits >> token & 1}


def after(text: str, grammar: str, tokenizer: LLTokenizer) -> GrammarState:
    """Returns the state of the grammar after a completion with this text."""
    state = compile_grammar(grammar, tokenizer).begin()
    for byte in text.encode():
        assert byte in allowed(state), f"{chr(byte)!r} is not allowed"
        state.advance(byte)
    return state


def test_only_the_text_of_the_grammar_is_allowed(tokenizer: LLTokenizer) -> None:
    assert allowed(after("", 'start: "yes" | "no"', tokenizer)) == {ord("y"), ord("n")}
    assert allowed(after("y", 'start: "yes" | "no"', tokenizer)) == {ord("e")}


def test_a_grammar_is_complete_if_nothing_can_follow(tokenizer: LLTokenizer) -> None:
    assert not after("ye", 'start: "yes"', tokenizer).is_complete
    assert after("yes", 'start: "yes"', tokenizer).is_complete


def test_an_optional_end_allows_an_eog_token(tokenizer: LLTokenizer) -> None:
    state = after("yes", 'start: "yes" "!"?', tokenizer)
    assert allowed(state) == {ord("!"), END}
    state.advance(END)
    assert state.is_complete


def test_an_empty_completion_is_allowed_if_the_grammar_matches_it(tokenizer: LLTokenizer) -> None:
    assert allowed(after("", 'start: ""', tokenizer)) == {END}


@pytest.mark.parametrize("reference", ["<|im_end|>", f"<[{IM_END}]>"])
def test_a_grammar_refers_to_a_special_token(reference: str, tokenizer: LLTokenizer) -> None:
    state = after("x", f'start: "x" {reference} "y"', tokenizer)
    assert allowed(state) == {IM_END}
    state.advance(IM_END)
    assert allowed(state) == {ord("y")}


def test_no_text_of_a_grammar_matches_a_special_token(tokenizer: LLTokenizer) -> None:
    assert allowed(after("", 'start: "<|im_start|>"', tokenizer)) == {ord("<")}
    anything = allowed(after("", r"start: /(.|\n)*/", tokenizer))
    assert not anything & {IM_START, IM_END}


def test_states_of_one_grammar_do_not_affect_each_other(tokenizer: LLTokenizer) -> None:
    grammar = compile_grammar('start: "ab" | "ba"', tokenizer)
    first, second = grammar.begin(), grammar.begin()
    first.advance(ord("a"))
    assert allowed(second) == {ord("a"), ord("b")}
    assert allowed(first) == {ord("b")}


def test_a_token_that_is_not_allowed_is_an_error(tokenizer: LLTokenizer) -> None:
    state = compile_grammar('start: "ab" | "ba"', tokenizer).begin()
    with pytest.raises(GrammarFailed, match="the grammar stopped"):
        state.advance(ord("c"))


def test_exceeding_a_limit_fails(tokenizer: LLTokenizer) -> None:
    grammar = compile_grammar(json_grammar({"pattern": "^.*a.{200}b.{200}$"}), tokenizer)
    with pytest.raises(GrammarFailed, match="the grammar stopped: lexer error: too many states"):
        write(grammar.begin(), '"' + "".join(random.Random(1).choices("ab", k=5_000)))


def write(state: GrammarState, text: str) -> None:
    for byte in text.encode():
        state.allowed_tokens()
        state.advance(byte)


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"not": {"type": "string"}}, r'unsupported keywords: \["not"\]'),
        ({"if": {}, "then": {}}, r'unsupported keywords: \["if", "then"\]'),
        ({"type": "array", "uniqueItems": True}, r'unsupported keywords: \["uniqueItems"\]'),
        ({"type": "string", "pattern": "(?=a)b"}, r'in "pattern": \(\?=a\)b error: look-around'),
        ({"oneOf": [{"type": "string"}, {"minLength": 2}]}, "oneOf constraints are not supported$"),
        ({"$ref": "#"}, "no text matches it$"),
        ({"$ref": "https://example.com/a.json"}, r'"\$ref" refers to another document'),
        ({"allOf": [{"$ref": "#"}, {"type": "object"}]}, r'"\$ref": circular references'),
        ({"type": "number", "minimum": -1e300}, '"minimum" or "maximum" is out of float range'),
        ({"type": "integer", "multipleOf": 10**15 + 7}, "'multipleOf' has too many digits"),
        ({"enum": []}, "Unsatisfiable schema"),
        ({"type": "text"}, "text"),
        ("text", "JSON schema"),
    ],
)
def test_an_unsupported_schema_is_rejected_with_its_keyword(
    schema: Any, reason: str, tokenizer: LLTokenizer
) -> None:
    with pytest.raises(GrammarUnsupported, match=reason) as caught:
        compile_grammar(json_grammar(schema), tokenizer)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "start: (", 'start: "a" b', "start: <|unknown|>", "\0"])
def test_an_invalid_grammar_is_rejected(text: str, tokenizer: LLTokenizer) -> None:
    with pytest.raises(GrammarUnsupported):
        compile_grammar(text, tokenizer)


def test_a_vocabulary_without_eog_tokens_is_rejected() -> None:
    vocabulary = FakeVocabulary()
    vocabulary.size = END
    with pytest.raises(GrammarUnsupported, match="no end-of-generation token"):
        eog_tokens(vocabulary)
