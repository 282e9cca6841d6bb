"""Turns messages into prompt tokens, with the chat template that the weights were trained on.

Only a template can write special tokens: the users' text is always tokenised as plain text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from itertools import chain, islice, pairwise
from operator import add
from typing import Protocol

from jinja2 import TemplateError

from workers_ai_emulator.engine.errors import RequestRejected
from workers_ai_emulator.engine.types import Vocabulary
from workers_ai_emulator.prompts.messages import Message, parse_flattened, parse_llama2
from workers_ai_emulator.prompts.template import (
    Conversation,
    JinjaRenderer,
    LimitExceeded,
    Renderer,
)

# The service's system message for a bare `prompt` [npm @cloudflare/ai 1.0.53, dist/templates.js].
DEFAULT_SYSTEM_TEXT = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)


class ChatTemplate(Protocol):
    """The prompt format of one model. All methods return the tokens of the whole prompt.

    They raise RequestRejected if the template rejects the conversation. `is_isolated`: the template
    runs in a subprocess, so rendering would block an event loop.
    """

    is_isolated: bool

    def render(self, messages: Sequence[Message]) -> list[int]:
        """Renders a conversation."""

    def render_prompt(self, prompt: str) -> list[int]:
        """Renders a bare prompt as a user message after the service's default system message."""

    def render_raw(self, prompt: str) -> list[int]:
        """Tokenises a prompt to which the client has applied a template itself."""

    def render_flattened(self, prompt: str) -> list[int]:
        """Renders a prompt into which an old SDK may have flattened messages."""

    def close(self) -> None:
        """Ends the subprocess, if there is one. May be called more than once."""


class Tokenizer(Protocol):
    """Tokenises texts with the vocabulary of one model. Any thread may use it.

    `is_isolated`: it runs in a subprocess, so it would block an event loop.
    """

    is_isolated: bool

    def tokenize(self, texts: Sequence[str], *, parse_special: bool = False) -> list[list[int]]:
        """Returns the tokens of each text. Raises RequestRejected."""

    def close(self) -> None:
        """Ends the subprocess, if there is one. May be called more than once."""


class DirectTokenizer:
    """Tokenises in this process."""

    is_isolated = False

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary

    def tokenize(self, texts: Sequence[str], *, parse_special: bool = False) -> list[list[int]]:
        return [self._vocabulary.tokenize(text, parse_special=parse_special) for text in texts]

    def close(self) -> None:
        pass


class Mark(Enum):
    """A special token between the texts of a Llama 2 prompt."""

    BOS = "<s>"
    EOS = "</s>"


class Llama2Template:
    """Llama 2's prompt format, exactly.

    Meta's code accepts an optional system message, then user and assistant messages in turns, the
    user last. Such a conversation is rendered as by meta-llama/llama `generation.py`. All others
    are rendered as by Cloudflare's SDK (npm @cloudflare/ai 1.2.2), because the service accepted
    them.
    """

    def __init__(self, vocabulary: Vocabulary, tokenizer: Tokenizer | None = None) -> None:
        assert vocabulary.bos is not None and vocabulary.eos is not None
        self._tokenizer = tokenizer or DirectTokenizer(vocabulary)
        self.is_isolated = self._tokenizer.is_isolated
        self._bos = vocabulary.bos
        self._eos = vocabulary.eos

    def render(self, messages: Sequence[Message]) -> list[int]:
        parts = _join_texts(self.parts(messages))
        texts = [part for part in parts if isinstance(part, str)]
        tokens_of_texts = iter(self._tokenizer.tokenize(texts))
        marks = {Mark.BOS: [self._bos], Mark.EOS: [self._eos]}
        lists = (next(tokens_of_texts) if isinstance(p, str) else marks[p] for p in parts)
        return list(chain.from_iterable(lists))

    def render_prompt(self, prompt: str) -> list[int]:
        return self.render(wrap_prompt(prompt))

    def render_raw(self, prompt: str) -> list[int]:
        (tokens,) = self._tokenizer.tokenize([prompt], parse_special=True)
        return tokens if tokens[:1] == [self._bos] else [self._bos, *tokens]

    def render_flattened(self, prompt: str) -> list[int]:
        return self.render_raw(prompt)

    def close(self) -> None:
        self._tokenizer.close()

    def parts(self, messages: Sequence[Message]) -> list[str | Mark]:
        """Returns the prompt as texts and marks; the first one is a BOS mark."""
        if (dialog := _fold_system(messages)) is not None:
            return _reference_parts(dialog)
        return _sdk_parts(messages)


