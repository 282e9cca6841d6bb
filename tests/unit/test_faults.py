"""Tests, without a server, which calls faults apply to and how they change a response."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from starlette.datastructures import Headers
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from workers_ai_emulator.backends.conditions import Subject, subject_of
from workers_ai_emulator.middleware.faults import middleware
from workers_ai_emulator.middleware.faults.middleware import FaultMiddleware
from workers_ai_emulator.middleware.faults.rules import (
    FaultRules,
    parse_fault,
    parse_fault_rules,
    requested_fault,
)
from workers_ai_emulator.wire.connection import store_connection
from workers_ai_emulator.wire.context import CallContext, context_of
from workers_ai_emulator.wire.envelope import END_OF_STREAM, event
from workers_ai_emulator.wire.errors import WireError
from workers_ai_emulator.wire.faults import Fault

from tests.server import ACCOUNT_ID, FP16, INT8

STREAM = Subject(INT8, "Hi", account=ACCOUNT_ID, is_stream=True)
WHOLE = Subject(INT8, "Hi", account=ACCOUNT_ID)
BINDING = Subject(INT8, "Hi")
TIMEOUT_S = 10


def rules(*values: Mapping[str, Any]) -> FaultRules:
    fault_rules = FaultRules()
    fault_rules.add(parse_fault_rules([{"fault": "capacity", **value} for value in values]))
    return fault_rules


def test_hostile_rules_are_a_few_short_lines() -> None:
    for value, line, num_lines in (
        ([{"fault": "capacity"}] * 1001, "at most 1000 fault rules are allowed, not 1001", 1),
        ({str(number): 1 for number in range(1000)}, "rule 1: it has 1000 keys", 1),
        ([{"fault": "x"}] * 1000, "rule 1: `fault` takes one of capacity,", 21),
        (
            {"fault": "capacity", "\x1b[31m" * 1000: [[[]] * 10**5]},
            r"rule 1: unknown key `\x1b[31m",
            1,
        ),
    ):
        with pytest.raises(ValueError) as caught:
            parse_fault_rules(value)
        lines = str(caught.value).splitlines()
        assert lines[0].startswith(line) and len(lines) == num_lines
        assert all(len(each) < 700 and each.isprintable() for each in lines)


def applied(fault_rules: FaultRules, *subjects: Subject) -> list[str | None]:
    faults = [
        asyncio.run(fault_rules.choose(subject, is_stream=subject.is_stream))
        for subject in subjects
    ]
    return [fault.fault if fault else None for fault in faults]


def test_the_first_rule_that_applies_is_used() -> None:
    fault_rules = rules({"times": 2}, {"fault": "internal", "times": 1})
    assert applied(fault_rules, *[WHOLE] * 4) == ["capacity", "capacity", "internal", None]
    assert len(fault_rules) == 0


def test_a_rule_without_times_applies_until_the_reset() -> None:
    fault_rules = rules({})
    assert applied(fault_rules, *[WHOLE] * 50) == ["capacity"] * 50
    fault_rules.reset()
    assert applied(fault_rules, WHOLE) == [None]


def test_a_rule_applies_to_its_models_and_its_account() -> None:
    assert applied(rules({"model": "*-int8"}), WHOLE) == ["capacity"]
    assert applied(rules({"model": FP16}), WHOLE) == [None]
    assert applied(rules({"account": ACCOUNT_ID}), WHOLE, BINDING) == ["capacity", None]
    assert applied(rules({"account": "f" * 32}), WHOLE) == [None]
    assert applied(rules({}), BINDING) == ["capacity"]


def test_a_rule_with_a_model_does_not_apply_to_calls_without_one() -> None:
    without_model = Subject("", "Hi", account=ACCOUNT_ID)
    assert applied(rules({"model": "*-int8"}), without_model) == [None]
    assert applied(rules({}), without_model) == ["capacity"]


@pytest.mark.parametrize("fault", ["stall", "no-done", "json-instead-of-stream"])
def test_a_fault_of_streams_does_not_apply_to_other_responses(fault: str) -> None:
    fault_rules = rules({"fault": fault, "times": 1})
    assert applied(fault_rules, WHOLE, STREAM, STREAM) == [None, fault, None]


def test_a_seed_makes_the_choice_of_calls_repeatable() -> None:
    first, second = (rules({"probability": 0.3, "seed": 7}) for _ in range(2))
    calls = [WHOLE] * 200
    hits = applied(first, *calls)
    assert hits == applied(second, *calls)
    assert 30 < hits.count("capacity") < 90


def test_a_call_without_the_fault_does_not_count_for_times() -> None:
    fault_rules = rules({"probability": 0.5, "seed": 7, "times": 3})
    assert applied(fault_rules, *[WHOLE] * 50).count("capacity") == 3


def test_a_call_that_does_not_match_does_not_advance_the_random_numbers() -> None:
    fault_rules = rules({"probability": 0.5, "seed": 7})
    alone = applied(rules({"probability": 0.5, "seed": 7, "account": ACCOUNT_ID}), *[WHOLE] * 20)
    mixed = applied(
        rules({"probability": 0.5, "seed": 7, "account": ACCOUNT_ID}), *[BINDING, WHOLE] * 20
    )
    assert applied(fault_rules, *[WHOLE] * 20) == alone == mixed[1::2]


def test_a_rule_applies_only_to_the_calls_with_the_numbers_in_nth() -> None:
    fault_rules = rules({"nth": 2}, {"fault": "internal", "nth": [2, 3, 5]})
    names = applied(fault_rules, *[WHOLE] * 6)
    assert names == [None, "capacity", "internal", None, "internal", None]
    assert len(fault_rules) == 0


def test_calls_with_the_fault_of_another_rule_count_for_nth() -> None:
    fault_rules = rules({"times": 2}, {"fault": "internal", "nth": 3})
    fault_rules.add(parse_fault_rules({"fault": "auth", "nth": 1}), ACCOUNT_ID)
    assert applied(fault_rules, *[WHOLE] * 4) == ["auth", "capacity", "capacity", None]


def test_calls_that_do_not_match_do_not_count_for_nth() -> None:
    fault_rules = rules({"nth": 2, "account": ACCOUNT_ID})
    assert applied(fault_rules, BINDING, WHOLE, BINDING, WHOLE) == [None, None, None, "capacity"]


@pytest.mark.parametrize(
    ("conditions", "body"),
    [
        ({"contains": "weather"}, {"prompt": "the weather today"}),
        ({"matches": "in [A-Z]\\w+$"}, {"messages": [{"role": "user", "content": "in Oslo"}]}),
        ({"turn": 2}, {"messages": [{"role": "user", "content": "a"}] * 2}),
        ({"parameters": {"seed": 7}}, {"prompt": "", "seed": 7, "max_tokens": 9}),
        ({"headers": {"X-Test": "a*"}}, {"prompt": ""}),
        ({"stream": True}, {"prompt": "", "stream": True}),
    ],
)
def test_a_rule_may_have_the_conditions_of_scripts(conditions: Any, body: Any) -> None:
    fault_rules = rules(conditions)
    context = CallContext(account=ACCOUNT_ID, headers={"x-test": "abc"})
    subject = subject_of(body, model=INT8, context=context)
    other = subject_of({"prompt": "x"}, model=INT8, context=CallContext())
    assert applied(fault_rules, other, subject) == [None, "capacity"]


def test_the_rules_of_an_account_come_before_those_for_all_accounts() -> None:
    fault_rules = rules({})
    fault_rules.add(parse_fault_rules({"fault": "internal", "times": 1}), ACCOUNT_ID)
    assert applied(fault_rules, BINDING, WHOLE, WHOLE) == ["capacity", "internal", "capacity"]


def test_a_pattern_that_is_too_complex_for_a_text_is_an_error() -> None:
    fault_rules = rules({"matches": "(a{1,100}b{1,100}){1,5}"})
    subject = Subject(INT8, "x" * 10**7)
    with pytest.raises(WireError, match="too complex for a text of 10000000 characters"):
        applied(fault_rules, subject)


def test_a_long_text_is_searched_in_a_thread() -> None:
    fault_rules = rules({"contains": "end", "times": 1})
    subject = Subject(INT8, "x" * 2_000_000 + "end")
    assert applied(fault_rules, subject, subject) == ["capacity", None]


@pytest.mark.parametrize("condition", ["system_contains", "any_contains"])
@pytest.mark.parametrize(("length", "uses_thread"), [(10, False), (1_000_000, True)])
def test_a_long_conversation_is_searched_in_a_thread(
    condition: str, length: int, uses_thread: bool, match_threads: list[int]
) -> None:
    texts = {"system": "x" * length + "end", "user": "Hi"}
    messages = [{"role": role, "content": text} for role, text in texts.items()]
    subject = subject_of({"messages": messages}, model=INT8, context=CallContext())
    assert applied(rules({condition: "end"}), subject) == ["capacity"]
    assert (match_threads != [threading.get_ident()]) is uses_thread


def test_the_name_of_a_fault_is_a_rule() -> None:
    fault_rules = FaultRules()
    fault_rules.add(parse_fault_rules("capacity"))
    fault_rules.add(parse_fault_rules(["reset", {"fault": "internal"}]))
    names = ["capacity", "reset", "internal"]
    assert fault_rules.active() == [{"fault": name} for name in names]


def test_active_rules_are_shown_with_their_remaining_times() -> None:
    fault_rules = rules({"times": 3, "model": "*"}, {"fault": "cut-mid-event", "after_events": 4})
    applied(fault_rules, WHOLE)
    assert fault_rules.active() == [
        {"fault": "capacity", "times": 2, "model": "*"},
        {"fault": "cut-mid-event", "after_events": 4},
    ]


def test_the_number_of_rules_is_limited() -> None:
    fault_rules = FaultRules()
    fault_rules.add(parse_fault_rules([{"fault": "capacity"}] * 1000))
    with pytest.raises(ValueError, match="at most 1000 fault rules are allowed"):
        fault_rules.add(parse_fault_rules({"fault": "capacity"}))


def test_every_mistake_in_rules_has_a_line() -> None:
    with pytest.raises(ValueError) as caught:
        parse_fault_rules(
            [
                {"fault": "capasity", "times": 0, "probability": 2},
                {"fault": "internal", "after_events": 1, "seconds": 1, "modle": "x"},
                7,
                {"fault": "capacity", "times": "2"},
                {"fault": "slow-first-token", "seconds": 4000},
                {"fault": "slow-first-token", "delay": 1},
                {"fault": "capacity", "status": 500, "code": 1, "message": "x"},
                {"fault": "error", "status": 200, "delay": -1},
                "capasity",
            ]
        )
    lines = str(caught.value).splitlines()
    starts = [
        "rule 1: `fault` takes one of capacity, ",
        "rule 1: `times` takes a whole number from 1, not ",
        "rule 1: `probability` takes a number from 0 to 1, not ",
        "rule 2: `after_events`",
        "rule 2: `seconds`",
        "rule 2: unknown key `modle`; did you mean `model`?",
        "rule 3: it takes an object with keys and values, not ",
        "rule 4: `times` takes a whole number from 1, not ",
        "rule 5: `seconds` takes a number above 0 to 3600, not 4000",
        "rule 6: `delay`: slow-first-token has the option `seconds` instead",
        "rule 7: `status`: this is for error, edge-error",
        "rule 7: `code`: this is for error",
        "rule 7: `message`: this is for error",
        "rule 8: `delay` takes a number from 0 to 3600, not -1",
        "rule 8: `status` takes a whole number from 400 to 599, not 200",
        "rule 9: `fault` takes one of capacity, ",
    ]
    assert len(lines) == len(starts)
    assert all(line.startswith(start) for line, start in zip(lines, starts, strict=True)), lines
    assert "retired" in lines[0]
    assert lines[0].endswith('not "capasity"; did you mean `capacity`?')


@pytest.mark.parametrize(
    ("headers", "text"),
    [
        ({}, None),
        ({"authorization": "Bearer x", "x-auth-key": "y"}, None),
        ({"authorization": "Bearer default:capacity"}, None),
        ({"x-emulator-fault": "stall"}, "stall"),
        ({"x-emulator-fault": "stall", "authorization": "Bearer fault:capacity"}, "stall"),
        ({"authorization": "Bearer fault:capacity"}, "capacity"),
        ({"authorization": "bearer  fault:stall;after_events=2"}, "stall;after_events=2"),
        ({"x-auth-email": "a@b.example", "x-auth-key": "fault:auth"}, "auth"),
        ({"x-auth-user-service-key": "fault:auth"}, "auth"),
        ({"authorization": "Bearer x", "cf-aig-authorization": "Bearer fault:auth"}, "auth"),
        ({"authorization": "Bearer fault:"}, ""),
    ],
)
def test_a_call_requests_a_fault_by_a_header_or_a_token(
    headers: dict[str, str], text: str | None
) -> None:
    assert requested_fault(headers) == text


def test_a_requested_fault_may_have_options() -> None:
    assert parse_fault("capacity").fault == "capacity"
    assert parse_fault("stall; after_events=3").after_events == 3
    assert parse_fault("slow-first-token;seconds=0.25").seconds == 0.25


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["`fault` takes one of capacity, ", " or slow-first-token"]),
        ("nonsense", ["capacity, ", '"nonsense"']),
        ("capacity;seconds=1", ["`seconds`: this is for slow-first-token"]),
        ("capacity;after_events=1", ["`after_events`: this is for cut-mid-event, cut-mid-utf8"]),
        (
            "stall;after_events=x;times=2",
            ["`after_events` takes a whole number from 0, ", "; unknown key `times`"],
        ),
        ("slow-first-token;seconds=nan", ["`seconds` takes a number above 0 to 3600, "]),
        ("stall;", ["unknown key ``"]),
    ],
)
def test_an_invalid_fault_is_refused_with_the_valid_values(text: str, parts: list[str]) -> None:
    with pytest.raises(WireError) as caught:
        parse_fault(text)
    assert all(part in str(caught.value) for part in parts), str(caught.value)


class Client:
    """Calls the middleware as a server does: sends a body, and disconnects on `disconnect()`."""

    def __init__(
        self,
        app: ASGIApp,
        fault_rules: FaultRules | None = None,
        *,
        has_scripted_faults: bool = False,
    ) -> None:
        self.fault_rules = fault_rules or FaultRules()
        self._app = FaultMiddleware(app, self.fault_rules, lambda: has_scripted_faults)
        self._is_disconnected = asyncio.Event()
        self.num_resets = 0
        self._has_sent_body = False
        self.sent: list[Message] = []
        self.has_been_sent = asyncio.Event()

    async def call(self, body: Any, *, fault: str | None = None, path: str | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = [(b"x-emulator-fault", fault.encode())] if fault is not None else []
        scope: Scope = {
            "type": "http",
            "method": "POST",
            "path": path or f"/client/v4/accounts/{ACCOUNT_ID}/ai/run/{INT8}",
            "headers": headers,
            "state": {},
        }
        store_connection(scope, self)

        async def receive() -> Message:
            if not self._has_sent_body:
                self._has_sent_body = True
                return {"type": "http.request", "body": data}
            await self._is_disconnected.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            self.sent.append(message)
            self.has_been_sent.set()

        await asyncio.wait_for(self._app(scope, receive, send), TIMEOUT_S)

    def reset(self) -> None:
        self.num_resets += 1

    def disconnect(self) -> None:
        self._is_disconnected.set()

    @property
    def text(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def is_complete(self) -> bool:
        return not self.sent[-1].get("more_body", False)


class Streaming:
    """An ASGI application that sends events.

    `is_endless`: whether it waits for the client's disconnect after the last event.
    """

    def __init__(self, *texts: str, is_endless: bool = False) -> None:
        self._texts = texts
        self._is_endless = is_endless
        self.saw_disconnect = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        start = {"type": "http.response.start", "status": 200}
        await send({**start, "headers": [(b"content-type", b"text/event-stream")]})
        for text in self._texts:
            await send({"type": "http.response.body", "body": data(text), "more_body": True})
        if self._is_endless:
            self.saw_disconnect = (await receive())["type"] == "http.disconnect"
            return
        await send({"type": "http.response.body", "body": END_OF_STREAM, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def data(text: str) -> bytes:
    return event({"response": text})


def call_with_fault(app: ASGIApp, fault: str, body: Any = None) -> Client:
    """Sends a request with this fault to the application. Returns the client after the response."""

    async def call() -> Client:
        client = Client(app)
        await client.call({"stream": True} if body is None else body, fault=fault)
        return client

    return asyncio.run(call())


def test_a_stream_is_cut_in_the_event_after_after_events() -> None:
    client = call_with_fault(Streaming("one", "two", "three"), "cut-mid-event;after_events=2")
    assert client.text.startswith(data("one") + data("two"))
    rest = client.text.removeprefix(data("one") + data("two"))
    assert 0 < len(rest) < len(data("three")) and data("three").startswith(rest)
    assert not client.is_complete


def test_a_stream_may_be_cut_in_its_first_event() -> None:
    client = call_with_fault(Streaming("one"), "cut-mid-event;after_events=0")
    assert data("one").startswith(client.text) and 0 < len(client.text) < len(data("one"))


def test_a_stream_with_too_few_events_is_cut_in_its_last_event() -> None:
    client = call_with_fault(Streaming("one"), "cut-mid-event;after_events=9")
    assert client.text == data("one") + END_OF_STREAM[: len(END_OF_STREAM) // 2]
    assert not client.is_complete


def test_a_stream_is_cut_inside_its_next_multibyte_character() -> None:
    client = call_with_fault(Streaming("one", "an äpple"), "cut-mid-utf8")
    assert client.text == data("one") + data("an äpple").split(b"\xa4")[0]
    assert client.text.endswith(b"an \xc3")


@pytest.mark.parametrize(
    ("body", "beginning"),
    [
        ({"response": "two", "p": "abc"}, b'data: {"response":"'),
        ({"choices": [{"index": 0, "delta": {"content": "x"}}]}, b'{"content":"'),
        ({"choices": [{"index": 0, "text": "x"}]}, b'"text":"'),
        ({"result": [{"name": "name", "value": ["x"]}]}, b'"value":["'),
        ({"usage": {}}, b"data: "),
    ],
)
def test_without_a_multibyte_character_one_is_inserted(body: Any, beginning: bytes) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await StreamingResponse(events(), headers={"content-type": "text/event-stream"})(
            scope, receive, send
        )

    async def events() -> Any:
        yield event(body)

    client = call_with_fault(app, "cut-mid-utf8;after_events=0")
    assert client.text.endswith(beginning + b"\xf0")


def test_the_application_of_a_cut_stream_sees_a_disconnect() -> None:
    app = Streaming("one", "two", is_endless=True)
    assert call_with_fault(app, "cut-mid-event").text.startswith(data("one"))
    assert app.saw_disconnect


def test_the_application_of_a_stalled_stream_sees_a_disconnect_at_once() -> None:
    app = Streaming("one", "two", is_endless=True)

    async def call() -> Client:
        client = Client(app)
        calling = asyncio.create_task(client.call({"stream": True}, fault="stall"))
        await eventually(lambda: app.saw_disconnect)
        assert not calling.done()
        client.disconnect()
        await calling
        return client

    client = asyncio.run(call())
    assert client.text == data("one")
    assert not client.is_complete


def test_a_reset_ends_a_stalled_stream() -> None:
    async def call() -> bool:
        client = Client(Streaming("one", "two"))
        calling = asyncio.create_task(client.call({"stream": True}, fault="stall"))
        await client.has_been_sent.wait()
        await eventually(lambda: client.text == data("one"))
        client.fault_rules.reset()
        await calling
        return client.is_complete

    assert not asyncio.run(call())


def test_the_application_is_not_called_if_the_client_disconnects_during_the_delay() -> None:
    is_called = False

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal is_called
        is_called = True

    async def call() -> None:
        client = Client(app)
        client.disconnect()
        await client.call({}, fault="slow-first-token;seconds=60")

    asyncio.run(call())
    assert not is_called


def test_a_slow_first_token_does_not_change_the_response() -> None:
    client = call_with_fault(Streaming("one"), "slow-first-token;seconds=0.01")
    assert client.text == data("one") + END_OF_STREAM
    assert client.is_complete


@pytest.mark.parametrize(
    "body",
    [
        {"stream": True, "prompt": "x"},
        {"input": {"stream": True}},
        {"inputs": {"stream": True}, "options": {}},
        [{"provider": "workers-ai", "query": {"stream": True}}],
    ],
)
def test_json_instead_of_a_stream_changes_every_format_of_request(body: Any) -> None:
    client = call_with_fault(repeat_body, "json-instead-of-stream", body)
    expected = json.loads(json.dumps(body).replace("true", "false"))
    assert json.loads(client.text) == expected


@pytest.mark.parametrize("body", [{"stream": False}, {"stream": "true"}, {}, b"", b"{", [1], "x"])
def test_a_fault_of_streams_does_not_change_calls_without_streaming(body: Any) -> None:
    client = call_with_fault(repeat_body, "cut-mid-event", body)
    assert client.text == (body if isinstance(body, bytes) else json.dumps(body).encode())
    assert client.is_complete


def test_an_error_response_to_a_streaming_call_is_not_cut() -> None:
    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await Response("{}", 400, media_type="application/json")(scope, receive, send)

    assert call_with_fault(refuse, "cut-mid-event").text == b"{}"


def test_a_body_that_is_too_large_is_passed_to_the_application() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await Response("too large")(scope, receive, send)

    assert call_with_fault(app, "capacity", b" " * (17 * 2**20)).text == b"too large"


@pytest.mark.parametrize(("length", "uses_thread"), [(10, False), (100_000, True)])
def test_a_large_body_is_compared_with_rules_in_a_thread(
    length: int, uses_thread: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []

    def make(*args: Any, **options: Any) -> Subject:
        threads.append(threading.get_ident())
        return subject_of(*args, **options)

    monkeypatch.setattr(middleware, "subject_of", make)
    client = Client(refuse_calls, rules({"contains": "end"}))
    asyncio.run(client.call({"prompt": "x" * length + "end"}))
    assert client.sent[0]["status"] == 429
    assert (threads != [threading.get_ident()]) is uses_thread


def test_only_inference_calls_have_faults() -> None:
    async def call() -> Client:
        client = Client(repeat_body)
        await client.call({}, fault="capacity", path="/_emulator/reset")
        return client

    assert asyncio.run(call()).text == b"{}"


@pytest.mark.parametrize(
    ("path", "body", "model"),
    [
        (f"/client/v4/accounts/{ACCOUNT_ID}/ai/run/{FP16}", {}, FP16),
        (f"/client/v4/accounts/{ACCOUNT_ID}/ai/v1/chat/completions", {"model": FP16}, FP16),
        (f"/v1/{ACCOUNT_ID}/gw/compat/chat/completions", {"model": f"workers-ai/{FP16}"}, FP16),
        (f"/v1/{ACCOUNT_ID}/gw/workers-ai/run/{FP16}", {}, FP16),
        (f"/v1/{ACCOUNT_ID}/gw", [{"endpoint": FP16}, {"endpoint": INT8}], FP16),
        (f"/client/v4/accounts/{ACCOUNT_ID}/ai/run", {"model": "my:@cf/x/y"}, "@cf/x/y"),
        (f"/client/v4/accounts/{ACCOUNT_ID}/ai/run", {}, "undefined"),
    ],
)
def test_the_error_of_a_retired_model_names_the_requested_model(
    path: str, body: Any, model: str
) -> None:
    async def call() -> Client:
        client = Client(repeat_body)
        await client.call(body, fault="retired", path=path)
        return client

    message = json.loads(asyncio.run(call()).text)
    assert f": {model} was deprecated on 2026-05-30" in json.dumps(message)


@pytest.mark.parametrize(
    ("fault", "status", "entry"),
    [
        ("error", 500, {"code": 3043, "message": "AiError: Internal Server Error"}),
        ("error;status=503", 503, {"code": 3043, "message": "AiError: Service Unavailable"}),
        ("error;status=599", 599, {"code": 3043, "message": "AiError: Error 599"}),
        (
            "error;status=400;code=5006;message=Bad {input}",
            400,
            {"code": 5006, "message": "AiError: Bad {input}"},
        ),
    ],
)
def test_an_error_has_the_status_the_code_and_the_text_of_the_user(
    fault: str, status: int, entry: Any
) -> None:
    client = call_with_fault(repeat_body, fault)
    (error,) = json.loads(client.text)["errors"]
    assert client.sent[0]["status"] == status
    assert error["code"] == entry["code"] and error["message"].startswith(entry["message"] + " (")


@pytest.mark.parametrize(
    ("status", "title"),
    [(502, "502: Bad Gateway"), (524, "524: A timeout occurred"), (599, "599: Unknown error")],
)
def test_an_edge_error_is_a_page(status: int, title: str) -> None:
    client = call_with_fault(repeat_body, f"edge-error;status={status}")
    assert client.sent[0]["status"] == status
    assert header(client, "content-type") == "text/html; charset=UTF-8"
    assert f"<title>{title}</title>".encode() in client.text and client.is_complete


def test_an_edge_error_is_502_by_default() -> None:
    assert call_with_fault(repeat_body, "edge-error").sent[0]["status"] == 502


def test_a_reset_sends_nothing_and_does_not_call_the_application() -> None:
    client = call_with_fault(refuse_calls, "reset")
    assert client.num_resets == 1 and client.sent == []


def test_a_cut_body_is_the_first_half_of_a_response() -> None:
    client = call_with_fault(repeat_body, "cut-body", b'{"key": "value"}')
    assert client.text == b'{"key": ' and not client.is_complete
    assert header(client, "content-length") == "16"


def test_a_cut_body_is_the_beginning_of_a_stream() -> None:
    client = call_with_fault(Streaming("one", "two"), "cut-body")
    assert client.text.startswith(data("one") + b"data: {") and not client.is_complete


def test_a_broken_json_body_is_complete_but_cannot_be_parsed() -> None:
    client = call_with_fault(repeat_body, "broken-json", b'{"key": "value"}')
    assert client.text == b'{"key": ' and client.is_complete
    assert client.sent[0]["status"] == 200
    assert header(client, "content-length") == "8"


def test_broken_json_of_a_body_in_parts_is_the_first_half_of_all_parts() -> None:
    async def parts() -> Any:
        for part in ('{"a', '": 1', ', "b": 2}'):
            yield part

    client = call_with_fault(StreamingResponse(parts()), "broken-json")
    assert client.text == b'{"a": 1,' and client.is_complete


def test_one_event_of_a_stream_is_broken_json() -> None:
    client = call_with_fault(Streaming("one", "two", "three"), "broken-json")
    first, second, third, end, rest = client.text.split(b"\n\n")
    assert (first, third, end, rest) == (
        data("one").strip(),
        data("three").strip(),
        END_OF_STREAM.strip(),
        b"",
    )
    assert second.startswith(b'data: {"') and data("two").startswith(second)
    with pytest.raises(ValueError):
        json.loads(second.removeprefix(b"data: "))
    assert client.is_complete


def test_a_stream_with_too_few_events_has_a_broken_last_event() -> None:
    client = call_with_fault(Streaming("one"), "broken-json;after_events=9")
    assert client.text == data("one") + b"data: [DON\n\n"


@pytest.mark.parametrize("fault", ["capacity", "edge-error", "broken-json", "no-done"])
def test_every_fault_may_have_a_delay(fault: str) -> None:
    async def call() -> bool:
        client = Client(Streaming("one"))
        calling = asyncio.create_task(client.call({"stream": True}, fault=f"{fault};delay=3600"))
        await eventually(lambda: client.fault_rules.num_delayed == 1)
        assert client.sent == []
        client.fault_rules.reset()
        await calling
        return header(client, "x-emulator-fault") == fault

    # The reset ends the delay, after which the fault is applied.
    assert asyncio.run(call())


def scripted_fault(app: ASGIApp, body: Any = None, **fault: Any) -> Client:
    """Calls an application whose script has a rule with this fault, as the backend does."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        context = context_of(scope)
        context.scripted_fault = Fault.model_validate(fault)
        context.inputs = {"stream": True} if body is None else body
        await app(scope, receive, send)

    async def call() -> Client:
        client = Client(answer, has_scripted_faults=True)
        calling = asyncio.create_task(client.call({"stream": True} if body is None else body))
        while not calling.done():
            await asyncio.sleep(0)
            client.fault_rules.reset()  # ends delays and stalls
        await calling
        return client

    return asyncio.run(call())


