"""Tests chat templates with a vocabulary of bytes, without llama.cpp and without a model."""

import json
import re
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import pytest
from jinja2 import Environment, TemplateError
from workers_ai_emulator.engine.errors import CapacityExceeded, EngineError, RequestRejected
from workers_ai_emulator.prompts.chat import (
    JinjaTemplate,
    Llama2Template,
    Mark,
)
from workers_ai_emulator.prompts.messages import DEFAULT_SYSTEM_TEXT, Message, wrap_prompt
from workers_ai_emulator.prompts.template import Conversation, JinjaRenderer, LimitExceeded
from workers_ai_emulator.prompts.template_process import IsolatedRenderer

TEMPLATES = Path(__file__).resolve().parent.parent / "data" / "templates"
GOLDEN = json.loads((TEMPLATES / "llama2-reference-golden.json").read_text("utf-8"))
SDK_PROMPTS = json.loads((TEMPLATES / "llama2-template-cases.json").read_text("utf-8"))

CHATML = (
    "{% for message in messages %}<s>{{ message.role }}\n{{ message.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
BARE = "{% for message in messages %}{{ message.role + message.content }}{% endfor %}"
SPECIAL_TOKENS = {"<unk>": 256, "<s>": 257, "</s>": 258}

# A template that removes the thoughts of all assistant messages except the last, as templates of
# reasoning models do.
THINKING = """
{%- for message in messages %}
    {%- set content = message.content | trim %}
    {%- if '</think>' in content and message.role == 'assistant' %}
        {%- set content = content.split('</think>')[-1].lstrip('\n') %}
    {%- elif content.startswith('<think>') or content in ['<s>', '</s>'] %}
        {%- set content = content | replace('<think>', '(thinks)') %}
    {%- endif %}
    {{- '<s>' + message.role + '\n' + content.removesuffix('</s>') + '</s>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}
"""
# Small templates like those of well-known models, with the special tokens of these models.
FAMILIES = {
    "Llama 3": (
        "{{ bos_token }}{% if not date_string is defined %}"
        "{% set date_string = strftime_now('%d %b %Y') if strftime_now is defined else 'now' %}"
        "{% endif %}{% if not tools is defined %}{% set tools = none %}{% endif %}"
        "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] | trim %}"
        "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}"
        "{{ '<|start|>system<|stop|>\n' ~ ('' if tools is not none else system) ~ '<|end|>' }}"
        "{% for message in messages %}{% if not ('tool_calls' in message) %}"
        "{{ '<|start|>' + message['role'] + '<|stop|>\n' + message['content'] | trim + '<|end|>' }}"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant<|stop|>' }}"
        "{% endif %}",
        ["<|start|>", "<|stop|>", "<|end|>"],
    ),
    "Qwen": (
        "{% set ns = namespace(last=messages | length - 1) %}{% for message in messages[::-1] %}"
        "{% set i = messages | length - 1 - loop.index0 %}{% if message.role == 'user' %}"
        "{% set ns.last = i %}{% break %}{% endif %}{% endfor %}{% for message in messages %}"
        "{% set content = message.content if message.content is string else '' %}"
        "{% if message.reasoning_content is string %}{% continue %}{% endif %}"
        "<|im_start|>{{ message.role }}\n{{ content }}<|im_end|>\n{% endfor %}"
        "<|im_start|>assistant\n{% if enable_thinking is defined and enable_thinking is false %}"
        "<think>\n\n</think>\n\n{% endif %}",
        ["<|im_start|>", "<|im_end|>"],
    ),
    "Gemma": (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}{% for m in messages %}"
        "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
        "{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
        "{{ '<turn>' + role + '\n' + m['content'] | trim + '</turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<turn>model\n' }}{% endif %}",
        ["<turn>", "</turn>"],
    ),
    "Command R": (
        "{{ bos_token }}{% macro document(doc) %}{{ doc | tojson(indent=4) }}{% endmacro %}"
        "{% for doc in documents %}{{ document(doc) }}{% endfor %}{% for m in messages %}"
        "{% generation %}{{ '<|' ~ m.role | upper ~ '|>' ~ m.content.strip() }}{% endgeneration %}"
        "{% endfor %}{{ '<|ASSISTANT|>' if not custom_tools }}",
        ["<|SYSTEM|>", "<|USER|>", "<|ASSISTANT|>"],
    ),
}


