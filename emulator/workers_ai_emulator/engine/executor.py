"""Carries out the scheduler's operations, such as decode calls, on a model runner."""

from __future__ import annotations

from workers_ai_emulator.engine.prefixes import Snapshot
from workers_ai_emulator.engine.scheduler import Copy, Decode, Discard, Operation, Save, Truncate
from workers_ai_emulator.engine.sequence import Sequence
from workers_ai_emulator.engine.types import ModelRunner, Sampler, State


class Executor:
    """Carries out the scheduler's operations on a model runner, and stores all snapshots.

    A snapshot is a copy of a slot's KV cells. Only the engine's worker thread uses the executor.
    """

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner
        self._vocabulary = runner.vocabulary
        self._states: dict[Snapshot, State] = {}

    def execute(self, operation: Operation) -> None:
        """Carries out one operation of the scheduler, such as a decode call.

        Raises Interrupted if a decode call was stopped because all its requests were cancelled,
        and EngineError if the operation failed.
        """
        match operation:
            case Decode(spans):
                self._runner.decode(spans)
            case Truncate(slot, num_tokens):
                self._runner.truncate(slot, num_tokens)
            case Copy(source, target, num_tokens):
                if isinstance(source, Snapshot):
                    self._runner.load(target, self._states[source])
                else:
                    self._runner.copy(source, target)
                self._runner.truncate(target, num_tokens)
            case Save(slot, snapshot):
                self._states[snapshot] = self._runner.save(slot)
            case Discard(snapshot):
                del self._states[snapshot]

    def sample(self, sequence: Sequence, row: int) -> int:
        """Samples a sequence's next token, appends it to the sequence and returns it.

        If the sequence has a grammar, only tokens that the grammar allows are sampled, and the
        sequence ends when the grammar is complete. Raises GrammarFailed if the grammar exceeds
        a limit.

        `row`: the index of one token of the sequence in the list of all tokens for which the last
        decode call computed logits. The sampled token is the one that follows this token.
        """
        sampler = sequence.sampler or self._begin_sampling(sequence)
        state = sequence.grammar_state
        if state is not None:
            self._runner.restrict(row, state.allowed_tokens())
        token = sampler.sample(row)
        if state is not None:
            state.advance(token)
        is_complete = state is not None and state.is_complete
        sequence.append(token, is_last=is_complete or self._vocabulary.is_eog(token))
        return token

    def _begin_sampling(self, sequence: Sequence) -> Sampler:
        """Gives the sequence a sampler, and the state of its grammar if it has one."""
        if sequence.grammar is not None:
            sequence.grammar_state = sequence.grammar.begin()
        sequence.sampler = self._runner.sampler(sequence.params, sequence.prompt_tokens)
        return sequence.sampler
