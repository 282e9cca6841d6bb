"""Llama 2's prompt format, implemented a second time for comparison with the emulator's code.

The code follows `chat_completion` in meta-llama/llama, `llama/generation.py` at 689c7f261b9c.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from workers_ai_emulator.prompts.messages import Message


class DialogRefused(Exception):
    """Meta's code rejects the dialog, for example because the roles do not alternate."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of the prompt: a BOS token, a text, and an EOS token if `ends` is true."""

    text: str
    ends: bool


def token_ids(
    dialog: Sequence[Message], encode: Callable[[str], list[int]], *, bos: int, eos: int
) -> list[int]:
    """Returns the token ids of the prompt. Raises DialogRefused if Meta's code rejects the dialog.

    `encode`: returns the tokens of a text, in which it reads special tokens as plain text.
    """
    ids: list[int] = []
    for segment in segments(dialog):
        ids += [bos, *encode(segment.text), *([eos] if segment.ends else [])]
    return ids


def segments(dialog: Sequence[Message]) -> list[Segment]:
    """Returns the segments of the prompt. Raises DialogRefused if Meta's code rejects it."""
    turns = _with_system_in_first_turn([(message.role, message.content) for message in dialog])
    for i, (role, _) in enumerate(turns):
        if role != ("assistant" if i % 2 else "user"):
            raise DialogRefused(f"turn {i} is one of {role!r}")
    if len(turns) % 2 == 0:
        raise DialogRefused("the last turn is not the user's")
    texts = [content.strip() for _, content in turns]
    answered = [
        Segment("[INST] " + texts[i] + " [/INST] " + texts[i + 1] + " ", ends=True)
        for i in range(0, len(texts) - 1, 2)
    ]
    return [*answered, Segment("[INST] " + texts[-1] + " [/INST]", ends=False)]


def _with_system_in_first_turn(turns: list[tuple[str, str]]) -> list[tuple[str, str]]:
    if not turns or turns[0][0] != "system":
        return turns
    if len(turns) == 1:
        raise DialogRefused("there is no message after the system's")
    system, (role, content) = turns[0][1], turns[1]
    return [(role, "<<SYS>>\n" + system + "\n<</SYS>>\n\n" + content), *turns[2:]]