class ByteVocabulary:
    """A vocabulary with a token for each byte, and special tokens from 256 on."""

    def __init__(
        self,
        special_tokens: Mapping[str, int] = SPECIAL_TOKENS,
        *,
        bos: int | None = 257,
        adds_bos: bool = False,
    ) -> None:
        self.special_tokens = special_tokens
        self.size = 256 + len(special_tokens)
        self.bos = bos
        self.eos: int | None = 258
        self.adds_bos = adds_bos
        self.is_sentencepiece = False

    def tokenize(self, text: str, *, parse_special: bool = False) -> list[int]:
        for name, token in self.special_tokens.items() if parse_special else ():
            if name in text:
                before, _, after = text.partition(name)
                parts = (self.tokenize(part, parse_special=True) for part in (before, after))
                return [*next(parts), token, *next(parts)]
        return list(text.encode("utf-8", "replace"))

    def piece(self, token: int) -> bytes:
        return bytes([token]) if token < 256 else b""

    def is_eog(self, token: int) -> bool:
        return token == self.eos


def vocabulary_of(names: list[str]) -> ByteVocabulary:
    """Returns a vocabulary with `<unk>`, `<s>`, `</s>` and these special tokens."""
    return ByteVocabulary(
        {name: 256 + i for i, name in enumerate(["<unk>", "<s>", "</s>", *names])}
    )


def as_text(tokens: list[int], vocabulary: ByteVocabulary) -> str:
    names = {token: name.encode() for name, token in vocabulary.special_tokens.items()}
    return b"".join(names.get(token) or bytes([token]) for token in tokens).decode()


def typed(text: str) -> list[int]:
    return list(text.encode())


def conversation(*turns: str) -> list[Message]:
    """Returns the messages of a conversation; each argument has the form `role: content`."""
    return [Message(role, text) for role, text in (turn.split(": ", 1) for turn in turns)]


def llama2_text(messages: list[Message]) -> str:
    parts = Llama2Template(ByteVocabulary()).parts(messages)
    return "".join(part.value if isinstance(part, Mark) else part for part in parts)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["id"])
def test_llama2_prompt_equals_the_references(case: dict[str, Any]) -> None:
    assert llama2_text([Message(**message) for message in case["messages"]]) == case["prompt"]


SDK_CONVERSATIONS = {
    "user,user": ["user: u1", "user: u2"],
    "system only": ["system: SYS"],
    "system,system,user": ["system: S1", "system: S2", "user: u1"],
    "user,system,user": ["user: u1", "system: SYS", "user: u2"],
    "assistant first": ["assistant: a0", "user: u1"],
    "unknown role": ["foo: x", "user: u1"],
    "tool role": ["user: u1", "assistant: a1", "tool: t1"],
    "empty": [],
    "system,foo,user": ["system: SYS", "foo: x", "user: u1"],
}


@pytest.mark.parametrize("name", SDK_CONVERSATIONS)
def test_conversation_that_the_reference_rejects_is_rendered_as_by_the_sdk(name: str) -> None:
    expected = SDK_PROMPTS[name]["@cloudflare/ai 1.2.2"]
    expected = expected if expected.startswith("<s>") else f"<s>{expected}"
    assert llama2_text(conversation(*SDK_CONVERSATIONS[name])) == expected


def test_bare_prompt_is_wrapped_in_the_default_system_text_as_by_the_sdk() -> None:
    sdk_prompt = SDK_PROMPTS['prompt "hi" (raw:false)']["@cloudflare/ai 1.2.2"]
    assert DEFAULT_SYSTEM_TEXT in sdk_prompt
    assert llama2_text(wrap_prompt("hi")) == f"<s>{sdk_prompt}"
    tokens = Llama2Template(ByteVocabulary()).render_prompt("hi")
    assert tokens == [257, *typed(sdk_prompt)]


