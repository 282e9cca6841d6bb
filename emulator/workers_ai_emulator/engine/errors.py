"""The errors that the engine and the backends raise, without HTTP statuses.

    EngineError              a generation cannot start or cannot continue
    ├── Interrupted          a decode call was stopped because all its requests had been cancelled
    ├── CapacityExceeded     no free slot and a full queue, or not enough memory for the model
    ├── ContextTooLong       the prompt tokens plus `max_tokens` exceed the context length
    ├── DeadlineExceeded     the generation took longer than its time limit
    ├── EngineClosed         the engine is shutting down
    └── RequestRejected      the chat template or an upstream server rejects the request
    GgufInvalid              a file is not a GGUF file that llama.cpp can run

`wire/errors.py` maps these errors to the errors that a client receives.
"""

from __future__ import annotations

from workers_ai_emulator.errors import EmulatorError


class EngineError(EmulatorError):
    """A generation cannot start or cannot continue.

    Clients get the message only if the error is a RequestRejected.
    """


class Interrupted(EngineError):
    """A decode call was stopped because all requests that it computed had been cancelled."""


class CapacityExceeded(EngineError):
    """The server is too busy for the request.

    All slots are taken and the queue is full, or busy models use the memory that the requested
    model needs.
    """


class ContextTooLong(EngineError):
    """The number of prompt tokens plus `max_tokens` exceeds the context length.

    `num_tokens`: this sum. `context_length`: the maximum number of tokens of a sequence.
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
    """The chat template or an upstream server rejects the request. Clients get the message."""


class GgufInvalid(EmulatorError):
    """The file is not a GGUF file that llama.cpp can run.

    The message is a clause in which "it" is the file, such as "it is empty".
    """