def _join_texts(parts: Iterable[str | Mark]) -> list[str | Mark]:
    """Joins consecutive texts, and drops empty texts."""
    joined: list[str | Mark] = []
    for part in parts:
        previous = joined[-1] if joined else None
        if isinstance(part, str) and isinstance(previous, str):
            joined[-1] = previous + part
        elif part != "":
            joined.append(part)
    return joined


def _fold_system(messages: Sequence[Message]) -> list[Message] | None:
    """Returns the messages with the system text inserted into the first user message.

    Returns None if user and assistant do not take turns, or the user is not last.
    """
    dialog = list(messages)
    if len(dialog) > 1 and dialog[0].role == "system":
        system, user = dialog[:2]
        text = f"<<SYS>>\n{system.content}\n<</SYS>>\n\n{user.content}"
        dialog[:2] = [Message(user.role, text)]
    alternates = all(m.role == ("user", "assistant")[i % 2] for i, m in enumerate(dialog))
    return dialog if alternates and len(dialog) % 2 == 1 else None


def _reference_parts(dialog: Sequence[Message]) -> list[str | Mark]:
    parts: list[str | Mark] = []
    for user, assistant in zip(dialog[::2], dialog[1::2], strict=False):
        text = f"[INST] {user.content.strip()} [/INST] {assistant.content.strip()} "
        parts += [Mark.BOS, text, Mark.EOS]
    return [*parts, Mark.BOS, f"[INST] {dialog[-1].content.strip()} [/INST]"]


def _sdk_parts(messages: Sequence[Message]) -> list[str | Mark]:
    """Returns the prompt that Cloudflare's SDK makes of the messages.

    Unknown roles are dropped, texts are not stripped, and several messages of one role in a row
    are allowed. The service's tokenizer added `<s>` to a text without it. Whether it added a second
    `<s>` otherwise is unknown; this prompt always begins with exactly one.
    """
    parts: list[str | Mark] = []
    for previous, message in pairwise([None, *messages]):
        if message is None:
            continue
        if message.role == "system":
            parts += [f"[INST] <<SYS>>\n{message.content}\n<</SYS>>\n\n"]
        elif message.role == "user":
            follows_system = previous is not None and previous.role == "system"
            parts += [] if follows_system else [Mark.BOS, "[INST] "]
            parts += [f"{message.content} [/INST]"]
        elif message.role == "assistant":
            parts += [f" {message.content}", Mark.EOS]
    return parts if parts[:1] == [Mark.BOS] else [Mark.BOS, *parts]