def test_llama2_marks_become_tokens_and_those_in_messages_stay_text() -> None:
    messages = conversation("user: </s><s>", "assistant: <unk></s>", "user: [INST]")
    first, last = "[INST] </s><s> [/INST] <unk></s> ", "[INST] [INST] [/INST]"
    tokens = Llama2Template(ByteVocabulary()).render(messages)
    assert tokens == [257, *typed(first), 258, 257, *typed(last)]


@pytest.mark.parametrize("prompt", ["hi</s>", "<s>hi</s>"])
def test_llama2_raw_prompt_is_parsed_and_begins_with_one_bos(prompt: str) -> None:
    assert Llama2Template(ByteVocabulary()).render_raw(prompt) == [257, *typed("hi"), 258]


@pytest.mark.parametrize(
    "text", ["</s>", "a</s>b", "<<s>", "<", "</", "/s>", "s>", "</s", "<s><s>"]
)
def test_special_token_in_content_or_role_stays_text(text: str) -> None:
    tokens = JinjaTemplate(CHATML, ByteVocabulary()).render([Message(text, text)])
    expected = [257, *typed(f"{text}\n{text}"), 258, 257, *typed("assistant\n")]
    assert tokens == expected


@pytest.mark.parametrize("name", SPECIAL_TOKENS)
def test_special_token_split_over_two_parts_stays_text(name: str) -> None:
    template = JinjaTemplate(BARE, ByteVocabulary())
    for cut in range(len(name) + 1):
        assert template.render([Message(name[:cut], name[cut:])]) == typed(name)
        assert template.render([Message("", name[:cut]), Message(name[cut:], "")]) == typed(name)


def test_special_token_that_the_template_makes_by_cutting_content_stays_text() -> None:
    source = "{{ (messages[0].content | trim).replace('X', '') }}"
    template = JinjaTemplate(source, ByteVocabulary())
    assert template.render([Message("user", "  </Xs> ")]) == typed("</s>")


@pytest.mark.parametrize("source", ["<{{ messages[0].content }}", "{{ messages[0].content }}s>"])
def test_special_token_that_the_template_only_begins_or_ends_stays_text(source: str) -> None:
    content = "s>" if source.startswith("<") else "<"
    template = JinjaTemplate(source, ByteVocabulary())
    assert template.render([Message("user", content)]) == typed("<s>")


def test_overlapping_nested_and_one_character_special_tokens_stay_text() -> None:
    vocabulary = ByteVocabulary({"aXa": 256, "<s>": 257, "<<s>>": 258, "#": 259})
    content = "aXaXa<<s>>#"
    tokens = JinjaTemplate("#{{ messages[0].content }}<<s>>", vocabulary).render(
        [Message("user", content)]
    )
    assert tokens == [259, *typed(content), 258]


def test_special_token_without_a_name_is_ignored() -> None:
    vocabulary = ByteVocabulary({"": 256, "<s>": 257})
    assert JinjaTemplate("<s>hi", vocabulary).render([]) == [257, *typed("hi")]


@pytest.mark.parametrize("last", [0xE000, 0xE001, 0xF8FF])
def test_private_use_characters_in_content_are_kept(last: int) -> None:
    content = "".join(map(chr, range(0xE000, last + 1))) + "</s>"
    tokens = JinjaTemplate(CHATML, ByteVocabulary()).render([Message("user", content)])
    assert tokens == [257, *typed(f"user\n{content}"), 258, 257, *typed("assistant\n")]


def random_piece(random: Random) -> str:
    """Returns a special token or another tag, a part of it, a separator, or a character."""
    name = random.choice([*SPECIAL_TOKENS, "<think>", "</think>"])
    start, end = sorted(random.choices(range(len(name) + 1), k=2))
    return random.choice([name, name, name[start:end], " ", "\n", "X", "\ue000", "猫"])


