"""Tests that the response formats write the recorded bytes, from the chunks of the recordings.

In the recordings, `…` replaces a part that their authors left out, and matches anything. Ids, times
and padding may differ, and the emulator knows neither cached tokens nor the ids of stop tokens.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from workers_ai_emulator.engine.types import Chunk, FinishReason, ToolCallDelta
from workers_ai_emulator.models.catalog import CATALOG
from workers_ai_emulator.models.price import Price
from workers_ai_emulator.models.spec import ModelSpec
from workers_ai_emulator.prompts.tools import Tool
from workers_ai_emulator.tasks.json_mode import JsonMode
from workers_ai_emulator.tasks.response_formats.choice import chat_format, run_format
from workers_ai_emulator.wire.envelope import success, to_json

from tests.generations import FakeGeneration, data, events, request, spec, whole

RECORDINGS = Path(__file__).parents[1] / "data" / "recordings"
BODIES = {
    row["name"]: row["body"]
    for row in map(json.loads, (RECORDINGS / "today.jsonl").read_text("utf-8").splitlines())
}
BARE, CHAT = run_format(to_json), chat_format(include_usage=True)
STOP, TOOL_CALLS = Chunk(finish_reason=FinishReason.STOP), FinishReason.TOOL_CALLS
QWEN3 = spec("@cf/qwen/qwen3-30b-a3b-fp8", form="choices", server="vllm", has_tools=True)
NEMOTRON = CATALOG["@cf/nvidia/nemotron-3-120b-a12b"]
GPT_OSS = spec("@cf/openai/gpt-oss-20b", form="choices", server="vllm", has_tools=True)
KIMI = spec(
    "@cf/moonshotai/kimi-k2.6",
    Price.in_usd(0.95, 4),
    form="choices",
    server="sglang",
)
GLM_5_2, GLM = CATALOG["@cf/zai-org/glm-5.2"], CATALOG["@cf/zai-org/glm-5.3-flash"]
GEMMA_4 = spec(
    "@cf/google/gemma-4-26b-a4b-it-external",
    Price.in_usd(0.1, 0.3),
    form="choices",
    server="sglang",
)
LLAMA_3_3 = CATALOG["@cf/meta/llama-3.3-70b-instruct-fp8-fast"]
LLAMA_4 = CATALOG["@cf/meta/llama-4-scout-17b-16e-instruct"]
LLAMA_3 = spec(LLAMA_3_3.name, has_tools=True, json_mode="object")
LLAMA_3_OF_2025 = spec(LLAMA_3_3.name, has_tools=True, is_retired=True)
WITH_TOOLS = replace(request(), tools=(Tool("f", "", {}),))

_BLANKED = [
    (r'"id":"[^"]*"', '"id":"<id>"'),
    (r'"created":(\d+|…)', '"created":<s>'),
    (r',"p":"[^"]*"', ""),
    (r'"(matched_stop|stop_reason)":\d+', r'"\1":null'),
    (r'"cached_tokens":\d+', '"cached_tokens":0'),
]


def recorded(name: str) -> list[str]:
    return data((RECORDINGS / name).read_text("utf-8"))


def blank(text: str) -> str:
    """Returns the text with placeholders for the values that may differ."""
    for pattern, placeholder in _BLANKED:
        text = re.sub(pattern, placeholder, text)
    return text


def assert_like(sent: list[str], recording: list[str]) -> None:
    """Asserts that each text has the bytes of the recorded one."""
    for ours, theirs in zip(map(blank, sent), map(blank, recording), strict=True):
        parts = [re.escape(part) for part in theirs.split("…")]
        assert re.fullmatch(".+".join(parts), ours), f"\n{ours}\n{theirs}"


def without_neurons(text: str) -> str:
    """Returns the text without the neurons, which some of the recordings do not contain."""
    return re.sub(r',"neurons":[\d.]+', "", text)


def call(index: int, arguments: str = "", name: str | None = None, num: int = 1) -> Chunk:
    return Chunk(tool_call=ToolCallDelta(index, arguments, name), num_tokens=num)


# ── streams ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.recorded
def test_gemma_4_streams_the_counts_of_each_event_and_their_sum() -> None:
    first, text, gap, *rest = recorded("choices-gemma-4-2026-10.sse")
    assert gap == "…"
    sent = events(BARE, GEMMA_4, FakeGeneration([Chunk("أ")] * 15 + [STOP], 147))
    assert_like(sent, [first, *[text] * 15, *rest])


@pytest.mark.recorded
def test_qwen3_streams_reasoning_and_tool_calls_with_growing_counts() -> None:
    chunks = [
        Chunk(reasoning="\n", num_tokens=2),
        Chunk("\n\n", num_tokens=91),
        call(0, name="add_todo", num=9),
        call(0, '{"task": "', num=5),
        call(0, '","time":"tomorrow at 2pm"}', num=10),
        Chunk(finish_reason=TOOL_CALLS, num_tokens=10),
    ]
    sent = events(BARE, QWEN3, FakeGeneration(chunks, 192))
    assert_like(sent, recorded("choices-qwen3-tool-2026-04.sse"))


@pytest.mark.recorded
def test_glm_streams_tool_calls_with_null_for_what_is_absent() -> None:
    """The author of the recording removed some keys, so only the deltas are compared."""
    chunks = [
        call(0, name="set_heading", num=9),
        call(0, '{"block": "b_hero', num=9),
        Chunk(finish_reason=TOOL_CALLS),
    ]
    sent = [without_neurons(e) for e in events(BARE, GLM, FakeGeneration(chunks, 172))]
    recording = recorded("choices-glm-tool-2026-10.sse")
    deltas = [re.sub(r',"logprobs".*|,…$', "…", event) for event in recording[:3]]
    assert_like(sent[1:4], deltas)
    assert_like(sent[4:], [f"{recording[3][:13]}…", *recording[4:]])


@pytest.mark.recorded
def test_gpt_oss_streams_reasoning_and_tool_calls_through_the_gateway() -> None:
    recording = recorded("openai-compat-gpt-oss-20b-gateway-2026-05.sse")
    empty = [event for event in recording if '"delta":{"reasoning_content":""}' in event]
    assert len(empty) == 1  # the token that begins the reasoning; the emulator sends no such event
    recording.remove(empty[0])
    deltas = [json.loads(event)["choices"][0]["delta"] for event in recording[1:-4]]
    reasoning = [
        Chunk(reasoning=d["reasoning_content"])
        for d in deltas
        if len(d) == 1 and "reasoning_content" in d
    ]
    parts = [d["tool_calls"][0]["function"] for d in deltas if "tool_calls" in d]
    calls = [call(0, part["arguments"], part.get("name")) for part in parts]
    assert len(reasoning) + len(calls) == len(deltas)
    num_rest = 37 - len(deltas)
    last = Chunk(finish_reason=TOOL_CALLS, num_tokens=num_rest)
    assert_like(events(CHAT, GPT_OSS, FakeGeneration([*reasoning, *calls, last], 136)), recording)


@pytest.mark.recorded
def test_glm_streams_its_counts_in_alphabetical_order_and_then_those_of_the_service() -> None:
    """The recording has the first text, and the events with the counts.

    The emulator sends null for the details, as SGLang does if it has cached nothing.
    """
    text, counts, *rest = recorded("openai-compat-glm-5.2-2026-07.sse")
    counts = counts.replace('{"cached_tokens":14528}', "null")
    sent = events(CHAT, GLM_5_2, FakeGeneration([Chunk("ok", num_tokens=2), STOP], 14571))
    assert_like([sent[1], *sent[3:]], [text, counts, *rest])


@pytest.mark.recorded
def test_a_model_with_tools_streams_its_text_with_empty_lists_of_calls() -> None:
    recording = recorded("native-llama3.3-2025.sse")
    texts = [json.loads(event)["response"] for event in recording[1:-4]]
    last = Chunk(finish_reason=FinishReason.STOP, num_tokens=48 - len(texts))
    chunks = [*map(Chunk, texts), last]
    assert_like(events(BARE, LLAMA_3_OF_2025, FakeGeneration(chunks, 169)), recording)


@pytest.mark.recorded
def test_llama_3_3_streams_both_forms_in_each_event() -> None:
    chunks = [Chunk("a"), Chunk("b", num_tokens=3), Chunk("c", FinishReason.STOP, num_tokens=2)]
    sent = events(BARE, LLAMA_3_3, FakeGeneration(chunks, 82))
    assert_like(sent, recorded("both-llama3.3-2026-10.sse"))


@pytest.mark.recorded
def test_llama_3_3_streams_the_parts_of_tool_calls_in_both_forms() -> None:
    chunks = [
        call(0, name="f", num=14),
        call(0, '{"a": "', num=8),
        *[call(0, part) for part in ("b", ".c", "d", '"}')],
        Chunk(finish_reason=TOOL_CALLS),
    ]
    sent = events(BARE, LLAMA_3_3, FakeGeneration(chunks, 242), WITH_TOOLS)
    assert_like(sent, recorded("both-llama3.3-tool-2026-10.sse"))


@pytest.mark.recorded
def test_llama_3_3_streams_no_empty_arguments() -> None:
    chunks = [
        call(0, name="f", num=13),
        call(0, "{", num=2),
        call(0, "}", num=3),
        Chunk(finish_reason=TOOL_CALLS),
    ]
    sent = events(BARE, LLAMA_3_3, FakeGeneration(chunks, 333), WITH_TOOLS)
    assert_like(sent, recorded("both-llama3.3-tool-without-arguments-2026-10.sse"))


@pytest.mark.recorded
def test_llama_3_3_streams_a_number_in_the_keys_of_workers_ai() -> None:
    chunks = [call(0, '{"a": ', "f"), call(0, " 50"), call(0, "}"), STOP]
    sent = events(BARE, LLAMA_3_3, FakeGeneration(chunks), WITH_TOOLS)
    assert_like(sent[3:4], recorded("both-llama3.3-number-2026-10.sse"))


# ── whole bodies ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.recorded
def test_gemma_4_sends_keys_in_alphabetical_order_and_neurons() -> None:
    chunks = [Chunk("yes", num_tokens=15), STOP]
    assert_like([whole(BARE, GEMMA_4, FakeGeneration(chunks, 147))], [BODIES["gemma-4"]])


@pytest.mark.recorded
def test_qwen3_sends_its_reasoning_beside_the_content() -> None:
    chunks = [Chunk(reasoning="\nHm."), Chunk("\n\nyes"), STOP]
    assert_like([whole(BARE, QWEN3, FakeGeneration(chunks))], [BODIES["qwen3"]])


@pytest.mark.recorded
@pytest.mark.parametrize(
    ("name", "model", "num_prompt", "num_completion"),
    [("kimi", KIMI, 223, 1200), ("glm-reasoning", GLM_5_2, 19, 16)],
)
def test_sglang_sends_reasoning_and_neurons_below_ai_v1(
    name: str, model: ModelSpec, num_prompt: int, num_completion: int
) -> None:
    cut = Chunk(reasoning="Hm.", finish_reason=FinishReason.LENGTH, num_tokens=num_completion)
    assert_like([whole(CHAT, model, FakeGeneration([cut], num_prompt))], [BODIES[name]])


@pytest.mark.recorded
def test_sglang_sends_no_key_for_absent_reasoning_below_ai_v1() -> None:
    """The recorded neurons are fewer, because the service had cached a part of the prompt."""
    body = whole(CHAT, GLM_5_2, FakeGeneration([Chunk("ok", num_tokens=2), STOP], 376))
    assert_like([without_neurons(body)], [without_neurons(BODIES["glm"])])


@pytest.mark.recorded
def test_vllm_sends_token_ids_and_neurons_below_ai_v1() -> None:
    """Nemotron has its reasoning in `reasoning`, and null as content if there is no text."""
    cut = Chunk(reasoning="Hm.", finish_reason=FinishReason.LENGTH, num_tokens=16)
    body = whole(CHAT, NEMOTRON, FakeGeneration([cut], 23))
    assert_like([body], [BODIES["nemotron"].replace("3.2110000000000003", "3.21…")])


@pytest.mark.recorded
def test_a_native_result_has_details_of_the_counts() -> None:
    text = Chunk("I cannot provide the exact rating of it.", num_tokens=29)
    body = whole(BARE, LLAMA_3, FakeGeneration([text, STOP], 647))
    assert_like([without_neurons(body)], [BODIES["native-details"]])


@pytest.mark.recorded
def test_a_native_tool_call_has_no_text_no_id_and_an_object_as_arguments() -> None:
    chunks = [
        call(0, name="stock_add"),
        call(0, '{"producto": "camisa celeste",', num=20),
        call(0, ' "cantidad": "4"}', num=25),
        Chunk(finish_reason=TOOL_CALLS),
    ]
    body = whole(BARE, LLAMA_3_OF_2025, FakeGeneration(chunks, 2374))
    assert_like([body], [BODIES["native-tool-call"]])


@pytest.mark.recorded
def test_llama_3_3_sends_a_tool_call_in_both_forms() -> None:
    chunks = [call(0, "{}", "f", 21), Chunk(finish_reason=TOOL_CALLS)]
    body = whole(BARE, LLAMA_3_3, FakeGeneration(chunks, 507), WITH_TOOLS)
    assert_like([body], [BODIES["both-tool-call"]])


@pytest.mark.recorded
def test_llama_3_3_sends_a_text_that_is_a_json_object_as_an_object_too() -> None:
    text = '{"type": "function", "function": {"name": "f", "parameters": {}}}'
    sent = json.loads(
        whole(BARE, LLAMA_3_3, FakeGeneration([Chunk(text, num_tokens=21), STOP], 507), WITH_TOOLS)
    )
    recording = json.loads(BODIES["both-json-text"])
    assert sent["response"] == recording["response"]
    assert sent["choices"][0]["message"] == recording["choices"][0]["message"]
    assert (sent["model"], sent["tool_calls"], sent["usage"]) == (
        recording["model"],
        recording["tool_calls"],
        recording["usage"],
    )


@pytest.mark.recorded
def test_llama_4_sends_the_recorded_keys_and_others_that_the_recording_may_lack() -> None:
    sent = json.loads(whole(BARE, LLAMA_4, FakeGeneration([Chunk("ok"), STOP], 15)))
    recording = json.loads(BODIES["both-scout"])
    assert {k: v for k, v in sent.items() if v is not None} | {
        key: recording[key] for key in ("created", "id", "usage")
    } == recording
    assert sent["usage"].items() >= recording["usage"].items()
    assert list(sent) == sorted(sent)


@pytest.mark.recorded
def test_a_native_result_in_json_mode_is_an_object() -> None:
    recording = BODIES["native-json-mode"].replace('"tool_calls":[],', "")  # absent since 2026-04
    chunks = [Chunk('{"server_id": "foobar", "hello": "world"}'), STOP]
    json_mode = request(json_mode=JsonMode(None))
    body = whole(run_format(success), LLAMA_3, FakeGeneration(chunks), json_mode)
    assert_like([body], [recording])
