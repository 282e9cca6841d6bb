"""Converts messages to prompt tokens, with the model's chat template.

Only the template can add special tokens: the texts of the messages are tokenised as plain text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from itertools import chain, islice, pairwise
from operator import add
from types import MappingProxyType
from typing import Any, Protocol

from jinja2 import TemplateError

from workers_ai_emulator.engine.errors import RequestRejected
from workers_ai_emulator.engine.types import Vocabulary
from workers_ai_emulator.json_values import texts_of, translated
from workers_ai_emulator.prompts.conversation import (
    as_values,
    describe_tools,
    link_results,
    shorten_ids,
    split_calls,
)
from workers_ai_emulator.prompts.messages import (
    Message,
    parse_flattened,
    parse_llama2,
    wrap_prompt,
)
from workers_ai_emulator.prompts.output_formats.detection import describes_tools, format_of
from workers_ai_emulator.prompts.output_formats.hermes import HermesFormat
from workers_ai_emulator.prompts.output_formats.output_format import OutputFormat
from workers_ai_emulator.prompts.template import (
    Conversation,
    JinjaRenderer,
    LimitExceeded,
    Renderer,
)
from workers_ai_emulator.prompts.tools import Tool

_NO_VARIABLES: Mapping[str, Any] = MappingProxyType({})


class ChatTemplate(Protocol):
    """Converts conversations and prompts to prompt tokens, in the prompt format of one model.

    All methods whose names begin with `render` return the tokens of the whole prompt, and raise
    RequestRejected if the template rejects the conversation. `is_isolated`: whether the template or
    its tokenizer runs in a subprocess. If so, the `render` methods block, so they must not be
    called on the event loop's thread. They then raise CapacityExceeded if other prompts keep the
    subprocess busy, and EngineError if it cannot be started or the model is unloaded.
    `output_format`: how the model writes tool calls and its reasoning.
    """

    is_isolated: bool
    output_format: OutputFormat

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        variables: Mapping[str, Any] = _NO_VARIABLES,
    ) -> list[int]:
        """Returns the prompt tokens of a conversation.

        `tools`: the tools that the prompt describes to the model. `variables`: values for the
        template, such as `enable_thinking`.
        """

    def render_prompt(self, prompt: str, variables: Mapping[str, Any] = _NO_VARIABLES) -> list[int]:
        """Returns the tokens of the default system message and of `prompt` as a user message.

        If `prompt` already contains messages in Llama 2's format, the class JinjaTemplate extracts
        these messages, and returns their tokens instead.
        """

    def render_raw(self, prompt: str) -> list[int]:
        """Returns the tokens of a prompt to which the client has applied a chat template itself."""

    def render_flattened(self, prompt: str) -> list[int]:
        """Returns the tokens of a prompt into which an old SDK may have joined several messages."""

    def close(self) -> None:
        """Ends the subprocesses of the template, if any. May be called more than once."""


class Tokenizer(Protocol):
    """Tokenises texts with the vocabulary of one model. Any thread may call its methods.

    `is_isolated`: whether the tokenizer runs in a subprocess. If so, `tokenize` blocks, so it must
    not be called on the event loop's thread.
    """

    is_isolated: bool

    def tokenize(self, texts: Sequence[str], *, parse_special: bool = False) -> list[list[int]]:
        """Returns the tokens of each text.

        `parse_special`: whether names of special tokens in a text, such as `</s>`, become special
        tokens. Raises RequestRejected if the texts cannot be tokenised.
        """

    def close(self) -> None:
        """Ends the subprocess of the tokenizer, if any. May be called more than once."""


class DirectTokenizer:
    """Tokenises in the server's process, without a subprocess."""

    is_isolated = False

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary

    def tokenize(self, texts: Sequence[str], *, parse_special: bool = False) -> list[list[int]]:
        return [self._vocabulary.tokenize(text, parse_special=parse_special) for text in texts]

    def close(self) -> None:
        pass


class Mark(Enum):
    """The special tokens that separate the texts of a Llama 2 prompt."""

    BOS = "<s>"
    EOS = "</s>"


