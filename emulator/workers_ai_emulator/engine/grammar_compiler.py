"""Compiles the grammars of requests for one model.

Each request gets its own compiled grammar, because completions that share one also share its
limits: one of them could make the others fail. Compiling usually takes about a millisecond.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from llguidance import LLTokenizer

from workers_ai_emulator.engine.errors import GrammarUnsupported
from workers_ai_emulator.engine.grammar import (
    CompiledGrammar,
    compile_grammar,
    eog_tokens,
    new_tokenizer,
    special_names,
)
from workers_ai_emulator.engine.grammar_process import GrammarCheck
from workers_ai_emulator.engine.types import Vocabulary

_MAX_CHARACTERS = 2**18  # of a grammar
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_MAX_TRIED = 1024  # how many grammars are remembered with the result of their compilation


class GrammarCompiler:
    """Compiles grammars for the tokens of a model. Several threads may use it at the same time.

    `limit_s`: how many seconds of processor time a grammar may take in the subprocess that compiles
    it first.
    """

    def __init__(self, vocabulary: Vocabulary, *, limit_s: float = 5.0) -> None:
        self._vocabulary = vocabulary
        self._limit_s = limit_s
        self._lock = threading.Lock()
        self._check: GrammarCheck | None = None
        self._tokenizer: LLTokenizer | None = None
        self._is_closed = False
        # The hashes of the last grammars: None if a grammar was compiled, or the reason why it is
        # unsupported. The least recently used comes first.
        self._tried: OrderedDict[bytes, str | None] = OrderedDict()

    def compile(self, text: str) -> CompiledGrammar:
        """Compiles a grammar. If it was not compiled recently, compiles it in the subprocess first.

        The first call takes longer: it starts the subprocess, and reads all tokens of the model.
        Raises GrammarUnsupported if the grammar is too long, takes too much processor time or
        memory, or cannot be compiled. A grammar that was rejected recently is rejected again
        without being compiled. Raises CapacityExceeded if the machine or the subprocess is too busy
        to compile it, and EngineError if the model has been unloaded or no process can be started.
        """
        text = _encodable(text)
        with self._remembered(text) as key:
            return compile_grammar(text, self._try(text, key))

    def check(self, text: str) -> None:
        """Does the part of `compile` that takes place in the subprocess. Raises the same errors."""
        text = _encodable(text)
        with self._remembered(text) as key:
            self._try(text, key)

    def close(self) -> None:
        """Ends the subprocess. May be called more than once."""
        self._is_closed = True
        if check := self._check:
            check.close()

    @contextmanager
    def _remembered(self, text: str) -> Iterator[bytes]:
        """Stores whether the `with` block raises GrammarUnsupported. Yields the grammar's hash."""
        key = hashlib.sha256(text.encode()).digest()
        try:
            yield key
        except GrammarUnsupported as error:
            self._remember(key, error.reason)
            raise
        self._remember(key, None)

    def _try(self, text: str, key: bytes) -> LLTokenizer:
        """Compiles a grammar in the subprocess, unless this was done recently.

        Returns the tokenizer with which it can be compiled in this process.
        """
        with self._lock:
            check, tokenizer = self._started()
            is_tried, reason = key in self._tried, self._tried.get(key)
        if reason is not None:
            raise GrammarUnsupported(reason)
        if not is_tried:
            check.check(text)
        return tokenizer

    def _remember(self, key: bytes, reason: str | None) -> None:
        """Stores the result of a compilation. `reason`: None if the grammar was compiled."""
        with self._lock:
            self._tried[key] = reason
            self._tried.move_to_end(key)
            while len(self._tried) > _MAX_TRIED:
                self._tried.popitem(last=False)

    def _started(self) -> tuple[GrammarCheck, LLTokenizer]:
        """Returns the subprocess and the tokenizer; starts or builds them if necessary."""
        if self._check is None or self._tokenizer is None:
            size, piece = self._vocabulary.size, self._vocabulary.piece
            names, eog = special_names(self._vocabulary), eog_tokens(self._vocabulary)
            tokens = [names[t].encode() if t in names else piece(t) for t in range(size)]
            self._tokenizer = new_tokenizer(tokens, names, eog)
            self._check = GrammarCheck(size, names, eog, limit_s=self._limit_s)
            if self._is_closed:  # `close` was called before it could close this check
                self._check.close()
        return self._check, self._tokenizer


def _encodable(text: str) -> str:
    """Returns a grammar without lone surrogates, which UTF-8 cannot encode.

    Raises GrammarUnsupported if it is too long.
    """
    if len(text) > _MAX_CHARACTERS:
        raise GrammarUnsupported(
            f"as a grammar, it has {len(text):,} characters, but at most {_MAX_CHARACTERS:,} "
            "are allowed"
        )
    return _LONE_SURROGATE.sub("\ufffd", text)
