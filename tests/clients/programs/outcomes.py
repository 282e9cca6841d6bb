"""Runs the named cases of a program, and prints one JSON line for each: its value or its error."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence


def print_outcomes(
    cases: Sequence[Callable[..., object]], names: Sequence[str], *given: object
) -> None:
    """Calls the functions in `cases` that have these names, each with the arguments `given`.

    A name may be followed by more arguments, separated by spaces. Prints the outcome of each
    function.
    """
    by_name = {case.__name__: case for case in cases}
    for name in names:
        # An error's list may contain objects of the client. `vars` converts each object to its
        # fields.
        key, *values = name.split(" ")
        fields = {"case": name} | outcome(by_name[key], *given, *values)
        print(json.dumps(fields, default=vars), flush=True)


def outcome(case: Callable[..., object], *given: object) -> dict[str, object]:
    try:
        return {"value": case(*given)}
    except Exception as error:
        fields = {key: getattr(error, key) for key in ("errors", "body") if hasattr(error, key)}
        named = {"error": type(error).__name__, "message": str(error)}
        return named | {"status": status(error)} | fields


def status(error: Exception) -> object:
    """Returns the HTTP status of the error or of the error's response; None if there is none."""
    response = getattr(error, "response", None)
    return getattr(error, "status_code", getattr(response, "status_code", None))
