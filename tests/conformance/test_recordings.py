"""Tests that the body of each recorded response equals the body of a snapshot.

Each line of `recordings/*.jsonl` contains a response of the service that a user published. For each
line, the lists below have an entry. `Reproduced` names the snapshot, and the replacements that turn
the line into the snapshot's body, for example where another model's schema differs. `NotServed`
gives the reason why the emulator does not send the response. test_snapshots.py compares the
snapshots with the emulator's responses.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.snapshots import SNAPSHOTS, Target

RECORDINGS = Path(__file__).parents[1] / "data" / "recordings"
BODIES = {snapshot.name: snapshot.response["body"] for snapshot in SNAPSHOTS}
NO_TARGET = Target("http://nobody", "<account>", "", "<model>", "")  # only for `normalize`


@dataclass(frozen=True)
class Reproduced:
    """A recorded response that equals the body of `snapshot` after some replacements.

    `replacements`: pairs of a regular expression and its replacement. `is_part`: whether only a
    part of the body was published.
    """

    snapshot: str
    replacements: tuple[tuple[str, str], ...] = ()
    is_part: bool = False


@dataclass(frozen=True)
class NotServed:
    """A recorded response that the emulator does not send, and the reason."""

    reason: str


OTHER_TASK = NotServed("a model of another task")
OTHER_SCHEMA = NotServed("a model with another schema")
PLAN = NotServed("the emulator has no plans, licences or allocations")
NO_USAGE = NotServed("older than `usage`; the rest is run-answer")

OWN_NAMES = (("'input'", "'prompt'"), ("'requests'", "'messages'"))  # for another model's schema
SHORT_ID = (r" \([0-9a-f]{8}\)\"", ' (<uuid>)"')
OTHER_BASE = ("llama-3-8b-instruct", "llama-2-7b-chat-fp16")
HIDDEN_UUID = ((r" \([0-9a-fx-]+\)\"", ' (<uuid>)"'),)
ADD_UUID = (('","code"', ' (<uuid>)","code"'),)
REST = '"success":false,"result":{},"messages":[]}'
OTHER_NAME = (("gpt-oss-120b", "@cf/inexistant/modele-xyz"), ("<request-id>", "<uuid>"))
OWN_REASON = (
    (r'"message\\":\\"\.\.\.', r'"message\\":\\"max_tokens must be at least 1, got 0.'),
    (r"\(uuid\)", "(<uuid>)"),
)
OF_RESPONSES = (
    (r'\{"error":\{"code":"invalid_prompt",', '{"errors":[{'),
    (r"\}\}", f',"code":3046}}],{REST}'),
)
OWN_ONE_OF = (
    (
        "Error: Type",
        "Error: oneOf at '/' not met, 0 matches: required properties at '/' are 'prompt', "
        "Type mismatch of '/messages/0/content', 'array' not in 'string', Type",
    ),
    ("'null'", "'null', required properties at '/messages/1' are 'role,content'"),
    (r'"\.\.\."', '"<uuid>"'),
)

ERRORS: list[Reproduced | NotServed] = [
    Reproduced("run-5006-nothing", (*OWN_NAMES, *HIDDEN_UUID)),
    Reproduced("run-5006-nothing", (*OWN_NAMES, *ADD_UUID)),
    Reproduced("chat-5006-parts"),
    Reproduced("chat-5006-null", is_part=True),
    Reproduced("run-5006-top-k", is_part=True),
    Reproduced("run-5006-null", is_part=True),
    OTHER_TASK,
    OTHER_TASK,
    OTHER_SCHEMA,
    OTHER_SCHEMA,
    Reproduced("chat-5007"),
    Reproduced("chat-5007", OTHER_NAME),
    Reproduced("run-5028", (("infire-llama-3.1-8b-instruct", "llama-2-7b-chat-fp16"), SHORT_ID)),
    Reproduced("run-5028", is_part=True),
    Reproduced("run-5028-alias", is_part=True),
    Reproduced("binding-5028", (("5028: ", ""), OTHER_BASE), is_part=True),
    Reproduced("run-5021"),
    Reproduced("run-5021"),
    Reproduced("run-4006"),
    Reproduced("run-3021", (SHORT_ID,)),
    Reproduced("run-3040", ((r"\.\.\.\}", REST), *ADD_UUID)),
    NotServed("the emulator's gateway has no rate limit"),
    Reproduced("run-10000"),
    Reproduced("run-10000"),
    NotServed("the text of 2023; the newer text is run-10000"),
    Reproduced("run-7003"),
    Reproduced("chat-7003", (("<bad id>", "anonymous"),)),
    Reproduced("no-route-account"),
    NotServed("outdated: the path is served, because SDKs send %2F; the body is no-route"),
    Reproduced("no-route"),
    Reproduced("v1-models-7001"),
    Reproduced("run-6003-key"),
    Reproduced("run-6003-authorization"),
    Reproduced("run-9106", is_part=True),
    NotServed("the newer router's text for 9106; the emulator sends the other one"),
    PLAN,
    PLAN,
    Reproduced("run-5035", (("@cf/moonshotai/kimi-k2.6", "<model>"),)),
    Reproduced("run-5025", (("5025: ", ""),), is_part=True),
    OTHER_TASK,
    Reproduced("run-8007", OWN_REASON),
    OTHER_SCHEMA,
    NotServed("the emulator does not retry on other machines"),
    Reproduced("run-3046", OF_RESPONSES),
    NotServed("ai/v1/responses is not served: only gpt-oss models had it"),
    Reproduced("gateway-5006", OWN_ONE_OF),
    Reproduced("gateway-2001"),
    NotServed("an outage"),
]

SUCCESSES: list[Reproduced | NotServed] = [
    NO_USAGE,
    NO_USAGE,
    Reproduced("run-answer"),
    NotServed("a model with function calls; without `tool_calls` it is run-answer"),
    NotServed("recorded after the models had been retired"),
    NotServed("recorded after the models had been retired"),
    OTHER_TASK,
    NotServed("only the text was published, and text depends on the weights"),
    NotServed("another engine's key order; llama-3-8b's is chat-answer"),
    NotServed("another engine's form, through a Worker's binding"),
    NotServed("only models with batching send it"),
    Reproduced("verify", (("<32 hex>", "0" * 32),)),
]


def records(name: str) -> list[dict[str, Any]]:
    lines = (RECORDINGS / f"{name}.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def text(record: dict[str, Any]) -> str:
    """Returns the published body of a recorded response, or its published part."""
    for key in ("body", "errors", "message", "message_prefix"):
        if key in record:
            value = record[key]
            return value if isinstance(value, str) else compact(value)
    return ""


def compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@pytest.mark.recorded
@pytest.mark.parametrize(
    ("record", "verdict"),
    [
        pytest.param(text(record), verdict, id=f"{name}-{line}")
        for name, verdicts in (("errors", ERRORS), ("success", SUCCESSES))
        for line, (record, verdict) in enumerate(zip(records(name), verdicts, strict=True), 1)
        if isinstance(verdict, Reproduced)
    ],
)
def test_a_recorded_body_is_the_body_of_a_snapshot(record: str, verdict: Reproduced) -> None:
    for pattern, replacement in verdict.replacements:
        record = re.sub(pattern, replacement, record)
    record = NO_TARGET.normalize(record)
    body = BODIES[verdict.snapshot]
    assert record
    assert record in body if verdict.is_part else record == body
