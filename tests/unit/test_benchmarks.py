"""Tests how the benchmarks parse responses, and what they compute from them."""

from __future__ import annotations

import json

import pytest

from benchmarks import lone, projection, prompts, servers
from benchmarks.client import ChatRequest, Completion, TimedResponse
from benchmarks.conditions import MODEL_NAME
from benchmarks.measurements import TOKEN_TIME, Measurement

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
REQUEST = ChatRequest("Hello", max_tokens=8)


def event(text: str | None = None, **fields: object) -> bytes:
    choice = {"delta": {"content": text} if text else {}, "finish_reason": None}
    data = json.dumps({"choices": [choice | fields]}, ensure_ascii=False)
    return b"data: %s\n\n" % data.encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


END = event(finish_reason="length")
USAGE = b'data: {"choices": [], "usage": {"completion_tokens": 5}}\n\n'
DONE = b"data: [DONE]\n\n"


def response(*reads: tuple[float, bytes]) -> TimedResponse:
    return TimedResponse(REQUEST, 0.5, list(reads))


def test_all_events_of_one_read_arrive_at_the_same_moment() -> None:
    completion = response(
        (1.0, HEAD + chunk(event("a"))),
        (2.0, chunk(event("b")) + chunk(event("c") + event("d"))),
        (3.0, chunk(event("e")) + chunk(END) + chunk(USAGE) + chunk(DONE) + b"0\r\n\r\n"),
    ).completion()
    assert completion.text == "abcde"
    assert completion.arrivals == [1.0, 2.0, 2.0, 2.0, 3.0]
    assert completion.is_finished
    assert (completion.ttft_s, completion.after_first_s) == (0.5, 2.0)
    assert (completion.num_tokens, completion.num_later_tokens) == (5, 4)


def test_an_event_with_the_text_of_several_tokens_counts_as_these_tokens() -> None:
    completion = response(
        (1.0, HEAD + chunk(event("a"))), (2.0, chunk(event("bcde") + END + USAGE))
    ).completion()
    assert (completion.num_tokens, len(completion.arrivals)) == (5, 2)


def test_a_last_token_without_text_takes_time_until_the_finish_reason() -> None:
    completion = response(
        (1.0, HEAD + chunk(event("a"))), (2.0, chunk(event("b"))), (4.0, chunk(END + USAGE))
    ).completion()
    assert completion.after_first_s == 3.0


@pytest.mark.parametrize("size", [1, 7, 50])
def test_events_may_be_divided_among_chunks_and_reads_anywhere(size: int) -> None:
    data = event("a") + event("b\né") + END + USAGE + DONE
    raw = HEAD + b"".join(chunk(data[i : i + 11]) for i in range(0, len(data), 11)) + chunk(b"")
    reads = [(float(i), raw[i : i + size]) for i in range(0, len(raw), size)]
    completion = response(*reads).completion()
    assert (completion.text, completion.is_finished) == ("ab\né", True)
    assert len(completion.arrivals) == 2


def test_only_requests_with_a_temperature_have_a_seed() -> None:
    greedy, sampled = (
        json.loads(ChatRequest("Hello", 8, temperature=t, seed=7).body()) for t in (0.0, 0.6)
    )
    assert "seed" not in greedy and "top_k" not in greedy
    assert (sampled["temperature"], sampled["seed"], sampled["top_k"]) == (0.6, 7, 40)
    assert greedy["model"] == sampled["model"] == MODEL_NAME


def run(token_s: float, text: str = "", num_accepted: int = 0) -> Measurement:
    """Returns a measurement with one completion of 10 tokens."""
    completion = Completion(REQUEST, 0.0, text, num_reported_tokens=10, is_finished=True)
    return Measurement(
        1 / token_s, token_s, [token_s], [], 0, [completion], num_accepted_tokens=num_accepted
    )


def test_a_ratio_is_the_median_of_the_ratios_of_all_turns() -> None:
    runs = {
        servers.OURS: [run(1.0), run(4.0), run(6.0)],
        "llama-server": [run(2.0), run(2.0), run(5.0)],
    }
    assert lone.ratio(TOKEN_TIME, runs, servers.OURS) == "1.20"


def test_the_table_of_one_client_counts_texts_that_differ_from_the_first() -> None:
    runs = {
        servers.OURS: [run(1.0, "a", num_accepted=5), run(1.0, "a", num_accepted=5)],
        f"{servers.OURS} {lone.NO_DRAFTS}": [run(2.0, "a"), run(2.0, "a")],
        f"{servers.OURS} {lone.NO_DETERMINISTIC}": [run(1.0, "a"), run(1.0, "b")],
        "llama-server": [run(1.0, "c"), run(1.0, "a")],
    }
    rows = [line.strip("| ").split(" | ") for line in lone.table(runs).splitlines()]
    assert [row[-1] for row in rows[2:6]] == ["0 of 2", "0 of 2", "1 of 2", "1 of 2"]
    assert [row[5] for row in rows[2:6]] == ["2.00", "1.00", "1.00", "not measured"]
    assert [row[1] for row in rows[6:]] == ["1.00", "2.00", "1.00"]
    assert lone.summary(runs) == ["1.00", "1.00", "1.00", "2.00", "2.00", "1.00"]


@pytest.mark.parametrize("num_words", [50, 1650, 2400])
def test_a_long_prompt_has_the_requested_number_of_words(num_words: int) -> None:
    text = prompts.long_prompt(num_words)
    assert len(text.split()) == num_words
    assert text.endswith("How does it begin?")
    assert text[:40] != prompts.long_prompt(num_words, first=20)[:40]


def times(*durations: float) -> projection.CallTimes:
    """Returns the durations of decode calls with 1, 2, 3, 4, 6, 8 and 16 rows."""
    rows_s = dict(zip(projection.NUM_ROWS, durations, strict=True))
    return projection.CallTimes(1.0, rows_s)


REPEATED = projection.Text(list(b"A text. "), list(b"A text. " * 12))


def test_calls_of_several_rows_are_projected_if_they_take_as_long_as_one() -> None:
    replayed = projection.replay([REPEATED], times(*[1.0] * 7))
    assert replayed.num_tokens == 95
    assert replayed.num_calls < 20
    assert replayed.duration_s == pytest.approx(replayed.num_calls)


def test_calls_of_one_row_are_projected_if_more_rows_save_no_time() -> None:
    replayed = projection.replay([REPEATED], times(*(2.0 * n for n in projection.NUM_ROWS)))
    assert replayed == projection.Replay(num_tokens=95, num_calls=95, duration_s=190.0)
