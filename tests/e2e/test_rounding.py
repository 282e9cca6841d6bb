"""Tests that llama.cpp's logits are equal bit for bit if the engine follows its batching rules."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import llama_cpp.llama_cpp as llama
import numpy as np
import pytest
from workers_ai_emulator.engine.gguf import read_header
from workers_ai_emulator.engine.llama import LlamaModel, LlamaRunner
from workers_ai_emulator.engine.tiling import Tiling
from workers_ai_emulator.engine.types import Span
from workers_ai_emulator.models.catalog import CATALOG
from workers_ai_emulator.models.store import Store
from workers_ai_emulator.settings import Settings

from tests.server import FP16, INT8

VOCABULARY = Path(__file__).parents[1] / "data" / "llama2-vocab.gguf"
NUM_SLOTS = 4
NUM_STEPS = 2
TILING = Tiling()
TOKENS = random.Random(1).choices(range(100, 40_000), k=700)
# Prompt lengths with and without tiles, which are 64 or more rows of one sequence in one call. Some
# prompts are longer than the length from which llama.cpp splits the attention of a single row.
LENGTHS = [1, 40, 270, 600]


@pytest.fixture(scope="module", params=[INT8, FP16])
def runner(request: pytest.FixtureRequest) -> Iterator[LlamaRunner]:
    settings = Settings()
    weights = Store(settings.models_dir, num_threads=settings.threads).weights(
        CATALOG[request.param]
    )
    runner = LlamaRunner(
        LlamaModel(weights.path),
        num_slots=NUM_SLOTS,
        context_length=768,
        batch_length=TILING.batch_length,
        num_threads=2,
    )
    yield runner
    runner.close()


def evaluate(runner: LlamaRunner, slot: int, length: int, *, most_rows: int = 64) -> np.ndarray:
    """Evaluates the first `length` test tokens in a slot, and returns the last token's logits.

    Each decode call is a tile or has at most `most_rows` rows.
    """
    runner.truncate(slot, 0)
    start = 0
    while start < length:
        size = TILING.next_length(start, length)
        size = size if size >= TILING.length else min(size, most_rows)
        span = Span(slot, start, TOKENS[start : start + size], num_outputs=1)
        runner.decode([span])
        start += size
    return runner.logits(0).copy()


def go_on(runner: LlamaRunner, slot: int, length: int, others: list[int]) -> np.ndarray:
    """Returns the logits of the steps after a prompt of `length` tokens.

    In each step, the decode call also evaluates one token for each of the slots in `others`.
    """
    slots = sorted([slot, *others])
    starts = {other: 10 * (other + 1) for other in others} | {slot: length}
    for other in slots:
        evaluate(runner, other, starts[other])
    steps = []
    for step in range(NUM_STEPS):
        positions = [(other, starts[other] + step) for other in slots]
        runner.decode([Span(s, p, [TOKENS[p]], num_outputs=1) for s, p in positions])
        steps.append(runner.logits(slots.index(slot)).copy())
    return np.concatenate(steps)


@pytest.mark.parametrize("length", LENGTHS)
def test_rows_may_be_divided_into_calls_anywhere(runner: LlamaRunner, length: int) -> None:
    expected = evaluate(runner, 0, length)
    for most_rows in (62, 9, 1)[: 3 if length < 100 else 2]:
        assert np.array_equal(evaluate(runner, 0, length, most_rows=most_rows), expected)


def test_prompts_may_be_evaluated_in_one_call(runner: LlamaRunner) -> None:
    starts = [0, 40, 280]  # the numbers of cached tokens in slots 0, 1, 2
    expected = [evaluate(runner, 0, start + 20) for start in starts]
    for slot, start in enumerate(starts):
        runner.truncate(slot, 0)
        if start:
            evaluate(runner, slot, start)
    rests = [TOKENS[start : start + 20] for start in starts]
    runner.decode([Span(i, starts[i], rest, num_outputs=1) for i, rest in enumerate(rests)])
    for row, logits in enumerate(expected):
        assert np.array_equal(runner.logits(row), logits)


def test_tiles_may_be_divided_into_calls_of_64_rows_and_more(runner: LlamaRunner) -> None:
    expected = evaluate(runner, 0, 700)
    for sizes in ((64, 191, 65, 127), (447,)):
        evaluate(runner, 1, TILING.start)
        start = TILING.start
        for size in (*sizes, 1):
            span = Span(1, start, TOKENS[start : start + size], num_outputs=1)
            runner.decode([span])
            start += size
        assert start == 700
        assert np.array_equal(runner.logits(0), expected)


@pytest.mark.parametrize("length", LENGTHS)
def test_a_row_has_the_same_logits_alone_and_together_with_others(
    runner: LlamaRunner, length: int
) -> None:
    expected = go_on(runner, 0, length, others=[])
    for slot, others in ((0, [1]), (1, [0, 2, 3]), (2, [])):
        assert np.array_equal(go_on(runner, slot, length, others), expected)


def test_a_completion_has_the_same_cells_as_a_prompt(runner: LlamaRunner) -> None:
    steps = go_on(runner, 0, 40, others=[])
    assert np.array_equal(evaluate(runner, 1, 40 + NUM_STEPS), steps[-runner.vocabulary.size :])


@pytest.mark.parametrize("length", LENGTHS)
def test_several_rows_of_a_sequence_have_the_logits_of_single_rows(
    runner: LlamaRunner, length: int
) -> None:
    """The sampler may therefore check a draft with the logits of one decode call."""
    num_rows = 6
    evaluate(runner, 0, length)
    expected = []
    for position in range(length, length + num_rows):
        runner.decode([Span(0, position, [TOKENS[position]], num_outputs=1)])
        expected.append(runner.logits(0).copy())
    for size in (2, 3, num_rows):
        runner.truncate(0, length)
        for start in range(0, num_rows, size):
            rows = TOKENS[length + start : length + start + size]
            # The slot also gets rows that are dropped again, as those of a wrong draft.
            wrong = TOKENS[:3]
            span = Span(0, length + start, [*rows, *wrong], num_outputs=len(rows) + len(wrong))
            runner.decode([span])
            for row in range(len(rows)):
                assert np.array_equal(runner.logits(row), expected[start + row])
            runner.truncate(0, length + start + len(rows))


def test_k_quants_round_alike_for_all_numbers_of_rows(tmp_path: Path) -> None:
    settings = Settings()
    source = Store(settings.models_dir, num_threads=settings.threads).weights(CATALOG[FP16]).path
    path = tmp_path / "model.gguf"
    params = llama.llama_model_quantize_default_params()
    params.ftype = llama.LLAMA_FTYPE_MOSTLY_Q4_K_M  # tensors with short rows get other types
    assert not llama.llama_model_quantize(os.fsencode(source), os.fsencode(path), params)
    header = read_header(path)
    assert header.has_k_quants and not read_header(source).has_k_quants
    assert {"Q4_K", "Q6_K"} <= {tensor.type_name for tensor in header.tensors}
    runner = LlamaRunner(
        LlamaModel(path, has_k_quants=True),
        num_slots=1,
        context_length=256,
        batch_length=TILING.batch_length,
        num_threads=1,
    )
    logits: dict[int, set[bytes]] = {}
    for num_rows in range(2, 17):
        runner.truncate(0, 0)
        runner.decode([Span(0, 0, TOKENS[:6], num_outputs=0)])
        runner.decode([Span(0, 6, TOKENS[6 : 6 + num_rows], num_outputs=num_rows)])
        for row in range(num_rows):
            logits.setdefault(row, set()).add(runner.logits(row).tobytes())
    runner.close()
    assert {len(different) for different in logits.values()} == {1}


@pytest.mark.parametrize(
    ("features", "options", "is_repacked"),
    [
        (b"CPU : NEON = 1 | DOTPROD = 1 | REPACK = 1 | ", {}, False),
        (b"CPU : NEON = 1 | DOTPROD = 1 | REPACK = 1 | ", {"batch_invariant": False}, True),
        (b"CPU : NEON = 1 | MATMUL_INT8 = 1 | DOTPROD = 1 | REPACK = 1 | ", {}, True),
        (b"CPU : AVX2 = 1 | REPACK = 1 | ", {}, True),
        (b"CPU : AVX2 = 1 | REPACK = 1 | ", {"has_k_quants": True}, False),
        (
            b"CPU : AVX2 = 1 | REPACK = 1 | ",
            {"has_k_quants": True, "batch_invariant": False},
            True,
        ),
        (b"CPU : AVX512_BF16 = 1 | AMX_INT8 = 1 | REPACK = 1 | ", {}, False),
        (
            b"CPU : AVX512_BF16 = 1 | AMX_INT8 = 1 | REPACK = 1 | ",
            {"batch_invariant": False},
            False,
        ),
    ],
)
def test_weights_are_not_repacked_for_amx_or_if_this_changes_the_rounding(
    features: bytes,
    options: dict[str, bool],
    is_repacked: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = []
    load = llama.llama_model_load_from_file

    def note_and_load(path: bytes, params: llama.llama_model_params) -> object:
        given.append(params.use_extra_bufts)
        return load(path, params)

    monkeypatch.setattr(llama, "llama_print_system_info", lambda: features)
    monkeypatch.setattr(llama, "llama_model_load_from_file", note_and_load)
    LlamaModel(VOCABULARY, vocabulary_only=True, **options).close()
    assert given == [is_repacked]
