"""Tests which sampler a request gets, and which token the greedy sampler chooses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from workers_ai_emulator.engine.sampler import GreedySampler
from workers_ai_emulator.engine.types import SamplingParams

GREEDY = SamplingParams(temperature=0.0)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"seed": 7},
        {"top_k": 40, "top_p": 0.9},
        {"repetition_penalty": 1.0},
        {"repetition_penalty": 0.0},  # allowed by the schema, without effect
        {"temperature": -1.0},
    ],
)
def test_the_greedy_sampler_suits_parameters_that_select_the_likeliest_token(
    changes: dict[str, Any],
) -> None:
    assert GreedySampler.suits(replace(GREEDY, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 0.01},
        {"repetition_penalty": 1.1},
        {"frequency_penalty": 0.5},
        {"presence_penalty": -0.5},
    ],
)
def test_other_parameters_need_a_chain(changes: dict[str, Any]) -> None:
    assert not GreedySampler.suits(replace(GREEDY, **changes))


def test_the_greedy_sampler_takes_the_first_of_equally_likely_tokens() -> None:
    rows = np.array([[0.0, 2.0, 1.0], [3.0, 0.0, 3.0]], np.float32)
    sampler = GreedySampler(lambda row: rows[row])
    assert [sampler.sample(row) for row in (0, 1)] == [1, 0]
    sampler.close()
    sampler.close()
