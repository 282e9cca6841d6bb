"""The backend `upstream`: generates completions with another server that has OpenAI's API."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace

import httpx2

from workers_ai_emulator.backends import openai_api
from workers_ai_emulator.backends.decisions import decide_by_similarity
from workers_ai_emulator.backends.openai_api import UpstreamFailed
from workers_ai_emulator.backends.openai_events import EventDecoder
from workers_ai_emulator.backends.openai_request import OpenAIRequest, streaming_request
from workers_ai_emulator.backends.relayed import RunningGenerations, num_words
from workers_ai_emulator.backends.similarity import similarities
from workers_ai_emulator.engine.errors import (
    CapacityExceeded,
    ContextTooLong,
    EngineError,
    RequestRejected,
)
from workers_ai_emulator.engine.types import Chunk, SamplingParams, StartedGeneration, Usage
from workers_ai_emulator.errors import SettingInvalid
from workers_ai_emulator.models.catalog import ModelSpec
from workers_ai_emulator.network import check_certificates, proxy_for
from workers_ai_emulator.prompts.messages import Message
from workers_ai_emulator.tasks.decisions import DecisionRequest, Decisions
from workers_ai_emulator.tasks.embeddings import EmbeddingRequest, Embeddings, Scores
from workers_ai_emulator.tasks.text_generation import TextGenerationRequest
from workers_ai_emulator.urls import but_not
from workers_ai_emulator.wire.body import compute
from workers_ai_emulator.wire.context import CallContext

log = logging.getLogger(__name__)

_CONNECT_TIMEOUT_S = 10.0
# The HTTP client closes idle connections after this time, before the server does: a server with
# uvicorn closes them after 5 seconds. A request would fail if the client sent it just as the server
# closes the connection.
_KEEP_ALIVE_S = 3.0
_END_TIMEOUT_S = 1.0  # seconds to wait for the end of a response after its event `[DONE]`
_PROBE_INTERVAL_S = 1.0
_MAX_MODEL_NAMES = 1000  # for how many Workers AI names the upstream server's name is stored
_MAX_BODY_BYTES = 2**22  # longer error responses and lists of models are cut
_MAX_EMBEDDINGS_BYTES = 64 * 2**20  # of a response with embeddings


class UpstreamBackend:
    """Generates completions with another server, the upstream server.

    `url`: the base URL of the server's API, such as `http://127.0.0.1:8080/v1`. `api_key`: the key
    for the server; None: no key. `model`: the name of the server's model that is used for all
    requests. If `model` is None, the server's model with the requested Workers AI name is used or,
    if the server has no model with this name, its only model. A request fails if the server sends
    no bytes for `stall_timeout_s` seconds. Raises SettingInvalid if the URL, the key, or an
    environment variable for proxies or certificates is invalid.
    """

    def __init__(
        self, url: str, *, api_key: str | None, model: str | None, stall_timeout_s: float
    ) -> None:
        # Why the server cannot generate. None if it can, or if `start` was not called.
        self.failure: str | None = None
        self._start_spec: ModelSpec | None = None  # the model of `start`
        self._url = _checked_url(url)
        self._api_key = _checked_key(api_key)
        self._model = model
        self._model_names: dict[str, str] = {}  # key: Workers AI name; value: the server's name
        self._running = RunningGenerations()
        self._probing: asyncio.Task[None] | None = None
        self._client = httpx2.AsyncClient(
            headers={"authorization": f"Bearer {self._api_key}"} if self._api_key else {},
            timeout=httpx2.Timeout(stall_timeout_s, connect=_CONNECT_TIMEOUT_S, pool=None),
            transport=_transport(self._url),
        )

    def is_immediate(
        self, request: TextGenerationRequest, spec: ModelSpec, context: CallContext
    ) -> bool:
        return self._name_for(spec) is not None

    async def generate(
        self, request: TextGenerationRequest, spec: ModelSpec, context: CallContext
    ) -> StartedGeneration:
        model = self._name_for(spec) or await self._find_model(spec)
        upstream_request, body, num_tokens = await compute(context, _converted, request, model)
        decoder = EventDecoder(
            request.params.max_tokens or 0,
            separates_reasoning=request.separates_reasoning,
            has_tools=spec.traits.has_tools,
        )
        generation = self._running.start(
            self._chunks(spec, upstream_request, body, decoder),
            num_prompt_tokens=num_tokens,
            fingerprint=body,
        )
        return StartedGeneration(generation, model, lambda: upstream_request.prompt)

    async def embed(
        self, request: EmbeddingRequest, spec: ModelSpec, context: CallContext
    ) -> tuple[Embeddings, str]:
        """Sends the texts to the server's endpoint `/embeddings`.

        Sends no request if there is no text, because such servers refuse an empty list.
        """
        model = self._name_for(spec) or await self._find_model(spec)
        if not request.texts:
            return Embeddings([], 0), model
        body = {"model": model, "input": [*request.texts], "encoding_format": "float"}
        headers = {"content-type": "application/json"}
        with self._upstream_errors():
            url = f"{self._url}/embeddings"
            data = json.dumps(body).encode()
            async with self._client.stream("POST", url, content=data, headers=headers) as response:
                content = await _read(response, max_bytes=_MAX_EMBEDDINGS_BYTES)
                if not response.is_success:
                    raise self._error_from(response.status_code, content, max_tokens=0)
        vectors, num_tokens = await asyncio.to_thread(
            openai_api.embeddings, content, len(request.texts)
        )
        if num_tokens is None:
            num_tokens = sum(map(num_words, request.texts))
        return Embeddings(vectors, num_tokens), model

    async def rank(
        self, request: EmbeddingRequest, spec: ModelSpec, context: CallContext
    ) -> tuple[Scores, str]:
        """Scores texts by the similarity of embeddings, because OpenAI's API has no ranking."""
        texts = (request.query or "", *request.texts)
        embeddings, model = await self.embed(replace(request, texts=texts), spec, context)
        scores = await asyncio.to_thread(similarities, embeddings.vectors)
        return Scores(scores, embeddings.num_tokens), model

    async def decide(
        self, request: DecisionRequest, spec: ModelSpec, context: CallContext
    ) -> tuple[Decisions, str]:
        """Decides by the similarity of embeddings, because OpenAI's API has no decisions."""
        return await decide_by_similarity(self.embed, request, spec, context)

    async def start(self, spec: ModelSpec) -> None:
        """Waits until the upstream server has generated a token with the model `spec`.

        After a failed attempt, `failure` contains the reason why the server cannot generate.
        """
        self._start_spec = spec
        self._probing = asyncio.create_task(self._probe_until_ready(spec))
        await self._probing

    def cancel_all(self) -> None:
        self._running.cancel_all()

    async def close(self) -> None:
        self.cancel_all()
        if self._probing is not None:
            self._probing.cancel()
        await self._client.aclose()

    # ── requests ──────────────────────────────────────────────────────────────────────────────

    def _name_for(self, spec: ModelSpec) -> str | None:
        return self._model or self._model_names.get(spec.name)

    async def _find_model(self, spec: ModelSpec) -> str:
        """Requests the server's list of models, and returns the server's name for `spec`.

        The name is the Workers AI name or, if the list does not contain it, the name of the
        server's only model. Raises UpstreamFailed if neither exists, or if the request fails.
        """
        with self._upstream_errors():
            async with self._client.stream("GET", f"{self._url}/models") as response:
                body = await _read(response)
                if not response.is_success:
                    raise self._error_from(response.status_code, body, max_tokens=0)
            names = openai_api.model_names(body)
            if spec.name not in names and len(names) != 1:
                listed = ", ".join(names) or "none"
                raise UpstreamFailed(f"has these models: {listed}; name one with --upstream-model")
        name = spec.name if spec.name in names else names[0]
        self._model_names[spec.name] = name
        if len(self._model_names) > _MAX_MODEL_NAMES:  # with --any-model, clients choose the names
            del self._model_names[next(iter(self._model_names))]
        return name

    async def _chunks(
        self, spec: ModelSpec, request: OpenAIRequest, body: str, decoder: EventDecoder
    ) -> AsyncGenerator[Chunk | Usage]:
        """Sends a request to the upstream server, and yields the completion and its usage.

        `body`: the JSON text of the request's body.
        Closing the generator early closes the connection, so that the server stops generating.
        Raises an EngineError if the request fails.
        """
        with self._upstream_errors():
            async with self._response(request, body, decoder.max_tokens) as response:
                events = aiter(_events(response))
                async for event in events:
                    for chunk in decoder.feed(event.data, event.event):
                        yield chunk
                    if decoder.is_done:
                        await _read_rest(events)
                        break
            if decoder.left_out_tool:
                reason = "the call is left out, because the model has no tools on Workers AI"
                log.warning("%s called the tool %s: %s", spec.name, decoder.left_out_tool, reason)
            for item in decoder.flush():
                yield item

    @asynccontextmanager
    async def _response(
        self, request: OpenAIRequest, body: str, max_tokens: int
    ) -> AsyncGenerator[httpx2.Response]:
        """Sends a request to the upstream server. Yields its response, which is not yet read.

        `body`: the JSON text of the request's body.
        If the server answers that the prompt and `max_tokens` exceed its context length, and if
        the request may be shortened, sends it again without `max_tokens`. Raises an EngineError if
        the response is an error.
        """
        headers = {"content-type": "application/json", "accept-encoding": "identity"}
        url, content = self._url + request.path, body.encode()
        async with self._client.stream("POST", url, content=content, headers=headers) as response:
            if response.is_success:
                yield response
                return
            error = self._error_from(response.status_code, await _read(response), max_tokens)
        if not (request.may_shorten and isinstance(error, ContextTooLong)):
            raise error
        shortened = request.without_max_tokens()
        async with self._response(shortened, json.dumps(shortened.body), max_tokens) as response:
            yield response

    # ── failures ──────────────────────────────────────────────────────────────────────────────

    def _error_from(self, status: int, body: str, max_tokens: int) -> EngineError:
        if self._api_key:
            body = body.replace(self._api_key, "***")  # some error texts contain the API key
        error = openai_api.error_from(status, body, max_tokens)
        if isinstance(error, CapacityExceeded) and not self.failure:
            message = openai_api.one_line(body)
            log.warning("upstream at %s answers %d: %s", self._url, status, message)
        if status >= 500 and status != 503:
            # The server may be a relay whose own server is down. 503 only means that it is busy.
            self._watch()
        if status == 404:
            self._model_names.clear()  # the server's models may have changed
        return error

    @contextmanager
    def _upstream_errors(self) -> Iterator[None]:
        """Converts errors of HTTP requests in the `with` block to UpstreamFailed.

        The error text contains the server's URL. If the connection fails or times out after
        `start`, sets `failure`, and starts a task that sends test requests until the server
        generates a token.
        """
        try:
            yield
        except UpstreamFailed as error:
            raise UpstreamFailed(f"upstream at {self._url} {error}") from error
        except httpx2.SSEError as error:
            raise UpstreamFailed(f"upstream at {self._url} streams no events: {error}") from error
        except httpx2.HTTPError as error:
            failure = f"upstream at {self._url} does not answer: {_reason(error)}"
            if self._start_spec is not None:
                self.failure = failure
            self._watch()
            raise UpstreamFailed(failure) from error

    def _watch(self) -> None:
        """Starts the task that sends test requests until the upstream server generates a token.

        Does nothing if the task is running, or if `start` was not called. The test requests name
        the model of `start`: the server may have no chat completions for the model of another
        request, such as an embedding model.
        """
        if self._start_spec is not None and (self._probing is None or self._probing.done()):
            self._probing = asyncio.create_task(self._probe_until_ready(self._start_spec))

    async def _probe_until_ready(self, spec: ModelSpec) -> None:
        logged = None
        while failure := await self._probe(spec):
            if failure != logged:
                log.warning("not ready: %s", failure)
            self.failure = logged = failure
            await asyncio.sleep(_PROBE_INTERVAL_S)
        self.failure = None

    async def _probe(self, spec: ModelSpec) -> str | None:
        """Requests one token from the server. Returns an error text if that fails, else None."""
        params = SamplingParams(max_tokens=1)
        hello = [Message("user", "Hello")]
        request = TextGenerationRequest(None, hello, raw=False, stream=True, params=params)
        try:
            started = await self.generate(request, spec, CallContext())
            async for _ in started.generation:
                pass
        except (CapacityExceeded, ContextTooLong, RequestRejected) as error:
            return f"upstream at {self._url} generates nothing: {error}"
        except EngineError as error:
            return str(error)
        return None


