"""Snapshots: files with a request, and the response of Cloudflare's service to the request.

Placeholders replace the values that differ between responses: ids, times, generated text, counts
and padding. Tests put the same placeholders into a response before they compare it with a snapshot.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import httpx

FOLDER = Path(__file__).with_name("snapshots")
HEADERS = ("content-type", "cf-ai-req-id", "cf-aig-log-id")
_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_STRING = r'"(?:[^"\\]|\\.)+"'
# Matches the description of a model, task or property, for which the emulator has other words than
# the service.
_DESCRIPTION = rf'"description":{_STRING}'
_DESCRIBING_SURFACES = {"ai/models/search", "ai/models/schema", "ai/tasks/search"}
_PLACEHOLDERS = [
    (_UUID, "<uuid>"),
    (r"\b[0-9A-HJKMNP-TV-Z]{26}\b", "<log-id>"),
    (r"\"id\":\"id-\d{13}\"", '"id":"id-<ms>"'),
    (r"\"id\":\"[0-9a-f]{32}\"", '"id":"<token-id>"'),
    (r"\"(\w*id)\":\"(chatcmpl-|cmpl-|resp_|msg_)[0-9a-f]{32}\"", r'"\1":"\2<id>"'),
    (r"chatcmpl-tool-[0-9a-f]{16}\b", "chatcmpl-tool-<id>"),
    (r"\"(created|created_at)\":\d+", r'"\1":<s>'),
    (rf"\"(response|content|text|delta)\":{_STRING}", r'"\1":"<text>"'),
    (r"\"neurons\":[\d.]+", '"neurons":<neurons>'),
    (r"\"sequence_number\":\d+", '"sequence_number":<number>'),
    (rf"\"value\":\[{_STRING}\]", '"value":["<text>"]'),
    (r"\"(\w+_tokens)\":\d+", r'"\1":<count>'),
    (r"tokens \(\d+\) exceeded this model context window limit \(\d+\)", "tokens (<count>) exceeded"
     " this model context window limit (<count>)"),
    (r"(context length|total) of \d+ tokens", r"\1 of <count> tokens"),
    (r"supports at most \d+ completion tokens", "supports at most <count> completion tokens"),
    (r"\d+ tokens (from the input messages|for the completion)", r"<count> tokens \1"),
    (r"context length is \d+ tokens", "context length is <count> tokens"),
    (r"requested \d+ output tokens", "requested <count> output tokens"),
    (r"at least \d+ (input )?tokens", r"at least <count> \1tokens"),
    (r"value=\d+\)", "value=<count>)"),
    (r",\"p\":\"[a-z0-9]+\"", ""),
    (r"\[-?[\d.e-]+(?:,-?[\d.e-]+){300,}\]", "[<embedding>]"),
    (r"\"embedding\":\"[A-Za-z0-9+/]+=*\"", '"embedding":"<base64>"'),
    (r"\"score\":[\d.e-]+", '"score":<score>'),
    (r"\"(noul|confidence)\":[\d.]+", r'"\1":<probability>'),
    (r"\"probabilities\":\{[^}]*\}", '"probabilities":<probabilities>'),
    (r"\"cost_metric_value_1\":\d+", '"cost_metric_value_1":<count>'),
    (r"Max context reached \d+ tokens", "Max context reached <count> tokens"),
    (r"Sequence too long: \d+ >", "Sequence too long: <count> >"),
]  # fmt: skip


@dataclass(frozen=True)
class Target:
    """A server that receives the requests of tests: the emulator or the real service.

    `context_length`: the context length of all models; None if each model has its own.
    """

    root: str
    account: str
    token: str
    model: str
    gateway_root: str
    context_length: int | None = None

    def send(self, request: dict[str, Any]) -> httpx.Response:
        """Sends a snapshot's request, with real values for account, model and token.

        `<words:5>` in a request becomes a text of five words, and `<context:24000>` the context
        length, which is 24,000 at the service. `<context:24000-300>` is 300 less.
        """
        root = self.gateway_root if request["path"].startswith("/v1/") else self.root
        headers = {"authorization": "Bearer <token>", **request.get("headers", {})}
        return httpx.request(
            request["method"],
            root + self._fill(request["path"]),
            content=self._fill(request.get("body", ""))
            .encode()
            .ljust(request.get("body_length", 0)),
            headers={name: self._fill(value) for name, value in headers.items() if value},
            timeout=120,
        )

    def normalize(self, text: str) -> str:
        """Returns a response's text with placeholders. Keeps one of equal consecutive events."""
        text = text.replace(self.account, "<account>").replace(self.model, "<model>")
        text = text.replace(self.root, "<root>")
        for pattern, placeholder in _PLACEHOLDERS:
            text = re.sub(pattern, placeholder, text)
        if not text.startswith(("data: ", "event: ")):
            return text
        return "\n\n".join(event for event, _ in groupby(text.split("\n\n")))

    def _fill(self, text: str) -> str:
        values = {"account": self.account, "model": self.model, "token": self.token}
        text = re.sub(r"<words:(\d+)>", lambda match: "a " * int(match[1]), text)
        text = re.sub(r"<context:(\d+)(-\d+)?>", self._number, text)
        return re.sub(r"<(account|model|token)>", lambda match: values[match[1]], text)

    def _number(self, context: re.Match[str]) -> str:
        length = int(context[1]) if self.context_length is None else self.context_length
        return str(length + int(context[2] or 0))


@dataclass(frozen=True)
class Snapshot:
    """The contents of a snapshot file.

    `provenance`: how the response is known: `recorded`, `documented` or `inferred`. `server`: the
    name of the fixture whose server sends this response. `surface` and `shows`: the row and the
    text in the table of docs/parity.md.
    """

    path: Path
    provenance: str
    source: str
    recorded_date: str
    note: str
    server: str
    surface: str
    shows: str
    request: dict[str, Any]
    response: dict[str, Any]

    @classmethod
    def load(cls, path: Path) -> Snapshot:
        return cls(path, **json.loads(path.read_text("utf-8")))

    @property
    def name(self) -> str:
        return self.path.stem

    def without_prose(self, response: dict[str, Any]) -> dict[str, Any]:
        """Returns the response with placeholders for descriptions of models and properties."""
        if self.surface not in _DESCRIBING_SURFACES:
            return response
        body = re.sub(_DESCRIPTION, '"description":"<prose>"', response["body"])
        return response | {"body": body}

    def record(self, response: httpx.Response, target: Target, date: str) -> None:
        """Stores a response of the real service in the snapshot file."""
        changed = self.__dict__ | {
            "provenance": "recorded",
            "source": "the service itself",
            "recorded_date": date,
            "response": self.without_prose(observed(response, target)),
        }
        del changed["path"]
        self.path.write_text(json.dumps(changed, indent=2, ensure_ascii=False) + "\n", "utf-8")


def observed(response: httpx.Response, target: Target) -> dict[str, Any]:
    """Returns the status, headers and body of a response in the form that a snapshot stores."""
    headers = {name: response.headers[name] for name in HEADERS if name in response.headers}
    return {
        "status": response.status_code,
        "headers": {name: target.normalize(value) for name, value in headers.items()},
        "body": target.normalize(response.text),
    }


SNAPSHOTS = [Snapshot.load(path) for path in sorted(FOLDER.glob("*.json"))]