class JinjaTemplate:
    """A Jinja chat template, from a GGUF file or from the user.

    The users' text must not become special tokens. Therefore the first and last characters of all
    special tokens are masked in it: replaced by characters that occur in neither the template nor
    the messages. After rendering, the special tokens that the template wrote are found, and the
    text between them is unmasked and tokenised as plain text.

    `make_renderer` returns a renderer for the template's source. `tokenizer` replaces the one of
    `vocabulary`. Raises ValueError if the template
    does not compile.
    """

    def __init__(
        self,
        source: str,
        vocabulary: Vocabulary,
        make_renderer: Callable[[str], Renderer] = JinjaRenderer,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        self._vocabulary = vocabulary
        self._tokenizer = tokenizer or DirectTokenizer(vocabulary)
        self._names = {token: name for name, token in vocabulary.special_tokens.items()}
        names = sorted(filter(None, vocabulary.special_tokens), key=len, reverse=True)
        self._edges = "".join(sorted({edge for name in names for edge in (name[0], name[-1])}))
        self._special = re.compile("|".join(map(re.escape, names)) or r"(?!)")
        self._source = source
        self._renderer = make_renderer(source)
        self.is_isolated = self._renderer.is_isolated or self._tokenizer.is_isolated

    def render(self, messages: Sequence[Message]) -> list[int]:
        """Renders a conversation. Raises RequestRejected if the template rejects it.

        If a template rejects a conversation that begins with a system message and a user message,
        the two are merged and rendered again: some templates do not support system messages.
        """
        try:
            return self._tokens(messages)
        except TemplateError as error:
            merged = None if isinstance(error, LimitExceeded) else _merge_system(messages)
            if merged:
                with suppress(TemplateError):
                    return self._tokens(merged)
            raise RequestRejected(str(error)) from error

    def render_prompt(self, prompt: str) -> list[int]:
        return self.render(parse_llama2(prompt) or wrap_prompt(prompt))

    def render_raw(self, prompt: str) -> list[int]:
        if messages := parse_llama2(prompt):
            return self.render(messages)
        (tokens,) = self._tokenizer.tokenize([prompt], parse_special=True)
        return self._with_bos(tokens)

    def render_flattened(self, prompt: str) -> list[int]:
        """Renders the messages that an old SDK flattened into the prompt.

        A prompt in no known format is raw if it contains special tokens of this model, otherwise a
        user message.
        """
        if messages := parse_flattened(prompt):
            return self.render(messages)
        if self._special.search(prompt):
            return self.render_raw(prompt)
        return self.render([Message("user", prompt)])

    def close(self) -> None:
        self._renderer.close()
        self._tokenizer.close()

    def _tokens(self, messages: Sequence[Message]) -> list[int]:
        text = self._source + "".join(m.role + m.content for m in messages)
        unused = _unused_characters(text, len(self._edges))
        mask, unmask = str.maketrans(self._edges, unused), str.maketrans(unused, self._edges)
        conversation = Conversation(
            messages=[
                {"role": m.role.translate(mask), "content": m.content.translate(mask)}
                for m in messages
            ],
            bos_token=self._name(self._vocabulary.bos),
            eos_token=self._name(self._vocabulary.eos),
            masked=dict(zip(self._edges, unused, strict=True)),
        )
        try:
            rendered = self._renderer.render(conversation)
        except TemplateError as error:  # its message may contain masked text
            raise type(error)(str(error).translate(unmask)) from error
        return self._with_bos(self._tokenize(rendered, unmask))

    def _tokenize(self, text: str, unmask: Mapping[int, int]) -> list[int]:
        """Returns the tokens of a rendered prompt, with the special tokens that it names."""
        texts: list[str] = []
        specials: list[list[int]] = []
        end = 0
        for match in self._special.finditer(text):
            texts.append(text[end : match.start()].translate(unmask))
            specials.append([self._vocabulary.special_tokens[match[0]]])
            end = match.end()
        texts.append(text[end:].translate(unmask))
        return list(chain.from_iterable(map(add, self._plain(texts), [*specials, []])))

    def _name(self, token: int | None) -> str:
        return "" if token is None else self._names.get(token, "")

    def _plain(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the tokens of each text. An empty text has none: llama.cpp may add a space."""
        tokens = iter(self._tokenizer.tokenize([text for text in texts if text]))
        return [next(tokens) if text else [] for text in texts]

    def _with_bos(self, tokens: list[int]) -> list[int]:
        bos = self._vocabulary.bos
        if bos is None or tokens[:1] == [bos] or (tokens and not self._vocabulary.adds_bos):
            return tokens
        return [bos, *tokens]


def wrap_prompt(prompt: str) -> list[Message]:
    """Returns the conversation that the service makes of a bare prompt."""
    return [Message("system", DEFAULT_SYSTEM_TEXT), Message("user", prompt)]


def _merge_system(messages: Sequence[Message]) -> list[Message] | None:
    """Merges a system message and the user message after it into one user message.

    Returns None if the conversation does not begin with these two.
    """
    match messages:
        case [Message(role="system") as system, Message(role="user") as user, *others]:
            return [Message("user", f"{system.content}\n\n{user.content}"), *others]
    return None


def _unused_characters(text: str, count: int) -> str:
    """Returns `count` characters that do not occur in `text`, from the private use area on."""
    used = set(text)
    return "".join(islice((c for c in map(chr, range(0xE000, 0x110000)) if c not in used), count))
