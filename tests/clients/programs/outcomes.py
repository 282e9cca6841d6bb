"""Runs a program's cases by name and prints a JSON line for each: what came out of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence


def print_outcomes(
    cases: Sequence[Callable[..., object]], names: Sequence[str], *given: object
) -> None:
    """Cases are functions, by their names; each gets what is given."""
    by_name = {case.__name__: case for case in cases}
    for name in names:
        # Entries of an error's lists may be of the client's own classes: their fields are as good.
        print(json.dumps({"case": name} | outcome(by_name[name], *given), default=vars), flush=True)


def outcome(case: Callable[..., object], *given: object) -> dict[str, object]:
    try:
        return {"value": case(*given)}
    except Exception as error:
        fields = {key: getattr(error, key) for key in ("errors", "body") if hasattr(error, key)}
        named = {"error": type(error).__name__, "message": str(error)}
        return named | {"status": status(error)} | fields


def status(error: Exception) -> object:
    """Some clients keep the number, some the response, some neither."""
    response = getattr(error, "response", None)
    return getattr(error, "status_code", getattr(response, "status_code", None))
