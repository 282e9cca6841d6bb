"""From messages to prompt tokens, by the template that the weights were trained on.

Only a template may write special tokens: what a user typed is always tokenised as plain text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from itertools import islice, pairwise
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

# What the service puts before a bare `prompt` [npm @cloudflare/ai 1.0.53, dist/templates.js].
DEFAULT_SYSTEM_TEXT = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)


class ChatTemplate(Protocol):
    """How one model wants its prompt."""

    is_isolated: bool  # rendering waits for another process, so it is not for an event loop

    def render(self, messages: Sequence[Message]) -> list[int]:
        """The prompt's tokens for a conversation."""

    def render_prompt(self, prompt: str) -> list[int]:
        """The prompt's tokens for a bare prompt, with the service's default system text."""

    def render_raw(self, prompt: str) -> list[int]:
        """The tokens of a prompt that the user has templated already."""

    def render_flattened(self, prompt: str) -> list[int]:
        """The tokens of a prompt that an old SDK has made, in the format of the model's name."""

    def close(self) -> None:
        """Give back what rendering took. May be called again."""


class Mark(Enum):
    """A special token that a template sets between texts, as it is written in Llama 2's format."""

    BOS = "<s>"
    EOS = "</s>"


class Llama2Template:
    """Llama 2's own format, exactly.

    A conversation that Meta's reference takes (an optional system message, then user and assistant
    in turns, the user last) is rendered as meta-llama/llama `generation.py` does. One that it
    refuses follows Cloudflare's SDK (npm @cloudflare/ai 1.2.2), since the service answered those.
    """

    is_isolated = False

    def __init__(self, vocabulary: Vocabulary) -> None:
        assert vocabulary.bos is not None and vocabulary.eos is not None
        self._vocabulary = vocabulary
        self._bos = vocabulary.bos
        self._eos = vocabulary.eos

    def render(self, messages: Sequence[Message]) -> list[int]:
        tokens: list[int] = []
        text = ""
        for part in [*self.parts(messages), None]:
            if isinstance(part, str):
                text += part
                continue
            tokens += self._vocabulary.tokenize(text) if text else []
            text = ""
            if part is not None:
                tokens.append(self._bos if part is Mark.BOS else self._eos)
        return tokens

    def render_prompt(self, prompt: str) -> list[int]:
        return self.render(wrap_prompt(prompt))

    def render_raw(self, prompt: str) -> list[int]:
        tokens = self._vocabulary.tokenize(prompt, parse_special=True)
        return tokens if tokens[:1] == [self._bos] else [self._bos, *tokens]

    def render_flattened(self, prompt: str) -> list[int]:
        return self.render_raw(prompt)

    def close(self) -> None:
        pass

    def parts(self, messages: Sequence[Message]) -> list[str | Mark]:
        """The prompt as texts and marks; begins with a BOS mark."""
        if (dialog := _fold_system(messages)) is not None:
            return _reference_parts(dialog)
        return _sdk_parts(messages)


def _fold_system(messages: Sequence[Message]) -> list[Message] | None:
    """The dialog with a first system text put before the first user's; None if it is no dialog."""
    dialog = list(messages)
    if len(dialog) > 1 and dialog[0].role == "system":
        system, user = dialog[:2]
        text = f"<<SYS>>\n{system.content}\n<</SYS>>\n\n{user.content}"
        dialog[:2] = [Message(user.role, text)]
    alternates = all(m.role == ("user", "assistant")[i % 2] for i, m in enumerate(dialog))
    return dialog if alternates and len(dialog) % 2 == 1 else None


def _reference_parts(dialog: Sequence[Message]) -> list[str | Mark]:
    parts: list[str | Mark] = []
    for user, answer in zip(dialog[::2], dialog[1::2], strict=False):
        text = f"[INST] {user.content.strip()} [/INST] {answer.content.strip()} "
        parts += [Mark.BOS, text, Mark.EOS]
    return [*parts, Mark.BOS, f"[INST] {dialog[-1].content.strip()} [/INST]"]


