"""Counts the prompt tokens that the engine evaluates in each turn of a growing conversation."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from typing import Any

from benchmarks import prompts, servers, tables
from benchmarks.conditions import MODEL_NAME, Conditions
from benchmarks.servers import Server

_NUM_TURNS = 10
_MAX_TOKENS = 60


def report(conditions: Conditions) -> Iterator[str]:
    """Yields a table with the prompt tokens and the evaluated prompt tokens of each turn."""
    yield (
        f"Evaluated prompt tokens in a conversation of {_NUM_TURNS} turns. New tokens are tokens "
        "that no earlier turn evaluated: the last token of the previous completion, and the user's "
        "new message with the text that the chat template adds."
    )
    with servers.running(servers.ours(conditions), 2, 2048) as server:
        rows = list(_turns(server))
    headings = ["turn", "prompt tokens", "new", "evaluated", "evaluated again"]
    yield tables.markdown(headings, rows)


def _turns(server: Server) -> Iterator[list[str]]:
    messages: list[dict[str, str]] = []
    num_evaluated_before = 0
    for turn in range(_NUM_TURNS):
        messages.append({"role": "user", "content": prompts.PROMPTS[turn]})
        num_cached = server.metric("tokens_total", kind="cached")
        result = _send(server, messages)
        num_prompt = result["usage"]["prompt_tokens"]
        num_evaluated = num_prompt - int(server.metric("tokens_total", kind="cached") - num_cached)
        num_new = num_prompt - num_evaluated_before
        again = max(num_evaluated - num_new, 0)
        yield [str(n) for n in (turn + 1, num_prompt, num_new, num_evaluated, again)]
        messages.append({"role": "assistant", "content": result["response"]})
        num_evaluated_before = num_prompt + result["usage"]["completion_tokens"] - 1


def _send(server: Server, messages: list[dict[str, str]]) -> Any:
    body = {"messages": messages, "max_tokens": _MAX_TOKENS, "temperature": 0}
    request = urllib.request.Request(server.run_url(MODEL_NAME), json.dumps(body).encode())
    with urllib.request.urlopen(request) as response:
        return json.load(response)["result"]