def _converted(request: TextGenerationRequest, model: str) -> tuple[OpenAIRequest, str, int]:
    """Returns the request to the server, its body as JSON, and the number of its prompt's words."""
    converted = streaming_request(request, model)
    return converted, json.dumps(converted.body), num_words(converted.prompt)


def _checked_url(url: str) -> str:
    """Checks the upstream URL, and returns it without trailing slashes.

    Raises SettingInvalid if the URL is invalid.
    """
    if "@" in url:
        raise SettingInvalid(
            "--upstream-url takes no user or password (use --upstream-api-key), and no `@` in the "
            "path (write %40)"
        )
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise SettingInvalid(f"--upstream-url takes a URL{but_not(url)}: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.query or parsed.fragment:
        raise SettingInvalid(
            f"--upstream-url takes a URL such as http://127.0.0.1:8080/v1{but_not(url)}"
        )
    return url.rstrip("/")


def _transport(url: str) -> httpx2.AsyncHTTPTransport:
    """Returns the transport for requests to the upstream server.

    The transport uses the proxy in the user's environment variables. It uses no proxy if NO_PROXY
    excludes the server, or if the server runs on this machine. Raises SettingInvalid if a variable
    for proxies or certificates is invalid.
    """
    check_certificates()
    limits = httpx2.Limits(max_connections=None, keepalive_expiry=_KEEP_ALIVE_S)
    return httpx2.AsyncHTTPTransport(proxy=proxy_for(url), limits=limits)


def _checked_key(key: str | None) -> str | None:
    if key is not None and not (key.isascii() and key.isprintable() and key.strip()):
        raise SettingInvalid("--upstream-api-key takes plain characters on one line")
    return key


async def _read(response: httpx2.Response, *, max_bytes: int = _MAX_BODY_BYTES) -> str:
    """Returns the text of a response's body. Stops reading after `max_bytes`."""
    body = bytearray()
    async for part in response.aiter_bytes():
        body += part
        if len(body) > max_bytes:
            break
    return body.decode("utf-8", "replace")


def _events(response: httpx2.Response) -> httpx2.EventSource:
    """Returns the events of a streamed response.

    Decodes the events as UTF-8 with an optional byte order mark, as the standard for events
    requires. httpx2 would use the charset of the response's `content-type`. Also adds an empty line
    after the last event, because some servers omit it.
    """
    response.encoding = "utf-8-sig"
    if isinstance(response.stream, httpx2.AsyncByteStream):
        response.stream = _TerminatedStream(response.stream)
    return httpx2.EventSource(response)


class _TerminatedStream(httpx2.AsyncByteStream):
    """The body of a streamed response, followed by an empty line, which ends the last event.

    If the connection breaks off, the empty line is not added, so the incomplete last event is
    ignored.
    """

    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._stream:
            yield part
        yield b"\n\n"

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _read_rest(events: AsyncIterator[httpx2.ServerSentEvent]) -> None:
    """Reads the rest of a streamed response, for at most 1 second.

    httpx2 reuses a connection only if its last response was read to the end.
    """
    # Errors are ignored, because all events of the completion have already arrived.
    with suppress(TimeoutError, httpx2.TransportError):
        async with asyncio.timeout(_END_TIMEOUT_S):
            async for _ in events:
                pass


def _reason(error: BaseException) -> str:
    """Returns the reason why an HTTP request failed, as text for error messages.

    Uses the operating system's text, such as "Connection refused", if there is one. Otherwise, uses
    httpx2's text.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx2.ConnectTimeout):
        return f"no connection within {_CONNECT_TIMEOUT_S:.0f} s"
    if isinstance(error, httpx2.TimeoutException):
        return "it sends nothing"
    return str(error) or type(error).__name__
