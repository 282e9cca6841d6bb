"""Tests that the text does not depend on how its bytes are divided into pieces."""

import random

import pytest
from workers_ai_emulator.engine.detokenizer import Detokenizer

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"  # one emoji of 3 people and 2 joiners
TEXTS = {
    "latin": "plain text, with punctuation.\n",
    "emoji": f"{FAMILY} \U0001f1f8\U0001f1ee \U0001f44d\U0001f3fd",
    "cjk": "\u6f22\u5b57\u3068\u4eee\u540d \ud55c\uad6d\uc5b4 \U00020bb7",
    "combining": "e\u0301 n\u0303 \u0915\u094d\u0937 Z\u0351\u036b\u0343",
    "mixed": f" caf\u00e9 \u20ac{FAMILY}\u6f22 \u05e9\u05c1\u0644\u0627",
}


def cut(data: bytes, rng: random.Random) -> list[bytes]:
    """Cuts the data at random positions. Returns the pieces, some of which are empty."""
    ends = [*sorted(rng.choices(range(len(data) + 1), k=rng.randrange(len(data)))), len(data)]
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def detokenize(pieces: list[bytes], *, strip_leading_space: bool = False) -> list[str]:
    detokenizer = Detokenizer(strip_leading_space=strip_leading_space)
    return [*map(detokenizer.feed, pieces), detokenizer.flush()]


@pytest.mark.parametrize("name", TEXTS)
def test_text_is_the_same_wherever_its_bytes_are_cut(name: str) -> None:
    rng = random.Random(name)
    for _ in range(200):
        parts = detokenize(cut(TEXTS[name].encode(), rng))
        assert "".join(parts) == TEXTS[name]


def test_invalid_utf8_gives_the_same_text_wherever_it_is_cut() -> None:
    rng = random.Random(1)
    for _ in range(200):
        data = rng.randbytes(30)
        assert "".join(detokenize(cut(data, rng))) == data.decode("utf-8", "replace")


@pytest.mark.parametrize("name", TEXTS)
def test_a_character_is_returned_as_soon_as_it_is_complete(name: str) -> None:
    detokenizer = Detokenizer()
    for character in TEXTS[name]:
        *first, last = character.encode()
        assert [detokenizer.feed(bytes([byte])) for byte in first] == [""] * len(first)
        assert detokenizer.feed(bytes([last])) == character


def test_an_unfinished_character_becomes_a_replacement_character() -> None:
    parts = detokenize([b"a", "\U0001f600".encode()[:3]])
    assert parts == ["a", "", "\ufffd"]


def test_an_incomplete_character_before_text_is_replaced_at_once() -> None:
    assert detokenize(["\u20ac".encode()[:2], b"x"]) == ["", "\ufffdx", ""]


def test_flush_returns_nothing_after_complete_text() -> None:
    assert detokenize([b"whole"]) == ["whole", ""]


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        ([b" a", b" b"], "a b"),
        ([b"  a"], " a"),
        ([b" ", b" ", b"a"], " a"),
        ([b"", b" a"], "a"),
        ([b"a", b" b"], "a b"),
        ([b" "], ""),
    ],
)
def test_one_leading_space_is_stripped(pieces: list[bytes], text: str) -> None:
    assert "".join(detokenize(pieces, strip_leading_space=True)) == text


def test_a_leading_space_stays_unless_it_is_to_be_stripped() -> None:
    assert "".join(detokenize([b" a"])) == " a"


@pytest.mark.parametrize("name", TEXTS)
def test_stripping_is_the_same_wherever_the_bytes_are_cut(name: str) -> None:
    rng = random.Random(name)
    for _ in range(100):
        pieces = cut((" " + TEXTS[name]).encode(), rng)
        assert "".join(detokenize(pieces, strip_leading_space=True)) == TEXTS[name]