@pytest.mark.parametrize("name", ["cut-mid-event", "cut-mid-utf8", "stall", "cut-body"])
def test_a_fault_of_the_script_breaks_a_stream(name: str) -> None:
    app = Streaming("one", "two", is_endless=True)
    client = scripted_fault(app, fault=name)
    assert client.text.startswith(data("one")) and data("two") not in client.text
    assert app.saw_disconnect and not client.is_complete
    assert header(client, "x-emulator-fault") == name


def test_a_fault_of_the_script_may_have_options() -> None:
    client = scripted_fault(Streaming("one", "two"), fault="stall", after_events=2, delay=3600)
    assert client.text == data("one") + data("two") and not client.is_complete


def test_a_fault_of_the_script_changes_the_end_of_a_stream() -> None:
    assert scripted_fault(Streaming("one"), fault="no-done").text == data("one")
    double = scripted_fault(Streaming("one"), fault="double-done").text
    assert double == data("one") + END_OF_STREAM * 2


def test_a_fault_of_the_script_replaces_the_response() -> None:
    client = scripted_fault(Streaming("one", is_endless=True), fault="edge-error", status=520)
    assert client.sent[0]["status"] == 520 and b"<h1>" in client.text and client.is_complete
    client = scripted_fault(Streaming("one", is_endless=True), fault="reset")
    assert client.num_resets == 1 and client.sent == []


