"""Responds with one page of a list, which the query parameters `page` and `per_page` select."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from fastapi import Request, Response

from workers_ai_emulator.wire.envelope import page, to_json
from workers_ai_emulator.wire.responses import JsonResponse


def page_of(request: Request, rows: Sequence[object], *, default_size: int) -> Response:
    """Returns the response with the page of `rows` that the request's query selects.

    `default_size`: the size of a page if the query has no `per_page`. A page after the last page is
    an empty list, because SDKs request pages until a page is empty.
    """
    number, size = _number_and_size(request, default_size)
    return JsonResponse(page(rows, number=number, size=size))


def openrouter_page_of(request: Request, rows: Sequence[object], *, default_size: int) -> Response:
    """Like `page_of`, but without an envelope and with the page in the key `data`.

    Clients read `total_count` and `total_pages` in `result_info`. The other keys of `result_info`
    are inferred.
    """
    number, size = _number_and_size(request, default_size)
    data = rows[(number - 1) * size : number * size]
    info = {
        "count": len(data),
        "page": number,
        "per_page": size,
        "total_count": len(rows),
        "total_pages": ceil(len(rows) / size),
    }
    return JsonResponse(to_json({"result_info": info, "data": data}))


def _number_and_size(request: Request, default_size: int) -> tuple[int, int]:
    query = request.query_params
    number = _positive(query.get("page"), default=1)
    return number, _positive(query.get("per_page"), default=default_size)


def _positive(text: str | None, *, default: int) -> int:
    """Returns `text` as an integer, or `default` if `text` is None or not a positive integer.

    We do not know what the service does if the text is not a positive integer.
    """
    is_number = text is not None and text.isascii() and text.isdecimal() and len(text) < 10
    return int(text or 0) or default if is_number else default
