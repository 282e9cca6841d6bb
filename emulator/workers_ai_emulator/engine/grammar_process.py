"""Compiles grammars in a subprocess first, to find those that take too much time or memory.

A short JSON schema can take hours to compile, for example some schemas with `allOf`, or gigabytes,
for example with a large `multipleOf`. llguidance cannot be stopped while it compiles. So each new
grammar is first compiled in a subprocess with limits for processor time and memory:
`python -m workers_ai_emulator.engine.grammar_process LIMIT_S`. Only if this succeeds, the emulator
compiles the grammar itself. Whether a grammar exceeds these limits does not depend on the other
work of the machine.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence

from llguidance import LLTokenizer

from workers_ai_emulator.engine.child import (
    LIMITS_CPU_TIME,
    Child,
    ChildFailed,
    Supervisor,
    restrict,
    serve,
)
from workers_ai_emulator.engine.errors import CapacityExceeded, EngineError, GrammarUnsupported
from workers_ai_emulator.engine.grammar import compile_grammar, new_tokenizer

# The name of this module. In the subprocess, `__name__` is `__main__` instead.
MODULE = "workers_ai_emulator.engine.grammar_process"
# The limit for the address space of the process, in bytes. Before the process compiles a grammar,
# its address space has up to 170 MiB.
_MEMORY = 320 * 2**20
_MAX_REPLY_BYTES = 4096
# How long a grammar may take, as a multiple of the processor time that it may take. A busy machine
# gives the subprocess only a part of the processor's time. Without a limit for processor time (on
# Windows), the two limits are the same.
_MAX_SLOWDOWN = 4 if LIMITS_CPU_TIME else 1
_COMPILED, _REJECTED = b"cr"  # kinds of replies of the subprocess


class GrammarCheck:
    """Compiles grammars in a subprocess, which ends if one takes `limit_s` s of processor time.

    The subprocess has the special tokens of the vocabulary, and a token for each byte. It compiles
    one grammar after the other. After a crash or a kill, the next grammar starts a new subprocess.
    The constructor raises EngineError if no process can be started.

    `size`: the number of tokens in the vocabulary. `names`: the ids and names of its special
    tokens. `eog`: the ids of the tokens that end a completion.
    """

    def __init__(
        self, size: int, names: Mapping[int, str], eog: Sequence[int], *, limit_s: float
    ) -> None:
        self._limit_s = limit_s
        self._max_wait_s = limit_s * _MAX_SLOWDOWN
        self._tokens = json.dumps([size, names, eog]).encode()
        try:
            self._supervisor = Supervisor(MODULE, str(limit_s), prepare=self._prepare)
        except (OSError, ChildFailed) as error:
            raise _not_started(error) from error

    def check(self, text: str) -> None:
        """Compiles a grammar in the subprocess.

        Raises GrammarUnsupported if this fails, or takes too much processor time or memory. Raises
        CapacityExceeded if the machine is too busy or has too little free memory to find this out,
        and EngineError if the model is unloaded or no process can be started.
        """
        request = text.encode()
        try:
            with self._supervisor.child(limit_s=self._max_wait_s) as child:
                kind, reply = self._exchange(child, request)
        except ChildFailed as error:
            raise self._failure(error) from error
        except OSError as error:
            raise _not_started(error) from error
        if kind == _REJECTED:
            raise GrammarUnsupported(reply.decode())

    def close(self) -> None:
        """Ends the subprocess. May be called more than once."""
        self._supervisor.close()

    def _prepare(self, child: Child) -> None:
        """Sends the tokens of the vocabulary to the new subprocess `child`."""
        self._exchange(child, self._tokens)

    def _exchange(self, child: Child, request: bytes) -> tuple[int, bytes]:
        return child.exchange(request, max_bytes=_MAX_REPLY_BYTES, limit_s=self._max_wait_s)

    def _failure(self, error: ChildFailed) -> EngineError:
        """Returns a GrammarUnsupported only if the grammar itself is the cause of the failure."""
        is_slow = error.reason == "slow" or (error.reason == "late" and not LIMITS_CPU_TIME)
        if error.reason == "closed":
            return EngineError("the model has been unloaded")
        if not error.is_prepared:
            return _not_started(error)
        if is_slow:
            return GrammarUnsupported(f"it takes longer than {self._limit_s:g} s to compile")
        if error.reason == "crashed":
            limit = f"{_MEMORY // 2**20} MiB"
            return GrammarUnsupported(f"it takes more than {limit} of memory to compile")
        return CapacityExceeded(f"a grammar cannot be compiled now: {error}")


def _not_started(error: Exception) -> EngineError:
    return EngineError(f"no process can be started for grammars: {error}")


def main(limit_s: float) -> None:
    """Runs in the subprocess: replies to requests.

    The first request contains the special tokens. Each later request contains a grammar.
    """
    restrict(memory=_MEMORY)
    serve(_Program().answer, limit_s=limit_s * _MAX_SLOWDOWN, cpu_limit_s=limit_s)


class _Program:
    """Replies to requests in the subprocess. Stores the tokenizer."""

    def __init__(self) -> None:
        self._tokenizer: LLTokenizer | None = None

    def answer(self, request: bytes) -> tuple[int, bytes]:
        """Returns the kind and the content of the reply to a request."""
        if self._tokenizer is None:
            self._tokenizer = _byte_tokenizer(*json.loads(request))
            return _COMPILED, b""
        try:
            compile_grammar(request.decode(), self._tokenizer)
        except GrammarUnsupported as error:
            return _REJECTED, error.reason.encode()
        return _COMPILED, b""


def _byte_tokenizer(size: int, names: dict[str, str], eog: list[int]) -> LLTokenizer:
    """Returns a tokenizer with these special tokens, and a token for each byte.

    The special tokens have the same ids as in the vocabulary. `size`: the vocabulary's size.
    `names`: the name of each special token, by its id.
    """
    special = {int(token): name.encode() for token, name in names.items()}
    tokens = [special.get(token, b"") for token in range(size)]
    free = (token for token in range(size) if token not in special)
    for byte, token in zip(range(256), free, strict=False):
        tokens[token] = bytes([byte])
    return new_tokenizer(tokens, special, eog)


if __name__ == "__main__":
    main(float(sys.argv[1]))