class Llama2Template:
    """Renders conversations in Llama 2's prompt format.

    Meta's code (meta-llama/llama, `generation.py`) accepts an optional system message, then
    alternating user and assistant messages, and a user message at the end. Conversations of this
    form are rendered exactly as by Meta's code. All other conversations, which the service also
    accepted, are rendered as by Cloudflare's SDK (npm @cloudflare/ai 1.2.2).
    """

    def __init__(self, vocabulary: Vocabulary, tokenizer: Tokenizer | None = None) -> None:
        assert vocabulary.bos is not None and vocabulary.eos is not None
        self._tokenizer = tokenizer or DirectTokenizer(vocabulary)
        self.is_isolated = self._tokenizer.is_isolated
        self._bos = vocabulary.bos
        self._eos = vocabulary.eos
        self.output_format: OutputFormat = HermesFormat()

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        variables: Mapping[str, Any] = _NO_VARIABLES,
    ) -> list[int]:
        parts = _join_texts(self.parts(describe_tools(messages, tools)))
        texts = [part for part in parts if isinstance(part, str)]
        tokens_of_texts = iter(self._tokenizer.tokenize(texts))
        marks = {Mark.BOS: [self._bos], Mark.EOS: [self._eos]}
        lists = (next(tokens_of_texts) if isinstance(p, str) else marks[p] for p in parts)
        return list(chain.from_iterable(lists))

    def render_prompt(self, prompt: str, variables: Mapping[str, Any] = _NO_VARIABLES) -> list[int]:
        return self.render(wrap_prompt(prompt))

    def render_raw(self, prompt: str) -> list[int]:
        (tokens,) = self._tokenizer.tokenize([prompt], parse_special=True)
        return tokens if tokens[:1] == [self._bos] else [self._bos, *tokens]

    def render_flattened(self, prompt: str) -> list[int]:
        return self.render_raw(prompt)

    def close(self) -> None:
        self._tokenizer.close()

    def parts(self, messages: Sequence[Message]) -> list[str | Mark]:
        """Returns the prompt as a list of texts and special tokens; the first item is BOS."""
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
    """Inserts a leading system message into the first user message, as Meta's code does.

    Returns the new messages. Returns None if user and assistant messages do not alternate, or if
    the last message is not a user message.
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
    """Returns the Llama 2 prompt that Cloudflare's SDK creates from the messages.

    Messages with unknown roles are dropped, spaces around texts are kept, and consecutive messages
    may have the same role. The prompt always begins with exactly one `<s>`: the service added a
    missing `<s>`, and we assume that the service added no second `<s>`.
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
    """Renders conversations with a Jinja chat template, from a GGUF file or from the user.

    The text of a message must not become a special token such as `</s>`. So the messages are masked
    before rendering: unused characters replace the characters with which special tokens begin or
    end, such as `<` and `>`. All special tokens in the rendered prompt then come from the template.
    The text between the special tokens is unmasked and tokenised as plain text.

    `make_renderer`: a function that returns a renderer for the template's source. `tokenizer`: a
    tokenizer to use instead of the tokenizer of `vocabulary`. The constructor raises ValueError if
    the template does not compile.
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
        self.output_format = format_of(source)
        self._has_tools = describes_tools(source)
        self._renderer = make_renderer(source)
        self.is_isolated = self._renderer.is_isolated or self._tokenizer.is_isolated

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        variables: Mapping[str, Any] = _NO_VARIABLES,
    ) -> list[int]:
        """Returns the prompt tokens of a conversation.

        Some templates reject system messages, or results of tools without a call. If the template
        rejects a conversation, renders it again in the forms of `_alternatives`. Raises
        RequestRejected if the template rejects these, too, if rendering exceeds a limit, or if the
        arguments of a tool call are not a JSON object.
        """
        messages = self._prepared(messages, tools)
        offered = [tool.as_openai() for tool in tools] if self._has_tools else []
        rejections: list[TemplateError] = []
        for form in chain([messages], _alternatives(messages)):
            try:
                return self._tokens(form, offered, variables)
            except LimitExceeded as error:
                raise RequestRejected(str(error)) from error
            except TemplateError as error:
                rejections.append(error)
        raise RequestRejected(str(rejections[0])) from rejections[0]

    def render_prompt(self, prompt: str, variables: Mapping[str, Any] = _NO_VARIABLES) -> list[int]:
        messages = parse_llama2(prompt) or wrap_prompt(prompt)
        return self.render(messages, variables=variables)

    def render_raw(self, prompt: str) -> list[int]:
        if messages := parse_llama2(prompt):
            return self.render(messages)
        (tokens,) = self._tokenizer.tokenize([prompt], parse_special=True)
        return self._with_bos(tokens)

    def render_flattened(self, prompt: str) -> list[int]:
        """Returns the tokens of a prompt into which an old SDK may have joined several messages.

        If the prompt has one of the SDK's formats, extracts the messages and renders them. A prompt
        in another format that contains special tokens of this model is tokenised without the chat
        template. Any other prompt is rendered as one user message.
        """
        if messages := parse_flattened(prompt):
            return self.render(messages)
        if self._special.search(prompt):
            return self.render_raw(prompt)
        return self.render([Message("user", prompt)])

    def close(self) -> None:
        self._renderer.close()
        self._tokenizer.close()

    def _prepared(self, messages: Sequence[Message], tools: Sequence[Tool]) -> list[Message]:
        """Returns the messages, with tool calls and results as the template accepts them."""
        if not self._has_tools:
            return describe_tools(messages, tools)
        prepared = link_results(messages)
        if "alphanumeric strings with length 9" in self._source:  # Mistral's templates
            prepared = shorten_ids(prepared)
        if self.output_format.has_single_calls:
            prepared = split_calls(prepared)
        return prepared

    def _tokens(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        variables: Mapping[str, Any],
    ) -> list[int]:
        values = [[as_values(message) for message in messages], [*tools], dict(variables)]
        unused = _unused_characters([self._source, *texts_of(values)], len(self._edges))
        mask, unmask = str.maketrans(self._edges, unused), str.maketrans(unused, self._edges)
        masked = [translated(value, mask) for value in values]
        conversation = Conversation(
            messages=masked[0],
            bos_token=self._name(self._vocabulary.bos),
            eos_token=self._name(self._vocabulary.eos),
            masked=dict(zip(self._edges, unused, strict=True)),
            tools=masked[1] or None,
            variables=masked[2],
        )
        try:
            rendered = self._renderer.render(conversation)
        except TemplateError as error:  # the error text may contain parts of masked messages
            raise type(error)(str(error).translate(unmask)) from error
        return self._with_bos(self._tokenize(rendered, unmask))

    def _tokenize(self, text: str, unmask: Mapping[int, int]) -> list[int]:
        """Returns the tokens of a rendered prompt.

        Finds the special tokens in `text`. Tokenises the text between the special tokens as plain
        text, after restoring the characters that were replaced in messages before rendering.
        `unmask`: maps each replacing character to the original character.
        """
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
        """Returns the tokens of each text, and an empty list for an empty text.

        Empty texts are not tokenised, because llama.cpp may add a space to them.
        """
        tokens = iter(self._tokenizer.tokenize([text for text in texts if text]))
        return [next(tokens) if text else [] for text in texts]

    def _with_bos(self, tokens: list[int]) -> list[int]:
        bos = self._vocabulary.bos
        if bos is None or tokens[:1] == [bos] or (tokens and not self._vocabulary.adds_bos):
            return tokens
        return [bos, *tokens]


def _alternatives(messages: Sequence[Message]) -> Iterator[list[Message]]:
    """Yields the conversation in other forms with the same meaning.

    In the first, a leading system message is a part of the next user message. In the second,
    results of tools are user messages, if the conversation has results but no calls.
    """
    if merged := _merge_system(messages):
        yield merged
    has_calls = any(message.tool_calls for message in messages)
    if not has_calls and any(message.role == "tool" for message in messages):
        yield describe_tools(messages, ())


def _merge_system(messages: Sequence[Message]) -> list[Message] | None:
    """Merges a leading system message and the next user message into one user message.

    Returns None if the conversation does not begin with a system and a user message.
    """
    match messages:
        case [Message(role="system") as system, Message(role="user") as user, *others]:
            return [Message("user", f"{system.content}\n\n{user.content}"), *others]
    return None


def _unused_characters(texts: Iterable[str], count: int) -> str:
    """Returns `count` characters that occur in no text. The search begins at U+E000."""
    used = set(chain.from_iterable(texts))
    return "".join(islice((c for c in map(chr, range(0xE000, 0x110000)) if c not in used), count))
