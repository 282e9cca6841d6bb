"""Tests what the engine requires of a model with a KV cache: of llama.cpp's and of the fake one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from workers_ai_emulator.engine.errors import EngineError, Interrupted
from workers_ai_emulator.engine.llama import LlamaModel, LlamaRunner
from workers_ai_emulator.engine.types import ModelRunner, SamplingParams, Span
from workers_ai_emulator.models.catalog import CATALOG
from workers_ai_emulator.models.store import Store
from workers_ai_emulator.settings import Settings

from tests.fakes import FakeRunner

NUM_SLOTS = 3
CONTEXT_LENGTH = 256
CHUNK = 16
GREEDY = SamplingParams(temperature=0.0)
TEXT = (
    "Once upon a time there was a small engine, and everybody who came by asked it the same. " * 2
)
OTHER = "The rain in Spain stays mainly in the plain, or so they say, and nobody has looked since."


def llama_runner() -> LlamaRunner:
    settings = Settings()
    store = Store(settings.models_dir, num_threads=settings.threads)
    weights = store.weights(CATALOG["@cf/meta/llama-2-7b-chat-int8"])
    return LlamaRunner(
        LlamaModel(weights.path),
        num_slots=NUM_SLOTS,
        context_length=CONTEXT_LENGTH,
        batch_length=CONTEXT_LENGTH,
        num_threads=settings.threads,
    )


def fake_runner() -> FakeRunner:
    return FakeRunner(
        num_slots=NUM_SLOTS, context_length=CONTEXT_LENGTH, batch_length=CONTEXT_LENGTH
    )


@pytest.fixture(scope="module", params=[fake_runner, llama_runner])
def shared_runner(request: pytest.FixtureRequest) -> Iterator[ModelRunner]:
    runner: ModelRunner = request.param()
    yield runner
    runner.close()


@pytest.fixture
def runner(shared_runner: ModelRunner) -> ModelRunner:
    """Returns the model runner after emptying all its slots."""
    for slot in range(NUM_SLOTS):
        shared_runner.truncate(slot, 0)
    return shared_runner


@dataclass
class Completion:
    """One completion, for which the test itself makes the decode calls and samples the tokens."""

    runner: ModelRunner
    slot: int
    prompt: list[int]
    params: SamplingParams = GREEDY

    def __post_init__(self) -> None:
        self.tokens: list[int] = []
        self.sampler = self.runner.sampler(self.params, self.prompt)

    @property
    def row(self) -> Span:
        """The token that was sampled last, as a span of one row."""
        start = len(self.prompt) + len(self.tokens) - 1
        return Span(self.slot, start, self.tokens[-1:], num_outputs=1)

    def prefill(self, start: int = 0, chunk_length: int = CHUNK) -> Completion:
        """Evaluates the prompt from position `start` on, and samples the first token.

        Each decode call evaluates at most `chunk_length` tokens.
        """
        for span in spans(self.slot, self.prompt, start, chunk_length):
            self.runner.decode([span])
        self.sample(0)
        return self

    def sample(self, row: int) -> None:
        self.tokens.append(self.sampler.sample(row))

    def generate(self, num_tokens: int = 6) -> list[int]:
        """Generates `num_tokens` tokens, and returns all tokens of the completion."""
        for _ in range(num_tokens):
            self.runner.decode([self.row])
            self.sample(0)
        self.sampler.close()
        return self.tokens


def spans(slot: int, tokens: list[int], start: int = 0, length: int = CHUNK) -> list[Span]:
    """Divides the tokens from position `start` on into spans of at most `length` tokens.

    Only the last span needs logits.
    """
    return [
        Span(slot, i, tokens[i : i + length], num_outputs=int(i + length >= len(tokens)))
        for i in range(start, len(tokens), length)
    ]


def complete(
    runner: ModelRunner, slot: int, text: str, params: SamplingParams = GREEDY
) -> list[int]:
    """Empties the slot, and returns a completion of the prompt `text`."""
    runner.truncate(slot, 0)
    prompt = runner.vocabulary.tokenize(text)
    return Completion(runner, slot, prompt, params).prefill().generate()


# ── cells ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("chunk_length", [CONTEXT_LENGTH, 2 * CHUNK, CHUNK])
def test_a_prompt_may_be_evaluated_in_one_or_several_spans(
    runner: ModelRunner, chunk_length: int
) -> None:
    prompt = runner.vocabulary.tokenize(TEXT)
    assert len(prompt) > 2 * CHUNK
    completion = Completion(runner, 1, prompt).prefill(chunk_length=chunk_length)
    assert completion.generate() == complete(runner, 0, TEXT)


def test_every_slot_gives_the_same_completion(runner: ModelRunner) -> None:
    completions = [complete(runner, slot, TEXT) for slot in range(NUM_SLOTS)]
    assert completions == completions[:1] * NUM_SLOTS


def test_different_prompts_give_different_completions(runner: ModelRunner) -> None:
    assert complete(runner, 0, TEXT) != complete(runner, 1, OTHER)


def test_a_truncated_prompt_can_be_evaluated_again_from_there(runner: ModelRunner) -> None:
    expected = complete(runner, 0, TEXT)
    runner.truncate(0, 2 * CHUNK)
    prompt = runner.vocabulary.tokenize(TEXT)
    assert Completion(runner, 0, prompt).prefill(start=2 * CHUNK).generate() == expected


def test_truncating_to_0_tokens_empties_the_slot(runner: ModelRunner) -> None:
    empty = runner.save(0)
    complete(runner, 0, OTHER)
    assert len(runner.save(0)) > len(empty)
    runner.truncate(0, 0)
    assert runner.save(0) == empty
    assert complete(runner, 0, TEXT) == complete(runner, 1, TEXT)


def test_an_empty_slot_can_be_truncated(runner: ModelRunner) -> None:
    runner.truncate(0, 0)
    runner.truncate(0, 0)


def test_a_prompt_continues_from_a_saved_state_in_another_slot(runner: ModelRunner) -> None:
    expected = complete(runner, 0, TEXT)
    complete(runner, 2, OTHER)  # the cells that `load` replaces
    runner.load(2, runner.save(0))
    runner.truncate(2, CHUNK)
    prompt = runner.vocabulary.tokenize(TEXT)
    assert Completion(runner, 2, prompt).prefill(start=CHUNK).generate() == expected


def test_a_completion_continues_from_a_saved_state_in_another_slot(runner: ModelRunner) -> None:
    expected = complete(runner, 0, TEXT)
    runner.truncate(0, 0)
    completion = Completion(runner, 0, runner.vocabulary.tokenize(TEXT)).prefill()
    runner.load(1, runner.save(0))
    runner.truncate(0, 0)
    completion.slot = 1
    assert completion.generate() == expected


def test_a_saved_state_outlives_its_slot(runner: ModelRunner) -> None:
    expected = complete(runner, 0, TEXT)
    state = runner.save(0)
    complete(runner, 0, OTHER)
    runner.load(0, state)
    runner.truncate(0, CHUNK)
    prompt = runner.vocabulary.tokenize(TEXT)
    assert Completion(runner, 0, prompt).prefill(start=CHUNK).generate() == expected


def test_an_incomplete_state_is_rejected(runner: ModelRunner) -> None:
    complete(runner, 0, TEXT)
    with pytest.raises(EngineError):
        runner.load(1, runner.save(0)[:-1])
    runner.truncate(1, 0)
    assert complete(runner, 1, TEXT) == complete(runner, 0, TEXT)


# ── rows ──────────────────────────────────────────────────────────────────────────────────────


def test_a_sequence_gives_the_same_completion_together_with_another(runner: ModelRunner) -> None:
    alone = [complete(runner, 0, TEXT), complete(runner, 1, OTHER)]
    for slot in (0, 1):
        runner.truncate(slot, 0)
    prompts = [runner.vocabulary.tokenize(text) for text in (TEXT, OTHER)]
    beside = [Completion(runner, slot, prompts[slot]).prefill() for slot in (0, 1)]
    for _ in range(6):
        runner.decode([completion.row for completion in beside])
        for row, completion in enumerate(beside):
            completion.sample(row)
    assert [completion.tokens for completion in beside] == alone


def test_outputs_are_numbered_over_the_spans_that_need_logits(runner: ModelRunner) -> None:
    expected = complete(runner, 2, OTHER)[:2]
    runner.truncate(2, 0)
    completion = Completion(runner, 2, runner.vocabulary.tokenize(OTHER)).prefill()
    prompt = runner.vocabulary.tokenize(TEXT)
    runner.truncate(1, 0)
    runner.decode([Span(1, 0, prompt[:CHUNK], num_outputs=0), completion.row])
    completion.sample(0)
    assert completion.tokens == expected


# ── samplers ──────────────────────────────────────────────────────────────────────────────────


def test_temperature_0_ignores_the_seed(runner: ModelRunner) -> None:
    seeds = [SamplingParams(temperature=0.0, seed=seed) for seed in (1, 2)]
    assert [complete(runner, 0, TEXT, params) for params in seeds] == [
        complete(runner, 0, TEXT)
    ] * 2


def test_equal_seeds_give_equal_tokens(runner: ModelRunner) -> None:
    params = SamplingParams(temperature=1.5, seed=7)
    assert complete(runner, 0, TEXT, params) == complete(runner, 1, TEXT, params)


def test_different_seeds_give_different_tokens(runner: ModelRunner) -> None:
    seeds = [SamplingParams(temperature=1.5, seed=seed) for seed in range(1, 6)]
    assert len({tuple(complete(runner, 0, TEXT, params)) for params in seeds}) > 1


def test_top_k_1_takes_the_most_likely_token(runner: ModelRunner) -> None:
    params = SamplingParams(temperature=2.0, top_k=1, seed=3)
    assert complete(runner, 0, TEXT, params) == complete(runner, 0, TEXT)


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=0.0, repetition_penalty=2.0),
        SamplingParams(temperature=0.0, frequency_penalty=2.0),
        SamplingParams(temperature=0.0, presence_penalty=2.0),
    ],
    ids=["repetition", "frequency", "presence"],
)
def test_a_penalty_changes_the_completion(runner: ModelRunner, params: SamplingParams) -> None:
    text = "one two one two one two one two one two one two one two"
    plain, penalised = complete(runner, 0, text), complete(runner, 0, text, params)
    assert penalised != plain


@pytest.mark.parametrize("repetition_penalty", [0.0, 1.0])
def test_neutral_penalties_change_nothing(runner: ModelRunner, repetition_penalty: float) -> None:
    params = SamplingParams(temperature=0.0, repetition_penalty=repetition_penalty)
    assert complete(runner, 0, TEXT, params) == complete(runner, 0, TEXT)


def test_an_interrupted_decode_call_raises_and_its_slot_can_be_emptied_and_used(
    runner: ModelRunner,
) -> None:
    span = Span(1, 0, runner.vocabulary.tokenize(TEXT), num_outputs=1)
    runner.interrupt(is_requested=True)
    with pytest.raises(Interrupted):
        runner.decode([span])
    runner.interrupt(is_requested=False)
    assert complete(runner, 1, TEXT) == complete(runner, 0, TEXT)


def test_a_sampler_can_be_closed_twice(runner: ModelRunner) -> None:
    sampler = runner.sampler(GREEDY, [1, 2, 3])
    sampler.close()
    sampler.close()


# ── allowed tokens ────────────────────────────────────────────────────────────────────────────


def allowed(tokens: list[int]) -> bytes:
    """Returns the bits of these tokens, in the form that `restrict` requires."""
    return sum(1 << token for token in set(tokens)).to_bytes(8192, "little")


def restricted(runner: ModelRunner, tokens: list[int], params: SamplingParams) -> list[int]:
    """Returns a completion of TEXT that may contain only these tokens."""
    runner.truncate(0, 0)
    completion = Completion(runner, 0, runner.vocabulary.tokenize(TEXT), params)
    for span in spans(0, completion.prompt):
        runner.decode([span])
    for _ in range(12):
        runner.restrict(0, allowed(tokens))
        completion.sample(0)
        runner.decode([completion.row])
    completion.sampler.close()
    return completion.tokens


@pytest.mark.parametrize(
    "params",
    [
        GREEDY,
        SamplingParams(temperature=0.0, repetition_penalty=1.3),
        SamplingParams(temperature=1.0, seed=1),
        SamplingParams(temperature=5.0, seed=1, top_k=400, top_p=0.99),
        SamplingParams(temperature=1.0, seed=1, repetition_penalty=0.5, presence_penalty=2.0),
    ],
    ids=["greedy", "penalty", "seed", "top-k", "penalties"],
)
def test_only_allowed_tokens_are_sampled(runner: ModelRunner, params: SamplingParams) -> None:
    tokens = runner.vocabulary.tokenize(" the of QXZ")
    assert set(restricted(runner, tokens, params)) <= set(tokens)
    assert restricted(runner, tokens[-1:], params) == tokens[-1:] * 12


def test_a_completion_is_unchanged_if_its_tokens_are_allowed(runner: ModelRunner) -> None:
    params = SamplingParams(temperature=1.0, seed=7)
    tokens = complete(runner, 1, TEXT, params)
    everything = list(range(runner.vocabulary.size))
    assert restricted(runner, everything, params)[: len(tokens)] == tokens


def test_a_row_is_restricted_only_once(runner: ModelRunner) -> None:
    restricted(runner, runner.vocabulary.tokenize("QXZ"), GREEDY)
    assert complete(runner, 0, TEXT) == complete(runner, 1, TEXT)


# ── vocabulary ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "text", [TEXT, " \n\t two  spaces ", "caf\u00e9 \u6f22\u5b57 \U0001f468\u200d\U0001f469", ""]
)
def test_the_pieces_of_a_text_are_its_bytes(runner: ModelRunner, text: str) -> None:
    vocabulary = runner.vocabulary
    pieces = [vocabulary.piece(token) for token in vocabulary.tokenize(text)]
    assert b"".join(pieces) == text.encode()


def test_a_lone_surrogate_becomes_a_replacement_character(runner: ModelRunner) -> None:
    vocabulary = runner.vocabulary
    assert vocabulary.tokenize("a\ud800b") == vocabulary.tokenize("a\ufffdb")


def test_special_tokens_stay_text_unless_they_are_parsed(runner: ModelRunner) -> None:
    vocabulary = runner.vocabulary
    token = vocabulary.special_tokens["<|im_start|>"]
    assert vocabulary.tokenize("<|im_start|>", parse_special=True) == [token]
    assert vocabulary.piece(token) == b""
    as_text = vocabulary.tokenize("<|im_start|>")
    assert token not in as_text
    assert b"".join(map(vocabulary.piece, as_text)) == b"<|im_start|>"


def test_no_token_of_a_text_ends_a_completion(runner: ModelRunner) -> None:
    vocabulary = runner.vocabulary
    assert vocabulary.eos is not None
    assert vocabulary.is_eog(vocabulary.eos)
    assert not any(map(vocabulary.is_eog, vocabulary.tokenize(TEXT)))


def test_every_token_is_below_the_vocabulary_size(runner: ModelRunner) -> None:
    vocabulary = runner.vocabulary
    tokens = [*vocabulary.tokenize(TEXT), *vocabulary.special_tokens.values()]
    assert all(0 <= token < vocabulary.size for token in tokens)
