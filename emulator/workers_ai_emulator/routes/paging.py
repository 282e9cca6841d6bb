"""Responds with one page of a list, which the query parameters `page` and `per_page` select."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import Request, Response

from workers_ai_emulator.wire.envelope import page
from workers_ai_emulator.wire.responses import JsonResponse


def page_of(request: Request, rows: Sequence[object], *, default_size: int) -> Response:
    """Returns the response with the page of `rows` that the request's query selects.

    `default_size`: the size of a page if the query has no `per_page`. A page after the last page is
    an empty list, because SDKs request pages until a page is empty.
    """
    query = request.query_params
    number = _positive(query.get("page"), default=1)
    size = _positive(query.get("per_page"), default=default_size)
    return JsonResponse(page(rows, number=number, size=size))


def _positive(text: str | None, *, default: int) -> int:
    """Returns `text` as an integer, or `default` if `text` is None or not a positive integer.

    We do not know what the service does if the text is not a positive integer.
    """
    is_number = text is not None and text.isascii() and text.isdecimal() and len(text) < 10
    return int(text or 0) or default if is_number else default
