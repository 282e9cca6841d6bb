"""The errors that the engine and other sources of completions raise. They know no HTTP.

    EngineError              a generation cannot start or cannot go on
    ├── Interrupted          llama.cpp stopped a decode call because every client has disconnected
    ├── CapacityExceeded     no slot, no place in the queue, or no memory for the model
    ├── ContextTooLong       prompt and longest completion do not fit the context
    ├── DeadlineExceeded     the generation took longer than its time limit
    ├── EngineClosed         the engine is shutting down
    └── RequestRejected      the chat template or an upstream server rejects the request
    GgufInvalid              a file is not a GGUF file that llama.cpp can run

`wire/errors.py` maps them to the errors that a client receives.
"""

from __future__ import annotations

from workers_ai_emulator.errors import EmulatorError


class EngineError(EmulatorError):
    """A generation cannot start or cannot go on. The message is for the log."""


class Interrupted(EngineError):
    """llama.cpp stopped a decode call because every client that it served has disconnected."""


class CapacityExceeded(EngineError):
    """All slots are taken and the queue is full, or busy models use the memory that one needs."""


class ContextTooLong(EngineError):
    """The prompt and the longest completion allowed have `num_tokens`, more than the context."""

    def __init__(self, num_tokens: int, context_length: int) -> None:
        super().__init__(f"{num_tokens} tokens do not fit a context of {context_length}")
        self.num_tokens = num_tokens
        self.context_length = context_length


class DeadlineExceeded(EngineError):
    """The generation took longer than its time limit."""


class EngineClosed(EngineError):
    """The engine is shutting down and accepts no requests."""


class RequestRejected(EngineError):
    """The chat template or an upstream server rejects the request. The message says why."""


class GgufInvalid(EmulatorError):
    """The file is not a GGUF file that llama.cpp can run. The message calls the file "it"."""
