"""Runs a program's cases by name and prints one JSON line for each: its value or its error."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence


def print_outcomes(
    cases: Sequence[Callable[..., object]], names: Sequence[str], *given: object
) -> None:
    """Calls the functions with these names, each with the arguments `given`."""
    by_name = {case.__name__: case for case in cases}
    for name in names:
        # An error's list may hold objects of the client, which are printed as their fields.
        print(json.dumps({"case": name} | outcome(by_name[name], *given), default=vars), flush=True)


def outcome(case: Callable[..., object], *given: object) -> dict[str, object]:
    try:
        return {"value": case(*given)}
    except Exception as error:
        fields = {key: getattr(error, key) for key in ("errors", "body") if hasattr(error, key)}
        named = {"error": type(error).__name__, "message": str(error)}
        return named | {"status": status(error)} | fields


def status(error: Exception) -> object:
    """Returns the HTTP status that the client's error or its response has, or None."""
    response = getattr(error, "response", None)
    return getattr(error, "status_code", getattr(response, "status_code", None))