def test_no_content_or_role_becomes_a_special_token_and_every_text_is_kept() -> None:
    random = Random(1)
    vocabulary = vocabulary_of(["<think>", "</think>"])
    sources = {
        CHATML: [257, 258],
        THINKING: [257, 258],
        BARE: [],
        BARE.replace(" + ", "[1:] + "): [],
    }
    for source, marks in sources.items():
        template = JinjaTemplate(source, vocabulary)
        plain = Environment().from_string(source)
        for _ in range(1500):
            texts = [
                "".join(random_piece(random) for _ in range(random.randint(0, 6))) for _ in "abc"
            ]
            messages = [Message("assistant", texts[0]), Message(texts[1], texts[2])]
            tokens = template.render(messages)
            written = [*len(messages) * marks, *marks[:1]]
            assert [token for token in tokens if token > 255] == written, messages
            expected = plain.render(messages=messages, add_generation_prompt=True)
            assert as_text(tokens, vocabulary) == expected, messages


@pytest.mark.parametrize("name", FAMILIES)
def test_template_of_a_well_known_family_renders_a_conversation(name: str) -> None:
    source, special_tokens = FAMILIES[name]
    vocabulary = vocabulary_of(special_tokens)
    template = JinjaTemplate(source, vocabulary)
    tokens = template.render(conversation("system: S", "user: u", "assistant: a<b>", "user: w"))
    text = as_text(tokens, vocabulary)
    assert re.findall(r"\bS\b|\bu\b|a<b>|\bw\b", text) == ["S", "u", "a<b>", "w"]
    assert {vocabulary.special_tokens[special] for special in special_tokens} <= set(tokens)


def test_template_without_system_messages_gets_the_system_text_in_the_first_user_message() -> None:
    source, special_tokens = FAMILIES["Gemma"]
    template = JinjaTemplate(source, vocabulary_of(special_tokens))
    expected = template.render(conversation("user: S\n\nu1", "assistant: a1", "user: u2"))
    turns = ["user: u1", "assistant: a1", "user: u2"]
    assert template.render(conversation("system: S", *turns)) == expected
    with pytest.raises(RequestRejected, match="System role not supported"):
        template.render(conversation("system: S", "user: u1", "user: u2"))


def test_template_in_a_subprocess_gives_the_same_tokens() -> None:
    here = JinjaTemplate(THINKING, ByteVocabulary())
    messages = [Message("user", "</s>é\ud800"), Message("assistant", "<think>a</think>\n\ue000b")]
    with closing(JinjaTemplate(THINKING, ByteVocabulary(), IsolatedRenderer)) as there:
        assert there.is_isolated and not here.is_isolated
        assert there.render(messages) == here.render(messages)
        assert there.render_prompt("hi") == here.render_prompt("hi")


def test_template_in_a_subprocess_rejects_conversations_as_one_in_this_process() -> None:
    source = "{% if messages %}{{ raise_exception('no ' ~ messages[0].content) }}{% endif %}"
    with closing(JinjaTemplate(source, ByteVocabulary(), IsolatedRenderer)) as template:
        with pytest.raises(RequestRejected, match="no <s>"):
            template.render([Message("user", "<s>")])
        template.close()
        with pytest.raises(EngineError, match="unloaded"):
            template.render([Message("user", "<s>")])


@pytest.mark.parametrize(
    ("error", "expected"),
    [(CapacityExceeded("busy"), CapacityExceeded), (LimitExceeded("late"), RequestRejected)],
)
def test_another_form_of_a_conversation_that_fails_is_reported(
    error: Exception, expected: type[Exception]
) -> None:
    class Renderer(JinjaRenderer):
        def render(self, conversation: Conversation) -> str:
            if conversation.messages[0]["role"] == "user":
                raise error
            raise TemplateError("no system message")

    template = JinjaTemplate("", ByteVocabulary(), Renderer)
    with pytest.raises(expected, match=str(error)):
        template.render([Message("system", "a"), Message("user", "b")])


def test_private_use_characters_in_the_template_are_kept() -> None:
    template = JinjaTemplate("\ue000\ue001{{ messages[0].content }}", ByteVocabulary())
    assert template.render([Message("user", "<s>")]) == typed("\ue000\ue001<s>")


def test_content_as_json_is_kept() -> None:
    template = JinjaTemplate("{{ messages[0].content | tojson }}", ByteVocabulary())
    assert template.render([Message("user", "é<s>")]) == typed('"é<s>"')


