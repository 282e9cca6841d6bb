"""Prompts as token ids, by the real tokenizer: those of the model's own training format."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from emulator.catalog import CATALOG
from emulator.chat import JinjaTemplate, Llama2Template, Message
from emulator.engine.llama import LlamaModel, LlamaVocabulary
from emulator.settings import Settings
from emulator.store import Store

DATA = Path(__file__).resolve().parent.parent / "data"
GOLDEN = json.loads((DATA / "templates" / "llama2-reference-golden.json").read_text("utf-8"))
NUM_CONVERSATIONS = 300

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
LLAMA2_TAGS = ["<s>", "</s>", "<unk>", "[INST]", "[/INST]", "<<SYS>>\n", "<0x02>", "\ue000", "\x00"]
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
    """A system message or none, then user and assistant in turns, the user last."""
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
def test_llama2_special_token_that_a_user_typed_stays_text(
    llama2: LlamaVocabulary, text: str
) -> None:
    tokens = Llama2Template(llama2).render([Message("user", text)])
    assert tokens[0] == llama2.bos
    assert not {0, 1, 2} & set(tokens[1:])
    assert b"".join(map(llama2.piece, tokens)).decode() == f" [INST] {text} [/INST]"


def ids_by_metas_rule(vocabulary: LlamaVocabulary, messages: list[Message]) -> list[int]:
    """What meta-llama/llama `generation.py` does, written a second time."""
    contents = [message.content for message in messages]
    if messages[0].role == "system":
        system = contents.pop(0)
        contents[0] = "<<SYS>>\n" + system + "\n<</SYS>>\n\n" + contents[0]
    contents = [content.strip() for content in contents]
    ids: list[int] = []
    for i in range(0, len(contents) - 1, 2):
        turn = "[INST] " + contents[i] + " [/INST] " + contents[i + 1] + " "
        ids += [1, *vocabulary.tokenize(turn), 2]
    return [*ids, 1, *vocabulary.tokenize("[INST] " + contents[-1] + " [/INST]")]


def test_llama2_prompt_of_any_dialog_follows_metas_rule(llama2: LlamaVocabulary) -> None:
    random = Random(20230718)
    native, jinja = Llama2Template(llama2), JinjaTemplate(GOLDEN["hf_chat_template"], llama2)
    for _ in range(NUM_CONVERSATIONS):
        messages = random_dialog(random, LLAMA2_TAGS)
        expected = ids_by_metas_rule(llama2, messages)
        assert native.render(messages) == expected, messages
        assert jinja.render(messages) == expected, messages


@pytest.mark.parametrize("case", GOLDEN["smollm2_chatml"]["cases"], ids=lambda case: case["id"])
def test_prompt_of_the_embedded_model_has_the_known_token_ids(
    chatml: JinjaTemplate, case: dict[str, Any]
) -> None:
    assert chatml.render(messages_of(case)) == case["ids"]


def test_special_token_that_a_user_typed_never_ends_a_turn_of_the_embedded_model(
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
