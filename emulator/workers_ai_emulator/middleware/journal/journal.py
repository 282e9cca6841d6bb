"""The journal: stores the most recent inference calls, up to a maximum number and size."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from itertools import islice, takewhile
from uuid import uuid4

from starlette.types import Scope

from workers_ai_emulator.engine.errors import EngineError
from workers_ai_emulator.engine.types import StartedGeneration
from workers_ai_emulator.middleware.journal.entry import Entry, Part
from workers_ai_emulator.wire.calls import InferenceCall

MAX_ENTRIES = 1000
MAX_BYTES = 16 * 2**20

# A prompt with more tokens than this is converted to text in a thread, because the conversion on
# the event loop would delay other requests.
_LONG_PROMPT = 1024


class Journal:
    """Stores the most recent inference calls. Not thread-safe.

    Drops the oldest entries if there are more than `max_entries` entries or `max_bytes` bytes.
    `epoch`: a random id, which changes when the journal is cleared. `num_dropped`: the number of
    entries that were dropped since the journal was last cleared.
    """

    def __init__(self, max_entries: int = MAX_ENTRIES, max_bytes: int = MAX_BYTES) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._entries: OrderedDict[int, Entry] = OrderedDict()
        self._last_id = 0
        self._num_tokens = 0  # completion tokens of finished calls
        self.running: set[Entry] = set()
        self.num_bytes = 0
        self.num_dropped = 0
        self.epoch = str(uuid4())

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def num_completion_tokens(self) -> int:
        """The number of completion tokens of all calls since the server's start."""
        running = [entry.usage for entry in self.running]
        return self._num_tokens + sum(usage.num_completion_tokens for usage in running if usage)

    def newest(self, limit: int, after: int = 0, account: str | None = None) -> list[Entry]:
        """Returns at most `limit` entries whose ids are greater than `after`, newest first.

        `account`: returns only entries of this account; None: of all accounts.
        """
        newer = takewhile(lambda entry: entry.id > after, reversed(self._entries.values()))
        return [*islice((entry for entry in newer if entry.belongs_to(account)), limit)]

    def unmatched(self, account: str | None = None) -> list[Entry]:
        """Returns the calls that no rule and no recording answered, oldest first.

        `account`: returns only calls of this account; None: of all accounts.
        """
        entries = self._entries.values()
        return [each for each in entries if each.is_unmatched and each.belongs_to(account)]

    def get(self, number: int) -> Entry | None:
        """Returns the entry with this id, or None if the entry was dropped or never existed."""
        return self._entries.get(number)

    def clear(self, account: str | None = None) -> None:
        """Drops the entries of an account, or all entries if `account` is None.

        Also drops the entries of running calls.
        """
        for entry in [each for each in self._entries.values() if each.belongs_to(account)]:
            self._drop(entry)
        if account is not None:
            return
        self.num_dropped = 0
        self.epoch = str(uuid4())

    def begin(self, scope: Scope, call: InferenceCall) -> Entry:
        """Adds an entry for a new inference call, and returns the entry."""
        self._last_id += 1
        entry = Entry(self._last_id, scope, call)
        self._entries[entry.id] = entry
        self.running.add(entry)
        self._add_bytes(entry.num_bytes)
        return entry

    def grow(self, entry: Entry, num_bytes: int) -> None:
        """Adds `num_bytes` to an entry's size.

        Drops the oldest entries if the journal is now larger than `max_bytes`.
        """
        entry.num_bytes += num_bytes
        self._add_bytes(num_bytes)

    async def store_prompt(self, entry: Entry) -> None:
        """Stores the rendered prompt in the entry.

        Does nothing if the prompt is already stored, or if no generation has started.
        """
        if entry.prompt is not None or entry.started is None or entry.is_dropped:
            return
        try:
            prompt = Part((await _rendered(entry.started)).encode("utf-8", "replace"))
        except EngineError:  # the model of this generation was unloaded
            return
        # During the `await`, another task may have stored the prompt or dropped the entry.
        if entry.prompt is None and not entry.is_dropped:
            entry.prompt = prompt
            self.grow(entry, len(prompt.stored))

    def end(self, entry: Entry, outcome: str) -> None:
        """Stores the outcome of an ended call in its entry, and counts its completion tokens."""
        self.running.discard(entry)
        entry.end(outcome)
        self._num_tokens += entry.usage.num_completion_tokens if entry.usage else 0

    def _add_bytes(self, num_bytes: int) -> None:
        self.num_bytes += num_bytes
        while self.num_bytes > self._max_bytes or len(self._entries) > self._max_entries:
            self._drop(next(iter(self._entries.values())))
            self.num_dropped += 1

    def _drop(self, entry: Entry) -> None:
        del self._entries[entry.id]
        self.num_bytes -= entry.num_bytes
        entry.drop()


async def _rendered(started: StartedGeneration) -> str:
    if started.generation.usage.num_prompt_tokens > _LONG_PROMPT:
        return await asyncio.to_thread(started.prompt)
    return started.prompt()
