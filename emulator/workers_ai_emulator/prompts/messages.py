"""Messages, and the prompts that old SDKs flattened them to.

`@cloudflare/ai` 1.0 sends no messages but one text, in the format of the model it names. That means
nothing to weights trained on another format, so the messages are read out of it again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


def parse_flattened(prompt: str) -> list[Message] | None:
    """The messages in a prompt of any of that SDK's formats; None if it is in none.

    Formats that leave no trace of the turns cannot be read: `bare`, and `sqlcoder`'s.
    """
    if messages := parse_llama2(prompt):
        return messages
    return next(filter(None, (form.parse(prompt) for form in _FORMATS)), None)


def parse_llama2(prompt: str) -> list[Message] | None:
    """The messages in a prompt of Llama 2's format, or Mistral's; None if it is none."""
    if not _FLATTENED.match(prompt):
        return None
    messages: list[Message] = []
    for turn in _TURN_START.split(prompt)[1:]:
        user, closed, answer = turn.partition("[/INST]")
        has_only_system = user.endswith("<</SYS>>")  # SDK 1.0.12 to 1.0.29
        if system := _SYSTEM_BLOCK.match(user):
            messages.append(Message("system", system[1]))
            user = user[system.end() :]
        if (closed or user.strip()) and not has_only_system:
            messages.append(Message("user", user.strip()))
        if answer := answer.strip():
            messages.append(Message("assistant", answer.removesuffix("</s>").rstrip()))
    return messages


# No two unbounded repeats meet: a long run of spaces must not take quadratic time.
_FLATTENED = re.compile(r"\s*+(<s>\s*+)?\[INST\].*\[/INST\]", re.DOTALL)
_TURN_START = re.compile(r"(?:<s>\s*+)?\[INST\]")
_SYSTEM_BLOCK = re.compile(r"\s*<<SYS>>\n?(.*?)\n?<</SYS>>\s*", re.DOTALL)


class _Format:
    """A format in which a header stands before every turn, and one for the answer at the end.

    `headers` gives each header's role. `end` stands after every turn. With `has_bare_system` what
    stands before the first header is the system's text.
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
        """The messages; None unless it begins and ends as the format does."""
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
    _Format(  # Zephyr's, and TinyLlama's
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
