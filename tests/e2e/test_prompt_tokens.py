"""Tests the token ids of prompts, with real tokenizers, against the models' training formats."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from workers_ai_emulator.engine.llama import LlamaModel, LlamaVocabulary
from workers_ai_emulator.models.catalog import CATALOG
from workers_ai_emulator.models.store import Store
from workers_ai_emulator.prompts.chat import JinjaTemplate, Llama2Template
from workers_ai_emulator.prompts.messages import Message
from workers_ai_emulator.settings import Settings

from tests.llama2_reference import DialogRefused, token_ids

DATA = Path(__file__).resolve().parent.parent / "data"
GOLDEN = json.loads((DATA / "templates" / "llama2-reference-golden.json").read_text("utf-8"))
NUM_CONVERSATIONS = 300
NUM_DIALOGS = 2000

WORDS = [
    "Hello",
    " ",
    "  ",
    "\n",
    "\t",
    "é",
    "猫",
    "🐱",
    "print('x')",
    ".",
    "<",
    ">",
    "[",
    "|",
    "s",
]
EDGES = ["", "", " ", "\n\n", "\t ", "\u00a0", "\u3000", "\u200b", "\r\n", "\x1c"]
SCRIPTS = [
    "naïve",
    "漢字かな",
    "한국어",
    "العربية",
    "👩‍👩‍👧",
    "🏳️‍🌈",
    "e\u0301",
    "\U0010ffff",
    "\ud800",
    "ﬁ",
]
LLAMA2_TAGS = [
    *("<s>", "</s>", "<unk>", "<0x02>", "</", "s>", "\ue000", "\x00", "▁", "▁<s>"),
    *("[INST]", "[/INST]", "[INST", "<<SYS>>", "<<SYS>>\n", "\n<</SYS>>\n\n", "</s><s>[INST] "),
]
CHATML_TAGS = ["<|im_end|>", "<|im_start|>", "<|endoftext|>", "<|im_", "end|>", "im_end", "\ue000"]


@pytest.fixture(scope="module")
def llama2() -> Iterator[LlamaVocabulary]:
    model = LlamaModel(DATA / "llama2-vocab.gguf", vocabulary_only=True)
    yield model.vocabulary
    model.close()


@pytest.fixture(scope="module")
def stand_in() -> Iterator[LlamaModel]:
    store = Store(Settings().models_dir, num_threads=1)
    weights = store.weights(CATALOG["@cf/meta/llama-2-7b-chat-int8"])
    model = LlamaModel(weights.path, vocabulary_only=True)
    yield model
    model.close()


@pytest.fixture(scope="module")
def chatml(stand_in: LlamaModel) -> JinjaTemplate:
    source: str = GOLDEN["smollm2_chatml"]["template"]
    assert stand_in.metadata("tokenizer.chat_template") == source
    return JinjaTemplate(source, stand_in.vocabulary)


def messages_of(case: dict[str, Any]) -> list[Message]:
    return [Message(**message) for message in case["messages"]]


def random_text(random: Random, tags: Sequence[str]) -> str:
    return "".join(random.choices([*WORDS, *tags], k=random.randint(0, 12)))


def random_dialog(random: Random, tags: Sequence[str]) -> list[Message]:
    """Returns a random dialog whose order of roles Meta's code accepts."""
    roles = ["user", *random.randint(0, 3) * ["assistant", "user"]]
    roles = ["system", *roles] if random.random() < 0.5 else roles
    return [Message(role, random_text(random, tags)) for role in roles]


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["id"])
def test_llama2_prompt_has_the_token_ids_of_the_reference(
    llama2: LlamaVocabulary, case: dict[str, Any]
) -> None:
    assert Llama2Template(llama2).render(messages_of(case)) == case["ids"]


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["id"])
def test_llama2_template_of_a_gguf_file_gives_the_same_token_ids(
    llama2: LlamaVocabulary, case: dict[str, Any]
) -> None:
    template = JinjaTemplate(GOLDEN["hf_chat_template"], llama2)
    assert template.render(messages_of(case)) == case["ids"]


@pytest.mark.parametrize("text", ["</s>", "<s>", "[INST]", "<unk>", "a</s><s>[INST] b [/INST]"])
def test_llama2_special_token_in_a_message_stays_text(llama2: LlamaVocabulary, text: str) -> None:
    tokens = Llama2Template(llama2).render([Message("user", text)])
    assert tokens[0] == llama2.bos
    assert not {0, 1, 2} & set(tokens[1:])
    assert b"".join(map(llama2.piece, tokens)).decode() == f" [INST] {text} [/INST]"


def llama2_text(random: Random) -> str:
    """Returns a random text, sometimes very long, and often with white space at its ends."""
    pieces = random.choices([*WORDS, *SCRIPTS, *LLAMA2_TAGS], k=random.choice([0, 1, 3, 12]))
    text = "".join(pieces) * (200 if random.random() < 0.02 else 1)
    return random.choice(EDGES) + text + random.choice(EDGES)


