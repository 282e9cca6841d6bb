"""Tests the price of calls in neurons, and the daily limit of neurons of an account."""

from __future__ import annotations

from datetime import date

import pytest
from workers_ai_emulator.engine.types import Usage
from workers_ai_emulator.middleware.neurons import NeuronBudget
from workers_ai_emulator.models.catalog import CATALOG
from workers_ai_emulator.models.price import Price
from workers_ai_emulator.models.spec import ADDED_PRICE
from workers_ai_emulator.wire.errors import WireError

from tests.server import FP16, INT8


class Calendar:
    """A calendar whose present day the test sets."""

    def __init__(self) -> None:
        self.day = date(2026, 5, 29)

    def __call__(self) -> date:
        return self.day


@pytest.mark.parametrize(
    ("price", "num_prompt", "num_completion", "neurons"),
    [
        (CATALOG[FP16].price, 1_000_000, 0, 50_505),
        (CATALOG[FP16].price, 0, 1_000_000, 606_061),
        (CATALOG[INT8].price, 1_000_000, 0, 11_161),
        (CATALOG[INT8].price, 0, 1_000_000, 24_215),
        (CATALOG[INT8].price, 24, 256, (24 * 11_161 + 256 * 24_215) / 1e6),
        (ADDED_PRICE, 1_000_000, 1_000_000, 50_505 + 606_061),
    ],
)
def test_a_call_costs_the_published_price(
    price: Price, num_prompt: int, num_completion: int, neurons: float
) -> None:
    assert price.of(Usage(num_prompt, num_completion)) == neurons


@pytest.mark.parametrize(
    ("model", "num_prompt", "num_completion", "recorded"),
    [
        ("@cf/meta/llama-3.3-70b-instruct-fp8-fast", 388, 63, 23.24979019165039),
        ("@cf/google/gemma-4-26b-a4b-it", 147, 16, 1.7727272510528564),
        ("@cf/google/gemma-4-26b-a4b-it", 147, 0, 1.3363635540008545),
        ("@cf/google/gemma-4-26b-a4b-it", 0, 1, 0.027272727340459824),
    ],
)
def test_a_call_costs_the_recorded_neurons(
    model: str, num_prompt: int, num_completion: int, recorded: float
) -> None:
    neurons = CATALOG[model].price.of(Usage(num_prompt, num_completion))
    assert neurons == pytest.approx(recorded, rel=1e-6)


def test_an_account_is_refused_once_its_budget_is_used() -> None:
    budget = NeuronBudget(10)
    budget.check("a")
    budget.use("a", 9.5)
    budget.check("a")
    budget.use("a", 0.5)
    with pytest.raises(WireError, match="you have used up"):
        budget.check("a")
    budget.check("b")


def test_the_counts_are_reset_on_the_next_day() -> None:
    calendar = Calendar()
    budget = NeuronBudget(1, calendar)
    budget.use("a", 2)
    with pytest.raises(WireError, match="you have used up"):
        budget.check("a")
    calendar.day = date(2026, 5, 30)
    budget.check("a")
    assert budget.used == {}


def test_a_reset_sets_the_counts_to_zero() -> None:
    budget = NeuronBudget(1)
    budget.use("a", 2)
    budget.reset()
    budget.check("a")


def test_without_a_limit_neurons_are_only_counted() -> None:
    budget = NeuronBudget(None)
    budget.use("a", 1e9)
    budget.check("a")
    assert budget.used == {"a": 1e9}


def test_a_budget_of_zero_refuses_every_call() -> None:
    with pytest.raises(WireError, match="you have used up"):
        NeuronBudget(0).check("a")


def test_of_too_many_accounts_the_most_recent_are_kept() -> None:
    budget = NeuronBudget(None)
    for number in range(10_000):
        budget.use(str(number), 1)
    budget.use("0", 1)
    budget.use("new", 1)
    assert len(budget.used) == 10_000
    assert "1" not in budget.used and budget.used["0"] == 2
