"""The request of an inference call that may get a fault."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from starlette.types import Message, Receive

from workers_ai_emulator.wire.body import compute, parse_body
from workers_ai_emulator.wire.calls import InferenceCall
from workers_ai_emulator.wire.context import CallContext
from workers_ai_emulator.wire.endpoints import Access
from workers_ai_emulator.wire.envelope import to_json
from workers_ai_emulator.wire.errors import WireError


class CallRequest:
    """The request of an inference call, after the middleware has read and parsed its body.

    `receive`: an ASGI `receive` that returns the messages with the body again. `receive_rest`: an
    ASGI `receive` that returns only later messages, such as a disconnect. `inputs`: the JSON value
    of the body; None if the body is not JSON. `model`: the name of the requested model, without
    the prefixes of bindings and AI Gateway; None if the request names no model.
    """

    def __init__(
        self, call: InferenceCall, inputs: Any, receive_rest: Receive, receive: Receive
    ) -> None:
        self.receive = receive
        self.receive_rest = receive_rest
        self.is_gateway = call.endpoint.access is Access.GATEWAY
        self.inputs = inputs
        names = (part.get(key) for part in _parts(self.inputs) for key in ("model", "endpoint"))
        model = call.model or next((name for name in names if isinstance(name, str)), None)
        self.model = model and _bare_name(model)
        self.is_stream = requests_stream(self.inputs)

    async def receive_without_stream(self, context: CallContext) -> Receive:
        """Returns an ASGI `receive` that returns the request's body with `stream` set to false."""
        for inputs in _inputs(self.inputs):
            if "stream" in inputs:
                inputs["stream"] = False
        body = await compute(context, to_json, self.inputs)
        messages = [{"type": "http.request", "body": body}]

        async def receive() -> Message:
            return messages.pop() if messages else await self.receive_rest()

        return receive


async def inputs_of(body: bytes, context: CallContext) -> Any:
    """Returns the JSON value of a request body, which may be gzipped; None if it is invalid.

    Sets `context.is_large`.
    """
    try:
        return await parse_body(body, context)
    except WireError:
        return None


def requests_stream(body: Any) -> bool:
    """Returns whether the JSON value of a request's body, or of a model's input, requests a stream.

    AI Gateway's universal endpoint takes a list of requests, of which one may request a stream.
    """
    return any(inputs.get("stream") is True for inputs in _inputs(body))


def _parts(body: Any) -> list[dict[str, Any]]:
    """Returns the requests in a body: AI Gateway's universal endpoint takes a list of requests."""
    parts = body if isinstance(body, list) else [body]
    return [part for part in parts if isinstance(part, dict)]


def _inputs(body: Any) -> Iterator[dict[str, Any]]:
    """Yields the JSON objects, in the body of a request, that may contain the key `stream`."""
    for part in _parts(body):
        yield part
        nested = (part.get(key) for key in ("inputs", "input", "query"))
        yield from (inputs for inputs in nested if isinstance(inputs, dict))


def _bare_name(model: str) -> str:
    """Removes the prefixes of bindings and AI Gateway, such as `workers-ai/`, from a name."""
    return model.rpartition(":")[2].removeprefix("workers-ai/").removeprefix("run/")
