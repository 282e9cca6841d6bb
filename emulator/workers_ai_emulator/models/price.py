"""The price of a model in neurons, the unit in which Workers AI bills calls."""

from __future__ import annotations

from dataclasses import dataclass

from workers_ai_emulator.engine.types import Usage

# 1,000 neurons cost 0.011 USD [documented, developers.cloudflare.com/workers-ai/platform/pricing].
_NEURONS_PER_USD = 1000 / 0.011


@dataclass(frozen=True, slots=True)
class Price:
    """A model's price: neurons per million prompt tokens, and per million completion tokens."""

    prompt: float
    completion: float

    @classmethod
    def in_usd(cls, prompt: float, completion: float) -> Price:
        """Converts a price in USD per million prompt tokens, and per million completion tokens."""
        return cls(prompt * _NEURONS_PER_USD, completion * _NEURONS_PER_USD)

    @property
    def prompt_usd(self) -> float:
        """The price in USD per million prompt tokens."""
        return self.prompt / _NEURONS_PER_USD

    @property
    def completion_usd(self) -> float:
        """The price in USD per million completion tokens."""
        return self.completion / _NEURONS_PER_USD

    def of(self, usage: Usage) -> float:
        """Returns the cost of a call in neurons. `usage`: the call's token counts.

        Only with this order of operations, the recorded costs of embeddings are equal in all bits.
        """
        prompt = usage.num_prompt_tokens * (self.prompt / 1e6)
        return prompt + usage.num_completion_tokens * (self.completion / 1e6)
