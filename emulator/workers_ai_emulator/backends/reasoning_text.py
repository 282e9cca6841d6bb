"""Moves the reasoning of a completion into its text."""

from __future__ import annotations

from dataclasses import replace

from workers_ai_emulator.engine.types import Chunk, FinishReason


class ReasoningText:
    """Moves the reasoning of chunks into their text, between `<think>` and `</think>`.

    The service sends the reasoning of some models in this form. [inferred from the models' chat
    templates] Call `feed` for each chunk of a completion.
    """

    def __init__(self) -> None:
        self._is_open = False

    def feed(self, chunk: Chunk) -> Chunk:
        """Returns the chunk with its reasoning as a part of its text.

        The text `</think>` comes before the first text or tool call after the reasoning. It is
        missing if `max_tokens` has ended the completion during the reasoning.
        """
        before = ""
        if chunk.reasoning and not self._is_open:
            before, self._is_open = "<think>\n", True
        elif self._is_open and not chunk.reasoning and _is_after_reasoning(chunk):
            before, self._is_open = "\n</think>\n\n", False
        return replace(chunk, text=before + chunk.reasoning + chunk.text, reasoning="")


def _is_after_reasoning(chunk: Chunk) -> bool:
    is_end = chunk.finish_reason in (FinishReason.STOP, FinishReason.TOOL_CALLS)
    return bool(chunk.text or chunk.tool_call or is_end)
