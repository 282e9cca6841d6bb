"""Writes the token counts of a response: the value of its key `usage`."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from datetime import date

from workers_ai_emulator.engine.types import Usage
from workers_ai_emulator.models.price import Price
from workers_ai_emulator.models.spec import ModelSpec
from workers_ai_emulator.tasks.response_formats.response_format import Json
from workers_ai_emulator.wire.envelope import json_text

# The emulator always sends 0, although a model may reuse cached tokens: which tokens are cached
# depends on earlier requests, and equal requests must get equal bytes.
CACHED_TOKENS = {"cached_tokens": 0}
_HAS_NEURONS_SINCE = date(2026, 8, 1)


def counts(usage: Usage) -> Json:
    """Returns the three token counts that all models have."""
    return {
        "prompt_tokens": usage.num_prompt_tokens,
        "completion_tokens": usage.num_completion_tokens,
        "total_tokens": usage.num_total_tokens,
    }


def vllm_counts(usage: Usage) -> Json:
    """Returns the three token counts in the order of vLLM."""
    return {
        "prompt_tokens": usage.num_prompt_tokens,
        "total_tokens": usage.num_total_tokens,
        "completion_tokens": usage.num_completion_tokens,
    }


@dataclass(frozen=True, slots=True)
class UsageDetails:
    """Writes the token counts of a model, with the additional keys that not all models have.

    `price`: the price for the key `neurons`. `has_details`: whether there are additional keys:
    `prompt_tokens_details` [recorded since 2026-04] and `neurons` [recorded since 2026-08]. They
    are absent for the models that the service retired before it sent them, in 2026-05.
    """

    price: Price
    has_details: bool

    @classmethod
    def of(cls, spec: ModelSpec) -> UsageDetails:
        return cls(spec.price, spec.retired_on is None or spec.retired_on > _HAS_NEURONS_SINCE)

    def write(self, usage: Usage) -> Json:
        """Returns the token counts with the additional keys, in their recorded order."""
        return self.with_neurons(usage, self.neurons(usage))

    def neurons(self, usage: Usage) -> float:
        """Returns the cost in neurons, with the rounding errors of the service.

        For completions, the service computes with 32-bit numbers [inferred: the recorded costs are
        32-bit numbers].
        """
        prompt = usage.num_prompt_tokens * _float32(self.price.prompt / 1e6)
        completion = usage.num_completion_tokens * _float32(self.price.completion / 1e6)
        return _float32(_float32(prompt) + _float32(completion))

    def headers(self, usage: Usage) -> dict[str, str]:
        """Returns the header `cf-ai-neurons`, the cost with two decimals [recorded, 2026].

        Models without the key `neurons` have no such header.
        """
        return {"cf-ai-neurons": f"{self.neurons(usage):.2f}"} if self.has_details else {}

    def with_neurons(self, usage: Usage, neurons: float) -> Json:
        """Returns the token counts with the additional keys. `neurons`: the cost."""
        cost = {"neurons": int(neurons) if neurons.is_integer() else neurons}
        return self.without_neurons(usage) | (cost if self.has_details else {})

    def without_neurons(self, usage: Usage) -> Json:
        """Returns the token counts with the additional keys that OpenAI's API has too."""
        details = {"prompt_tokens_details": CACHED_TOKENS}
        return counts(usage) | (details if self.has_details else {})


class EventCounts:
    """Writes the token counts of each event of a stream, and their sum."""

    def __init__(self, details: UsageDetails) -> None:
        self._details = details
        self._num_prompt = self._num_completion = 0
        self._neurons = 0.0
        self._written: dict[Usage, tuple[str, float]] = {}

    def next(self, num_prompt: int, num_completion: int) -> str:
        """Returns the JSON with the counts of an event."""
        usage = Usage(num_prompt, num_completion)
        text, neurons = self._written.get(usage) or self._write(usage)
        self._num_prompt += num_prompt
        self._num_completion += num_completion
        self._neurons += neurons
        return text

    def sum(self, usage: Usage) -> Json:
        """Returns the counts of the completion, which are `usage`.

        The neurons are the sum over all events, with its rounding errors, as recorded. But if an
        upstream server has reported other counts than those of the events, they are computed from
        the reported counts.
        """
        counted = (self._num_prompt, self._num_completion)
        if counted != (usage.num_prompt_tokens, usage.num_completion_tokens):
            return self._details.write(usage)
        return self._details.with_neurons(usage, self._neurons)

    def _write(self, usage: Usage) -> tuple[str, float]:
        """Writes the counts, and stores the JSON, because most events of a stream are equal."""
        neurons = self._details.neurons(usage)
        text = json_text(self._details.with_neurons(usage, neurons))
        self._written[usage] = text, neurons
        return text, neurons


def _float32(value: float) -> float:
    """Rounds to the nearest 32-bit floating-point number."""
    rounded: float = struct.unpack("f", struct.pack("f", value))[0]
    return rounded
