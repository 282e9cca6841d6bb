"""Tests parsing prompts into which old SDKs joined the messages of a conversation."""

from __future__ import annotations

from random import Random

import pytest
from workers_ai_emulator.prompts.messages import Message, parse_flattened, parse_llama2

from tests.unit.test_chat import SDK_PROMPTS, conversation, llama2_text

FLATTENED = {
    "user": ["user: hi"],
    "system,user": ["system: SYS", "user: hi"],
    "system,user,assistant,user": ["system: SYS", "user: u1", "assistant: a1", "user: u2"],
    "user,assistant,user": ["user: u1", "assistant: a1", "user: u2"],
    "user,user": ["user: u1", "user: u2"],
    "system,system,user": ["system: S1", "system: S2", "user: u1"],
    "user,system,user": ["user: u1", "system: SYS", "user: u2"],
    "empty system": ["system: ", "user: u1"],
    "tool role": ["user: u1", "assistant: a1"],
}


@pytest.mark.parametrize("version", ["1.0.53", "1.2.2"])
@pytest.mark.parametrize("name", FLATTENED)
def test_prompt_that_the_sdk_flattened_is_parsed_back(name: str, version: str) -> None:
    prompt = SDK_PROMPTS[name][f"@cloudflare/ai {version}"]
    assert parse_llama2(prompt) == conversation(*FLATTENED[name])


def random_text(random: Random, *, may_be_empty: bool = True) -> str:
    pieces = ["word", " ", "\n", "é", "猫", "<", ">", "[", "]", "INST", "/", "<s>", "{{ x }}", "\t"]
    text = "".join(random.choices(pieces, k=random.randint(0, 8))).strip()
    return text or ("" if may_be_empty else "x")


def random_conversation(random: Random) -> list[Message]:
    """Returns a random conversation whose order of roles Meta's code accepts."""
    messages = [Message("system", random_text(random))] if random.random() < 0.5 else []
    for _ in range(random.randint(0, 3)):
        messages += [Message("user", random_text(random))]
        messages += [Message("assistant", random_text(random))]
    return [*messages, Message("user", random_text(random))]


def without_tags(messages: list[Message]) -> bool:
    tags = ("[INST]", "[/INST]")
    return not any(tag in message.content for message in messages for tag in tags)


@pytest.mark.parametrize("seed", range(300))
def test_parsing_a_flattened_conversation_returns_the_conversation(seed: int) -> None:
    messages = random_conversation(Random(seed))
    while not without_tags(messages):
        messages = random_conversation(Random(seed := seed + 1000))
    assert parse_llama2(llama2_text(messages)) == messages


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "hi",
        "What does [INST] mean?",
        "What do [INST] and [/INST] mean?",
        "In Llama 2, <s>[INST] hi [/INST] is a prompt.",
        "[INST] is a tag",
        "[/INST] ends what [INST] begins",
        "<s> hi",
    ],
)
def test_text_that_mentions_the_tags_is_not_parsed(prompt: str) -> None:
    assert parse_llama2(prompt) is None


@pytest.mark.parametrize("spaces", [" " * 131_072, "\n" * 131_072])
def test_many_spaces_are_parsed_in_linear_time(spaces: str) -> None:
    assert parse_llama2(spaces) is None
    assert parse_llama2(f"<s>{spaces}") is None
    assert parse_llama2(f"[INST]{spaces}<s>{spaces}") is None
    assert parse_llama2(f"[INST]{spaces}hi{spaces}[/INST]") == conversation("user: hi")


def test_a_system_text_in_a_turn_of_its_own_is_parsed() -> None:
    prompt = "[INST]<<SYS>>S<</SYS>>[/INST]\n[INST]u1[/INST]\na1\n[INST]u2[/INST]\n"
    messages = conversation("system: S", "user: u1", "assistant: a1", "user: u2")
    assert parse_llama2(prompt) == messages


@pytest.mark.parametrize(
    "prompt",
    ["", "hi", "S: u1 a1 u2", "Who is the User: in this?", "### System:\nS", "Assistant:", "<s>"],
)
def test_text_in_no_format_is_not_parsed(prompt: str) -> None:
    assert parse_flattened(prompt) is None


@pytest.mark.parametrize("text", ["<|user|>\n", "User: ", "<s>", "\n"])
def test_a_long_prompt_in_any_format_is_parsed_in_linear_time(text: str) -> None:
    parse_flattened(text * 100_000 + "Assistant: ")
