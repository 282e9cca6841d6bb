"""What the programs ask, the tool that they offer (both from weather.json), and a report's type."""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

_WEATHER: dict[str, Any] = json.loads(Path(__file__).with_suffix(".json").read_text("utf-8"))
QUESTION: str = _WEATHER["question"]
OPEN_QUESTION: str = _WEATHER["open_question"]
REQUEST: str = _WEATHER["request"]
TOOL: dict[str, Any] = {"type": "function", "function": _WEATHER["tool"]}  # in OpenAI's form
FORCED = {"type": "function", "function": {"name": _WEATHER["tool"]["name"]}}


class Report(BaseModel):
    """The weather in a city."""

    city: Literal["Paris", "Oslo"]
    sky: Literal["sunny", "cloudy"]
    is_warm: bool


def temperature(city: str) -> int:
    degrees: int = _WEATHER["temperatures"][city]
    return degrees
