"""Defines messages, and converts a prompt to messages, without a chat template.

npm `@cloudflare/ai` 1.0 joins the messages of a conversation into one prompt, in the prompt format
of the requested model. The weights that compute the completion may need another prompt format. So
the emulator extracts the messages from the prompt, and renders them with the chat template of the
weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from workers_ai_emulator.prompts.tools import ToolCall

# The system message that the service adds before a `prompt` that has no system message [npm
# @cloudflare/ai 1.0.53, dist/templates.js].
DEFAULT_SYSTEM_TEXT = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation: its role, such as `user`, and its text.

    `tool_calls`: the tools that the model called in an assistant message. `tool_call_id`: in a
    message with the result of a tool, the id of the call, if the client sent one. `name`: the name
    of the tool or of the author, if the client sent one.
    """

    role: str
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None

    @property
    def num_characters(self) -> int:
        texts = [self.role, self.content, self.name, self.tool_call_id]
        for call in self.tool_calls:
            texts += [call.name, call.arguments, call.id]
        return sum(len(text) for text in texts if text)


def wrap_prompt(prompt: str) -> list[Message]:
    """Returns the service's default system message, and `prompt` as a user message."""
    return [Message("system", DEFAULT_SYSTEM_TEXT), Message("user", prompt)]


def parse_flattened(prompt: str) -> list[Message] | None:
    """Returns the messages that npm `@cloudflare/ai` 1.0 has joined into the prompt.

    Returns None if the prompt is in none of the SDK's formats, or in a format that does not mark
    where messages begin.
    """
    if messages := parse_llama2(prompt):
        return messages
    return next(filter(None, (form.parse(prompt) for form in _FORMATS)), None)


def parse_llama2(prompt: str) -> list[Message] | None:
    """Returns the messages of a prompt in Llama 2's or Mistral's format; None for other formats."""
    if not _FLATTENED.match(prompt):
        return None
    messages: list[Message] = []
    for turn in _TURN_START.split(prompt)[1:]:
        user, closed, answer = turn.partition("[/INST]")
        # npm @cloudflare/ai 1.0.12 to 1.0.29 write the system message in its own [INST] block.
        has_only_system = user.endswith("<</SYS>>")
        if system := _SYSTEM_BLOCK.match(user):
            messages.append(Message("system", system[1]))
            user = user[system.end() :]
        if (closed or user.strip()) and not has_only_system:
            messages.append(Message("user", user.strip()))
        if answer := answer.strip():
            messages.append(Message("assistant", answer.removesuffix("</s>").rstrip()))
    return messages


# In these patterns, a fixed text such as `<s>` separates any two unbounded repeats such as `\s*`.
# Two adjacent unbounded repeats could take quadratic time to match a text with many spaces.
_FLATTENED = re.compile(r"\s*+(<s>\s*+)?\[INST\].*\[/INST\]", re.DOTALL)
_TURN_START = re.compile(r"(?:<s>\s*+)?\[INST\]")
_SYSTEM_BLOCK = re.compile(r"\s*<<SYS>>\n?(.*?)\n?<</SYS>>\s*", re.DOTALL)


class _Format:
    """A prompt format that has a header before every message, such as `User: `.

    A prompt ends with the assistant's header, after which the model writes its answer. `headers`:
    maps each header to the role of its message. `end`: the text after every message.
    `has_bare_system`: whether a prompt may begin with a system message, which then has no header.
    """

    def __init__(
        self, headers: Mapping[str, str], end: str, *, has_bare_system: bool = False
    ) -> None:
        self._roles = {header.strip(): role for header, role in headers.items()}
        self._header = re.compile(f"(?:<s>)?({'|'.join(map(re.escape, headers))})")
        self._last = next(h.strip() for h, role in headers.items() if role == "assistant")
        self._end = end.strip()
        self._has_bare_system = has_bare_system

    def parse(self, prompt: str) -> list[Message] | None:
        """Returns the messages of a prompt in this format; None for a prompt in another format."""
        text = prompt.rstrip()
        if not text.endswith(self._last):
            return None
        before, *parts = self._header.split(text.removesuffix(self._last))
        headers, contents = parts[::2], parts[1::2]
        if not headers or (before and not self._has_bare_system):
            return None
        system = [Message("system", before.rstrip())] if before else []
        turns = zip(headers, contents, strict=True)
        return system + [Message(self._roles[h.strip()], self._content(c)) for h, c in turns]

    def _content(self, text: str) -> str:
        return text.rstrip().removesuffix(self._end).strip()


_FORMATS = (
    _Format(
        {
            "<|im_start|>system\n": "system",
            "<|im_start|>user\n": "user",
            "<|im_start|>assistant\n": "assistant",
        },
        end="<|im_end|>\n",
    ),
    _Format(  # the format of Zephyr and TinyLlama
        {"<|system|>\n": "system", "<|user|>\n": "user", "<|assistant|>\n": "assistant"},
        end="</s>\n",
    ),
    _Format({"GPT4 User: ": "user", "GPT4 Assistant:": "assistant"}, end="<|end_of_turn|>"),
    _Format({"Human: ": "user", "Assistant: ": "assistant"}, end="<|end_of_turn|>"),
    _Format(
        {"### System:\n": "system", "### User:\n": "user", "### Assistant:\n": "assistant"},
        end="\n\n",
    ),
    _Format(
        {"### Instruction:\n": "user", "### Response:\n": "assistant"},
        end="\n",
        has_bare_system=True,
    ),
    _Format({"User: ": "user", "Assistant: ": "assistant"}, end="\n", has_bare_system=True),
)
