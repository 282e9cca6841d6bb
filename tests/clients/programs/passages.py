"""The passages that programs index and the questions that they ask, from passages.json.

For each question, the file names the passage that answers it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_DATA: dict[str, Any] = json.loads(Path(__file__).with_suffix(".json").read_text("utf-8"))
PASSAGES: list[str] = _DATA["passages"][:60]  # the others do not concern the questions
QUESTIONS: list[str] = [each["question"] for each in _DATA["questions"]]
TOO_LONG = "word " * 9000  # more tokens than the model bge-m3 accepts in one text


def found(
    passages: Sequence[Sequence[float]], questions: Sequence[Sequence[float]]
) -> dict[str, object]:
    """Returns the passage that is nearest to each question, and the length of the embeddings.

    `passages`, `questions`: the embeddings of PASSAGES and of QUESTIONS, which have length 1.
    """
    (dimensions,) = {len(vector) for vector in (*passages, *questions)}
    return {"found": [_nearest(passages, each) for each in questions], "dimensions": dimensions}


def _nearest(passages: Sequence[Sequence[float]], question: Sequence[float]) -> str:
    products = [sum(a * b for a, b in zip(each, question, strict=True)) for each in passages]
    return PASSAGES[products.index(max(products))]
