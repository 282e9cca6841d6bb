"""The errors that the engine and the backends raise, without HTTP statuses.

    EngineError              a generation cannot start or cannot continue
    ├── Interrupted          a decode call was stopped because all its requests had been cancelled
    ├── CapacityExceeded     no free slot and a full queue, or not enough memory for the model
    ├── ContextTooLong       the prompt tokens plus `max_tokens` exceed the context length
    ├── TextTooLong          a text has more tokens than the embedding model supports
    │   └── TextsTooLong     the texts of a request have too many tokens together
    ├── DeadlineExceeded     the generation took longer than its time limit
    ├── EngineClosed         the engine is shutting down
    ├── GrammarFailed        the completion cannot be constrained any further
    └── RequestRejected      the chat template, tokenizer or upstream server rejects the request
        └── GrammarUnsupported   the completion cannot be constrained as the request demands
    GgufInvalid              a file is not a GGUF file that llama.cpp can run

`wire/errors.py` maps these errors to the errors that a client receives.
"""

from __future__ import annotations

from workers_ai_emulator.errors import EmulatorError


class EngineError(EmulatorError):
    """A generation cannot start or cannot continue.

    Clients receive the message of a RequestRejected. For other errors, they receive a text from
    `wire/errors.py`.
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

    `num_tokens`: the number of prompt tokens plus `max_tokens`. `context_length`: the maximum
    number of tokens of a prompt and its completion. `max_tokens`: the maximum number of tokens of
    the completion; 1 if the completion has no maximum.
    """

    def __init__(self, num_tokens: int, context_length: int, max_tokens: int = 1) -> None:
        super().__init__(f"{num_tokens} tokens do not fit a context of {context_length}")
        self.num_tokens = num_tokens
        self.context_length = context_length
        self.max_tokens = max_tokens


class TextTooLong(EngineError):
    """A text has more tokens than the embedding model supports.

    `num_tokens`: the number of tokens of the text. `limit`: the maximum.
    """

    def __init__(self, num_tokens: int, limit: int) -> None:
        super().__init__(f"{num_tokens} tokens do not fit a limit of {limit}")
        self.num_tokens = num_tokens
        self.limit = limit


class TextsTooLong(TextTooLong):
    """The texts of a request for embeddings have too many tokens together."""


class DeadlineExceeded(EngineError):
    """The generation took longer than its time limit."""


class EngineClosed(EngineError):
    """The engine is shutting down and accepts no requests."""


class GrammarFailed(EngineError):
    """A completion has begun, but its grammar cannot constrain it any further.

    For example, the grammar exceeds a limit of llguidance.
    """


class RequestRejected(EngineError):
    """The chat template, the tokenizer or an upstream server rejects the request.

    Clients receive the message of this error.
    """


class GrammarUnsupported(RequestRejected):
    """The completion cannot be constrained as the request demands.

    `reason`: the unsupported JSON-schema keyword or the exceeded limit, in a sentence about the
    request's JSON schema.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"the request's JSON schema cannot be enforced: {reason}")
        self.reason = reason


class GgufInvalid(EmulatorError):
    """The file is not a GGUF file that llama.cpp can run.

    In the message, "it" means the file, for example in "it is empty".
    """