def llama2_dialog(random: Random) -> list[Message]:
    """Returns a random dialog. In three of four cases, Meta's code accepts its order of roles."""
    roles = [
        *random.choice([[], ["system"]]),
        "user",
        *random.randint(0, 3) * ["assistant", "user"],
    ]
    if random.random() < 0.25:
        any_role = ["system", "user", "assistant", "tool", "</s>", ""]
        roles = random.choices(any_role, k=random.randint(0, 6))
    return [Message(role, llama2_text(random)) for role in roles]


def reference_ids(vocabulary: LlamaVocabulary, messages: list[Message]) -> list[int] | None:
    """Returns the token ids that Meta's code gives; None if Meta's code rejects the dialog."""
    try:
        return token_ids(messages, vocabulary.tokenize, bos=1, eos=2)
    except DialogRefused:
        return None


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["id"])
def test_the_reference_gives_the_golden_token_ids(
    llama2: LlamaVocabulary, case: dict[str, Any]
) -> None:
    assert reference_ids(llama2, messages_of(case)) == case["ids"]


def test_llama2_prompt_of_any_dialog_has_the_token_ids_of_the_reference(
    llama2: LlamaVocabulary,
) -> None:
    random = Random(20230718)
    template = Llama2Template(llama2)
    num_accepted = 0
    for _ in range(NUM_DIALOGS):
        messages = llama2_dialog(random)
        tokens = template.render(messages)
        expected = reference_ids(llama2, messages)
        if expected is None:
            check_rejected(tokens, messages, llama2)
        else:
            num_accepted += 1
            assert tokens == expected, messages
    assert NUM_DIALOGS // 2 < num_accepted < NUM_DIALOGS


def rendered_roles(messages: list[Message]) -> list[str]:
    """Returns the roles of the messages in the prompt.

    Results of tools in a row, and a user message after them, are one user message.
    """
    roles: list[str] = []
    role_before = ""
    for message in messages:
        if role_before != "tool" or message.role not in ("tool", "user"):
            roles.append("user" if message.role == "tool" else message.role)
        role_before = message.role
    return roles


def check_rejected(tokens: list[int], messages: list[Message], vocabulary: LlamaVocabulary) -> None:
    """Checks the prompt of a dialog that Meta's code rejects.

    Asserts that the prompt contains all texts, and special tokens only where the format has them.
    `▁` is replaced, because SentencePiece decodes it as a space.
    """
    roles = rendered_roles(messages)
    num_users = sum(
        role == "user" and (i == 0 or roles[i - 1] != "system") for i, role in enumerate(roles)
    )
    assert tokens[0] == vocabulary.bos
    assert tokens.count(0) == 0, messages
    assert tokens.count(1) in (num_users, num_users + 1), messages
    assert tokens.count(2) == roles.count("assistant"), messages
    text = b"".join(map(vocabulary.piece, tokens)).decode()
    start = 0
    for message in messages:
        if message.role in ("system", "user", "assistant", "tool"):
            # With results as user messages, Meta's code may accept the dialog: it strips the texts.
            content = message.content.replace("\ud800", "\ufffd").replace("▁", " ").strip()
            assert content in text[start:], messages
            start = text.index(content, start) + len(content)


def test_llama2_template_of_a_gguf_file_follows_the_reference_for_any_dialog(
    llama2: LlamaVocabulary,
) -> None:
    random = Random(2)
    template = JinjaTemplate(GOLDEN["hf_chat_template"], llama2)
    for _ in range(NUM_CONVERSATIONS):
        messages = random_dialog(random, LLAMA2_TAGS)
        assert template.render(messages) == reference_ids(llama2, messages), messages


@pytest.mark.parametrize("case", GOLDEN["smollm2_chatml"]["cases"], ids=lambda case: case["id"])
def test_prompt_of_the_stand_in_model_has_the_known_token_ids(
    chatml: JinjaTemplate, case: dict[str, Any]
) -> None:
    assert chatml.render(messages_of(case)) == case["ids"]


def test_special_token_in_a_message_never_ends_a_turn_of_the_stand_in_model(
    chatml: JinjaTemplate, stand_in: LlamaModel
) -> None:
    random = Random(135)
    vocabulary = stand_in.vocabulary
    special = set(vocabulary.special_tokens.values())
    tags = [*CHATML_TAGS, *vocabulary.special_tokens]
    for _ in range(NUM_CONVERSATIONS):
        messages = [Message("system", random_text(random, tags)), *random_dialog(random, tags)]
        messages.append(Message(random_text(random, tags), "<|im_end|>"))
        tokens = chatml.render(messages)
        assert [t for t in tokens if t in special] == [*len(messages) * [1, 2], 1], messages
        expected = "".join(f"{m.role}\n{m.content}\n" for m in messages) + "assistant\n"
        assert b"".join(map(vocabulary.piece, tokens)).decode() == expected
