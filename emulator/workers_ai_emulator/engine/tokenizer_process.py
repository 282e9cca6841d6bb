"""Tokenises texts in a subprocess, with the tokenizer of a GGUF file that a user has installed.

For most kinds of tokenizers, llama.cpp splits a text with `std::regex`. `std::regex` recurses for
every character: 30,000 characters of one kind overflow the stack of an ordinary thread. Some other
texts take minutes. So the texts are tokenised in a subprocess with a large stack and a time limit:
`python -m workers_ai_emulator.engine.tokenizer_process FILE LIMIT_S`.
"""

from __future__ import annotations

import json
import sys
import threading
from array import array
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from workers_ai_emulator.engine.child import ChildFailed, Supervisor, restrict, serve
from workers_ai_emulator.engine.errors import CapacityExceeded, EngineError, RequestRejected
from workers_ai_emulator.engine.llama import LlamaModel, LlamaVocabulary
from workers_ai_emulator.engine.probe import limit_memory

# The name of this module. In the subprocess, `__name__` is `__main__` instead.
MODULE = "workers_ai_emulator.engine.tokenizer_process"
_STACK_BYTES = 256 * 2**20  # enough for texts of 500,000 characters; unused pages take no memory
_MAX_TOKENS_PER_CHARACTER = 8
_MAX_SPECIAL_TOKENS = 2048
_TOKENS, _FAILED = b"tf"  # kinds of replies: lists of tokens, or a failure of the tokenizer
_TOKEN_TYPE = "i"


def is_safe(vocabulary: LlamaVocabulary) -> bool:
    """Returns whether llama.cpp tokenises every text quickly and without recursion.

    It does so for SentencePiece vocabularies, such as the vocabulary of Llama 2, with at most 2,048
    special tokens. With more special tokens it is slow, because it searches the text for each.
    """
    return vocabulary.is_sentencepiece and vocabulary.num_searched_tokens <= _MAX_SPECIAL_TOKENS


class IsolatedTokenizer:
    """Tokenises in a subprocess, which is killed if a prompt takes longer than `limit_s` seconds.

    The subprocess loads the vocabulary of the GGUF file `path`, which has `vocabulary_size` tokens.
    It tokenises one prompt after the other. After a crash or a kill, the next prompt starts a new
    subprocess. The constructor raises EngineError if no process can be started.
    """

    is_isolated = True

    def __init__(self, path: Path, vocabulary_size: int, *, limit_s: float = 5.0) -> None:
        self._path = path
        self._vocabulary_size = vocabulary_size
        self._limit_s = limit_s
        try:
            self._supervisor = Supervisor(MODULE, str(path.absolute()), str(limit_s))
        except OSError as error:
            raise _not_started(error) from error

    def tokenize(self, texts: Sequence[str], *, parse_special: bool = False) -> list[list[int]]:
        """Returns the tokens of each text.

        Raises RequestRejected if the tokenizer fails, crashes, or takes longer than `limit_s`.
        Raises CapacityExceeded if other prompts keep the tokenizer busy for longer than `limit_s`,
        or if another process or the operating system kills it.
        Raises EngineError if the tokenizer is closed, if its file was replaced by a file with other
        tokens, or if no process can be started.
        """
        request = json.dumps([list(texts), parse_special]).encode()
        num_characters = sum(map(len, texts)) + len(texts)
        max_bytes = num_characters * _MAX_TOKENS_PER_CHARACTER * array(_TOKEN_TYPE).itemsize
        try:
            with self._supervisor.child(limit_s=self._limit_s) as child:
                kind, reply = child.exchange(request, max_bytes=max_bytes, limit_s=self._limit_s)
        except ChildFailed as error:
            raise self._failure(error) from error
        except OSError as error:
            raise _not_started(error) from error
        if kind == _FAILED:
            raise RequestRejected("the model's tokenizer does not process the prompt")
        lists = _split(reply)
        if any(not 0 <= token < self._vocabulary_size for tokens in lists for token in tokens):
            raise EngineError(f"{self._path} has been replaced by a file with other tokens")
        return lists

    def close(self) -> None:
        """Ends the subprocess. May be called more than once."""
        self._supervisor.close()

    def _failure(self, error: ChildFailed) -> EngineError:
        if not error.is_prepared:
            return _not_started(error)
        match error.reason:
            case "busy":
                return CapacityExceeded("the model's tokenizer is busy with other prompts")
            case "closed":
                return EngineError("the model has been unloaded")
            case "killed":
                return CapacityExceeded("the process of the model's tokenizer was killed")
            case "late":
                what = f"did not process the prompt within {self._limit_s:g} s"
            case _:
                what = "crashed on the prompt"
        return RequestRejected(f"the model's tokenizer {what}")


def _not_started(error: Exception) -> EngineError:
    return EngineError(f"no process can be started for its tokenizer: {error}")


def main(path: Path, limit_s: float) -> None:
    """Runs in the subprocess: loads the vocabulary of the file `path`, and tokenises texts."""
    restrict()
    vocabulary = LlamaModel(path, vocabulary_only=True).vocabulary
    limit_memory(_STACK_BYTES)
    threading.stack_size(_STACK_BYTES)
    answer = partial(_answer, vocabulary)
    thread = threading.Thread(target=serve, args=[answer], kwargs={"limit_s": limit_s})
    thread.start()
    thread.join()


def _answer(vocabulary: LlamaVocabulary, request: bytes) -> tuple[int, bytes]:
    texts, parse_special = json.loads(request)
    try:
        lists = [vocabulary.tokenize(text, parse_special=parse_special) for text in texts]
    except EngineError:
        return _FAILED, b""
    return _TOKENS, _join(lists)


def _join(lists: Sequence[Sequence[int]]) -> bytes:
    """Encodes lists of tokens as 32-bit integers: for each list, its length and then its tokens."""
    numbers = array(_TOKEN_TYPE)
    for tokens in lists:
        numbers.append(len(tokens))
        numbers.extend(tokens)
    return numbers.tobytes()


def _split(data: bytes) -> list[list[int]]:
    numbers = array(_TOKEN_TYPE, data).tolist()
    lists: list[list[int]] = []
    start = 0
    while start < len(numbers):
        end = start + 1 + numbers[start]
        lists.append(numbers[start + 1 : end])
        start = end
    return lists


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
