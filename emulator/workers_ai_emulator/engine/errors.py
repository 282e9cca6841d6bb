"""The errors that the engine and other sources of completions raise. No HTTP in here.

    EngineError              a generation cannot start or cannot continue
    ├── Interrupted          llama.cpp stopped a decode call because every client has disconnected
    ├── CapacityExceeded     no free slot and a full queue, or no memory for the model
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
    """A generation cannot start or cannot continue. The message is for the log."""


class Interrupted(EngineError):
    """llama.cpp stopped a decode call because every client that it served has disconnected."""


class CapacityExceeded(EngineError):
    """All slots are taken and the queue is full, or busy models take the memory for another one."""


class ContextTooLong(EngineError):
    """The prompt and the longest completion allowed do not fit the context.

    Together they have `num_tokens` tokens; the context has `context_length`.
    """

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
