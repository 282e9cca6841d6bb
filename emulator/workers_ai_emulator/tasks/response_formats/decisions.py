"""Writes the answers of decision models, in the form of the System One API [recorded, 2026-10]."""

from __future__ import annotations

from collections.abc import Sequence

from workers_ai_emulator.tasks.decisions import DecisionRequest, Decisions, Question
from workers_ai_emulator.tasks.response_formats.response_format import Json

_NUM_DIGITS = 4


def decisions_result(request: DecisionRequest, decisions: Decisions) -> Json:
    """Returns the result of `ai/run` for a decision model."""
    answers = zip(request.questions, decisions.probabilities, strict=True)
    return {
        "model": request.model,
        "answers": {question.id: _answer(question, chances) for question, chances in answers},
        "usage": {"input_tokens": decisions.num_tokens, "output_tokens": 0},
    }


def _answer(question: Question, chances: Sequence[float]) -> Json:
    """Returns the answer to a question. `chances`: the probability of each option."""
    if question.type == "noul":
        return {"type": "noul", "noul": _rounded(chances[0])}
    probabilities = dict(zip(question.options, map(_rounded, chances), strict=True))
    spread = {"probabilities": probabilities, "confidence": _rounded(confidence(chances))}
    if question.type == "choice":
        best = question.options[chances.index(max(chances))]
        return {"type": "choice", "choice": best, **spread}
    score = sum(level * chance for level, chance in enumerate(chances))
    legend = dict(zip(question.options, question.levels, strict=True))
    return {"type": "score", "score": _rounded(score), "legend": legend, **spread}


def confidence(chances: Sequence[float]) -> float:
    """Returns how certain an answer is: 1 if one option has the probability 1, 0 if all are equal.

    It is 1 minus the normalised Gini impurity, as in all recorded answers.
    """
    equal = 1 / len(chances)
    concentration = sum(chance * chance for chance in chances)
    return max((concentration - equal) / (1 - equal), 0.0)


def _rounded(value: float) -> float:
    """Rounds to four digits. Whole numbers have no digits, as in JavaScript."""
    rounded = round(value, _NUM_DIGITS)
    return int(rounded) if rounded.is_integer() else rounded