def test_bos_is_added_if_the_model_needs_it_and_the_template_writes_none() -> None:
    wanting = ByteVocabulary(adds_bos=True)
    messages = [Message("user", "hi")]
    source = "{{ messages[0].content }}"
    assert JinjaTemplate(source, wanting).render(messages) == [257, *typed("hi")]
    assert JinjaTemplate("{{ bos_token }}" + source, wanting).render(messages) == [
        257,
        *typed("hi"),
    ]
    assert JinjaTemplate(source, ByteVocabulary()).render(messages) == typed("hi")
    assert JinjaTemplate("", ByteVocabulary()).render(messages) == [257]
    assert JinjaTemplate("", ByteVocabulary(bos=None)).render(messages) == []


def test_template_that_raises_rejects_with_its_own_message() -> None:
    template = JinjaTemplate("{{ raise_exception('roles must alternate') }}", ByteVocabulary())
    with pytest.raises(RequestRejected, match="roles must alternate"):
        template.render([Message("user", "hi")])


def test_template_that_does_not_compile_is_rejected_at_once() -> None:
    with pytest.raises(ValueError, match="chat template is not valid"):
        JinjaTemplate("{% for %}", ByteVocabulary())


@pytest.mark.parametrize(
    "expression",
    [
        "''.__class__.__mro__[1].__subclasses__()",
        "messages.__class__.__base__",
        "raise_exception.__globals__['re']",
        "strftime_now.__globals__.re",
        "cycler.__init__.__globals__.os.popen('id').read()",
        "(messages | attr('__class__')).__mro__",
        "'{0.__class__.__mro__}'.format(messages)",
        "messages.append(1)",
        "messages[0].update(role='x')",
        "range(10 ** 9) | list",
        "1 / 0",
        "missing.attribute",
    ],
)
def test_hostile_template_is_an_error(expression: str) -> None:
    template = JinjaTemplate("{{ " + expression + " }}", ByteVocabulary())
    with pytest.raises(RequestRejected):
        template.render([Message("user", "hi")])


@pytest.mark.parametrize("expression", ["messages.__class__", "raise_exception.__globals__"])
def test_unsafe_attribute_renders_as_nothing(expression: str) -> None:
    template = JinjaTemplate("{{ " + expression + " }}", ByteVocabulary(bos=None))
    assert template.render([Message("user", "hi")]) == []


def test_template_of_another_model_gets_the_messages_of_a_flattened_prompt() -> None:
    template = JinjaTemplate(CHATML, ByteVocabulary())
    messages = conversation("system: S", "user: u1", "assistant: a1", "user: u2")
    expected = template.render(messages)
    assert template.render_prompt(llama2_text(messages)) == expected
    assert template.render_raw(llama2_text(messages)) == expected


@pytest.mark.parametrize("form", ["<|im_start|>user\nu1<|im_end|>\n<|im_start|>assistant\n", "u1"])
def test_template_of_another_model_renders_the_messages_that_an_sdk_flattened(form: str) -> None:
    template = JinjaTemplate(CHATML, ByteVocabulary())
    assert template.render_flattened(form) == template.render([Message("user", "u1")])


def test_a_flattened_prompt_with_the_models_own_special_tokens_is_raw() -> None:
    template = JinjaTemplate(CHATML, ByteVocabulary())
    assert template.render_flattened("<s>u1</s>") == template.render_raw("<s>u1</s>")


def test_for_llama_2_a_flattened_prompt_is_raw() -> None:
    template = Llama2Template(ByteVocabulary())
    prompt = "[INST] u1 [/INST] a1</s><s>[INST] u2 [/INST]"
    assert template.render_flattened(prompt) == template.render_raw(prompt)


def test_template_of_another_model_wraps_a_bare_prompt_and_parses_a_raw_one() -> None:
    template = JinjaTemplate(CHATML, ByteVocabulary())
    assert template.render_prompt("<s>hi") == template.render(wrap_prompt("<s>hi"))
    assert template.render_raw("<s>hi</s>") == [257, *typed("hi"), 258]
