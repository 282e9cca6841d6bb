"""Compares snapshots with the emulator, or with the service if --target=cloudflare is set.

    CLOUDFLARE_ACCOUNT_ID=… CLOUDFLARE_API_TOKEN=… pytest tests/conformance/test_snapshots.py \
        --target=cloudflare --model=@cf/meta/llama-3.1-8b-instruct [--record]
"""

from __future__ import annotations

import re
from datetime import date

import pytest

from tests.conformance.snapshots import SNAPSHOTS, Snapshot, Target, observed


@pytest.mark.parametrize(
    ("snapshot", "target"),
    [
        pytest.param(snapshot, snapshot.server, marks=getattr(pytest.mark, snapshot.provenance))
        for snapshot in SNAPSHOTS
    ],
    indirect=["target"],
    ids=[snapshot.name for snapshot in SNAPSHOTS],
)
def test_the_response_is_that_of_the_snapshot(
    snapshot: Snapshot, target: Target, request: pytest.FixtureRequest
) -> None:
    response = target.send(snapshot.request)
    if request.config.getoption("--record"):
        snapshot.record(response, target, date.today().isoformat())
    # Descriptions of models, tasks and properties are not compared: the emulator has its own.
    sent = snapshot.without_prose(observed(response, target))
    assert sent == snapshot.without_prose(snapshot.response)
    if uuid := re.search(r'(?:\(|"requestId":")([0-9a-f-]{36})', response.text):
        assert uuid[1] == response.headers["cf-ai-req-id"]
