"""Refuses messages that the inference server of a model refuses."""

from __future__ import annotations

import json
from collections.abc import Sequence

from workers_ai_emulator.models.traits import Traits
from workers_ai_emulator.prompts.messages import Message
from workers_ai_emulator.wire.errors import refused_by_engine

_ARGUMENTS = "Assistant tool call function.arguments must be"


def check_messages(messages: Sequence[Message], traits: Traits) -> None:
    """Raises WireError if the service's inference server would refuse the messages.

    SGLang refuses a tool call whose arguments are not the text of a JSON object, even an empty text
    [recorded for glm-5.2, 2026-09-13, and glm-5.3-flash, 2026-10; the text for JSON that is not an
    object is that of SGLang's code]. The chat template of qwen3.8-27b accepts a system message only
    as the first message [recorded, 2026-09-13].
    """
    if traits.server == "sglang":
        for message in messages:
            for call in message.tool_calls:
                _check_arguments(call.arguments)
    if traits.needs_system_first and any(message.role == "system" for message in messages[1:]):
        raise refused_by_engine("System message must be at the beginning.")


def _check_arguments(arguments: str) -> None:
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        raise refused_by_engine(f"{_ARGUMENTS} valid JSON.") from None
    if not isinstance(value, dict):
        raise refused_by_engine(f"{_ARGUMENTS} a JSON object.")