def _sdk_parts(messages: Sequence[Message]) -> list[str | Mark]:
    """Roles it does not know are dropped, nothing is stripped, runs of one role are joined.

    Where the SDK's text begins without `<s>` the service's tokenizer added it; whether it doubled
    one that was there is not known, so there is always one.
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
    """A GGUF file's own chat template, run by what `renders` makes of its source.

    In what users typed, every character that a special token begins or ends with is hidden behind
    an unused one while the template runs, and mended after the template's own tokens have been
    found: none can begin or end in a user's text. A template that looks into a text for a tag finds
    it all the same. Raises ValueError if it does not parse.
    """

    def __init__(
        self,
        source: str,
        vocabulary: Vocabulary,
        renders: Callable[[str], Renderer] = JinjaRenderer,
    ) -> None:
        self._vocabulary = vocabulary
        self._names = {token: name for name, token in vocabulary.special_tokens.items()}
        names = sorted(filter(None, vocabulary.special_tokens), key=len, reverse=True)
        self._edges = "".join(sorted({edge for name in names for edge in (name[0], name[-1])}))
        self._special = re.compile("|".join(map(re.escape, names)) or r"(?!)")
        self._source = source
        self._renderer = renders(source)
        self.is_isolated = self._renderer.is_isolated

    def render(self, messages: Sequence[Message]) -> list[int]:
        """The prompt's tokens. Raises RequestRejected where the template refuses.

        One that knows no system messages gets the text of a first one before the first user's.
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
        return self._with_bos(self._vocabulary.tokenize(prompt, parse_special=True))

    def render_flattened(self, prompt: str) -> list[int]:
        """The conversation is rendered anew, or a text in which none is found, as a user's."""
        if messages := parse_flattened(prompt):
            return self.render(messages)
        if self._special.search(prompt):
            return self.render_raw(prompt)
        return self.render([Message("user", prompt)])

    def close(self) -> None:
        self._renderer.close()

    def _tokens(self, messages: Sequence[Message]) -> list[int]:
        typed = "".join(m.role + m.content for m in messages)
        unused = _unused_characters(self._source + typed, len(self._edges))
        hide, mend = str.maketrans(self._edges, unused), str.maketrans(unused, self._edges)
        conversation = Conversation(
            messages=[
                {"role": m.role.translate(hide), "content": m.content.translate(hide)}
                for m in messages
            ],
            bos_token=self._name(self._vocabulary.bos),
            eos_token=self._name(self._vocabulary.eos),
            hidden=dict(zip(self._edges, unused, strict=True)),
        )
        try:
            text = self._renderer.render(conversation)
        except TemplateError as error:  # it may cite what users typed
            raise type(error)(str(error).translate(mend)) from error
        return self._with_bos(self._split(text, mend))

    def _split(self, text: str, mend: Mapping[int, int]) -> list[int]:
        """The tokens of a rendered text: special ones where it has their names, plain ones else."""
        tokens: list[int] = []
        end = 0
        for match in self._special.finditer(text):
            tokens += self._plain(text[end : match.start()].translate(mend))
            tokens.append(self._vocabulary.special_tokens[match[0]])
            end = match.end()
        return tokens + self._plain(text[end:].translate(mend))

    def _name(self, token: int | None) -> str:
        return "" if token is None else self._names.get(token, "")

    def _plain(self, text: str) -> list[int]:
        return self._vocabulary.tokenize(text) if text else []

    def _with_bos(self, tokens: list[int]) -> list[int]:
        bos = self._vocabulary.bos
        if bos is None or tokens[:1] == [bos] or (tokens and not self._vocabulary.adds_bos):
            return tokens
        return [bos, *tokens]


def wrap_prompt(prompt: str) -> list[Message]:
    """The conversation that the service makes of a bare prompt."""
    return [Message("system", DEFAULT_SYSTEM_TEXT), Message("user", prompt)]


def _merge_system(messages: Sequence[Message]) -> list[Message] | None:
    """The first two messages as one of a user; None if they are not system and user."""
    match messages:
        case [Message(role="system") as system, Message(role="user") as user, *others]:
            return [Message("user", f"{system.content}\n\n{user.content}"), *others]
    return None


def _unused_characters(text: str, count: int) -> str:
    """Characters that do not stand in `text`, private ones first."""
    used = set(text)
    return "".join(islice((c for c in map(chr, range(0xE000, 0x110000)) if c not in used), count))
