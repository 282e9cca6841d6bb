"""Tests a client of the decision models, with the stand-in model for embeddings."""

from __future__ import annotations

import pytest

from tests.clients.client import Client, Outcomes, Way, value_of
from tests.server import ServerProcess

pytestmark = pytest.mark.documented

CLIENTS = [Client("clef_evals_python.py", "clef-evals==0.2.0")]


@pytest.fixture(scope="module")
def outcomes(client: Client, way: Way, server: ServerProcess) -> Outcomes:
    return client.run(server.base_url, "evaluate", "types", "no_question", way=way)


def test_the_client_finds_that_the_choices_are_right(outcomes: Outcomes) -> None:
    assert value_of(outcomes["evaluate"]) == {"accuracy": 1, "failures": 0}


def test_the_client_reads_the_other_types_of_answers(outcomes: Outcomes) -> None:
    answers = value_of(outcomes["types"])
    assert answers["refund"]["probability"] > 0.5
    assert 0 <= answers["severity"]["score"] <= 2
    assert [*answers["severity"]["probabilities"]] == ["0", "1", "2"]


def test_a_question_without_text_raises_the_client_s_own_error(outcomes: Outcomes) -> None:
    outcome = outcomes["no_question"]
    assert (outcome["error"], outcome["status"]) == ("ClefAPIError", 422)
    assert "instructions should not be empty" in outcome["message"]
