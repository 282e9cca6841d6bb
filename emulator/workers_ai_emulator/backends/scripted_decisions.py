"""Converts the answers in a rule of a script to the probabilities of a decision."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from itertools import chain
from typing import Any

from workers_ai_emulator.backends.relayed import num_words
from workers_ai_emulator.json_values import object_or_none
from workers_ai_emulator.tasks.decisions import DecisionRequest, Decisions, Question
from workers_ai_emulator.wire.validation import shown

_MAX_WEIGHT = 1e300  # so that the sum of all weights of a question is finite


def given_answers(request: DecisionRequest, text: str) -> dict[str, list[float]]:
    """Returns the probabilities that a rule's answers determine, by the question's id.

    `text`: the JSON text of the rule's answers: an object with a value for each question's id.
    Raises ValueError if the text is no such object, names an unknown question or has an invalid
    answer.
    """
    answers = _answers(text)
    questions = {question.id: question for question in request.questions}
    if (unknown := next((id for id in answers if id not in questions), None)) is not None:
        raise ValueError(f"the request has no question {shown(unknown)}")
    return {id: _probabilities(questions[id], answer) for id, answer in answers.items()}


def without(request: DecisionRequest, given: Container[str]) -> tuple[Question, ...]:
    """Returns the questions of the request whose ids are not in `given`."""
    return tuple(question for question in request.questions if question.id not in given)


def merged(
    request: DecisionRequest, given: Mapping[str, Sequence[float]], others: Decisions
) -> Decisions:
    """Returns the answers to all questions of the request.

    `given`: those of a rule, by the question's id. `others`: those to all other questions.
    """
    left = iter(others.probabilities)
    texts = [question.texts for question in request.questions if question.id in given]
    num_tokens = sum(num_words(text) for text in chain.from_iterable(texts) if text)
    return Decisions(
        [given.get(question.id) or next(left) for question in request.questions],
        others.num_tokens + num_tokens,
    )


def _answers(text: str) -> dict[str, Any]:
    answers = object_or_none(text)
    if answers is None:
        raise ValueError("a decision needs `json`: an object with an answer for each question")
    return answers


def _probabilities(question: Question, answer: Any) -> list[float]:
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
            if probabilities := _normalized(question, answer):
                return probabilities
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
    values = [weights.get(option, 0) for option in question.options]
    if not all(type(value) in (int, float) and 0 <= value <= _MAX_WEIGHT for value in values):
        return None
    total = sum(values)
    return [value / total for value in values] if total else None
