"""Converts the answers in a rule of a script to the probabilities of a decision."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from workers_ai_emulator.tasks.decisions import DecisionRequest, Question
from workers_ai_emulator.wire.validation import shown


def with_answers(
    request: DecisionRequest, probabilities: Sequence[Sequence[float]], text: str
) -> list[Sequence[float]]:
    """Returns the probabilities of each question, with those that a rule's answers determine.

    `probabilities`: those of questions that the rule does not answer. `text`: the JSON text of the
    rule's answers: an object with a value for each question's id. Raises ValueError if the text is
    no such object, names an unknown question or has an invalid answer.
    """
    answers = _answers(text)
    ids = [question.id for question in request.questions]
    if unknown := next((id for id in answers if id not in ids), None):
        raise ValueError(f"the request has no question {shown(unknown)}")
    return [
        _chances(question, answers[question.id]) if question.id in answers else others
        for question, others in zip(request.questions, probabilities, strict=True)
    ]


def _answers(text: str) -> dict[str, Any]:
    try:
        answers = json.loads(text)
    except ValueError:
        answers = None
    if not isinstance(answers, dict):
        raise ValueError("a decision needs `json`: an object with an answer for each question")
    return answers


def _chances(question: Question, answer: Any) -> list[float]:
    """Returns the probability of each option. Raises ValueError for an invalid answer."""
    last = len(question.options) - 1
    match question.type, answer:
        case "noul", int() | float() if 0 <= answer <= 1:  # a bool is an int
            return [float(answer), 1.0 - answer]
        case "choice", str() if answer in question.options:
            return [float(option == answer) for option in question.options]
        case "score", int() | float() if not isinstance(answer, bool) and 0 <= answer <= last:
            return _around(answer, len(question.options))
        case "choice" | "score", dict() if answer.keys() <= {*question.options}:
            if chances := _normalized(question, answer):
                return chances
    takes = _TAKES[question.type]
    raise ValueError(f"the answer to {shown(question.id)} takes {takes}, not {shown(answer)}")


_TAKES = {
    "noul": "true, false, or the probability of yes",
    "choice": "the id of an option, or an object with the probabilities of options",
    "score": "a number from 0 to that of the last level, or an object with the probabilities of "
    "levels",
}


def _around(score: float, num_levels: int) -> list[float]:
    """Returns probabilities whose mean is the score: those of the two levels next to it."""
    return [max(0.0, 1.0 - abs(score - level)) for level in range(num_levels)]


def _normalized(question: Question, weights: Mapping[str, Any]) -> list[float] | None:
    """Returns the probabilities with the sum 1; None if they are invalid."""
    chances = [weights.get(option, 0) for option in question.options]
    if not all(type(chance) in (int, float) and chance >= 0 for chance in chances):
        return None
    total = sum(chances)
    return [chance / total for chance in chances] if 0 < total < float("inf") else None