def test_a_fault_of_the_script_breaks_json() -> None:
    client = scripted_fault(repeat_body, {"key": "value"}, fault="broken-json")
    assert client.text == b'{"key": ' and client.is_complete


def test_a_fault_of_streams_in_the_script_does_not_change_other_responses() -> None:
    client = scripted_fault(repeat_body, {"key": "value"}, fault="no-done")
    assert json.loads(client.text) == {"key": "value"}
    assert header(client, "x-emulator-fault") is None


def test_the_response_to_an_error_of_the_script_names_the_fault() -> None:
    client = scripted_fault(repeat_body, {}, fault="capacity", delay=3600)
    assert header(client, "x-emulator-fault") == "capacity" and client.is_complete


def test_the_fault_of_a_call_comes_before_that_of_the_script() -> None:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        context_of(scope).scripted_fault = Fault(fault="no-done")
        await Streaming("one")(scope, receive, send)

    async def call() -> Client:
        client = Client(answer, has_scripted_faults=True)
        await client.call({"stream": True}, fault="double-done")
        return client

    assert asyncio.run(call()).text == data("one") + END_OF_STREAM * 2


def header(client: Client, name: str) -> str | None:
    return Headers(raw=client.sent[0]["headers"]).get(name)


async def refuse_calls(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("the application is called")


async def repeat_body(scope: Scope, receive: Receive, send: Send) -> None:
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    await Response(body)(scope, receive, send)


async def eventually(is_so: Callable[[], bool]) -> None:
    async def poll() -> None:
        while not is_so():
            await asyncio.sleep(0)

    await asyncio.wait_for(poll(), TIMEOUT_S)
