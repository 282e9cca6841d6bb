"""The journal: stores the most recent inference calls, up to a maximum number and size."""

from __future__ import annotations

import asyncio
from itertools import islice, takewhile
from uuid import uuid4

from starlette.types import Scope

from workers_ai_emulator.engine.errors import EngineError
from workers_ai_emulator.engine.types import StartedGeneration
from workers_ai_emulator.middleware.journal.entries import Counts, Entries
from workers_ai_emulator.middleware.journal.entry import Entry, Part
from workers_ai_emulator.wire.calls import InferenceCall

MAX_ENTRIES = 1000
MAX_BYTES = 16 * 2**20

# A prompt with more tokens than this is converted to text in a thread, because the conversion on
# the event loop would delay other requests.
_LONG_PROMPT = 1024


class Journal:
    """Stores the most recent inference calls. Not thread-safe.

    Drops entries if there are more than `max_entries` entries or `max_bytes` bytes: each time the
    oldest entry of the account that has the most entries or bytes. So an account with many calls
    does not push out the entries of the other accounts.

    `epoch`: a random id, which changes when entries are cleared.
    """

    def __init__(self, max_entries: int = MAX_ENTRIES, max_bytes: int = MAX_BYTES) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._entries = Entries()
        self._last_id = 0
        self._num_tokens = 0  # completion tokens of finished calls
        self._dropped = Counts()
        self._unmatched = Counts()  # of ended calls
        self.running: set[Entry] = set()
        self.epoch = str(uuid4())

    @property
    def num_completion_tokens(self) -> int:
        """The number of completion tokens of all calls since the server's start."""
        running = [entry.usage for entry in self.running]
        return self._num_tokens + sum(usage.num_completion_tokens for usage in running if usage)

    def num_entries(self, account: str | None = None) -> int:
        """Returns the number of stored entries of an account; None: of all accounts."""
        return len(self._entries.of(account))

    def num_bytes(self, account: str | None = None) -> int:
        """Returns the estimated size of an account's stored entries; None: of all accounts."""
        return self._entries.num_bytes_of(account)

    def num_dropped(self, account: str | None = None) -> int:
        """Returns the number of an account's entries that were dropped, because of the limits.

        Counts from the last time on that the account's entries were cleared. `account`: None: of
        all accounts.
        """
        return self._dropped.of(account)

    def num_unmatched(self, account: str | None = None) -> int:
        """Returns the number of calls that no rule and no recording answered.

        Also counts calls whose entries were dropped because of the limits. Counts from the last
        time on that the account's entries were cleared. `account`: None: of all accounts.
        """
        running = sum(
            entry.is_unmatched and not entry.is_cleared and entry.belongs_to(account)
            for entry in self.running
        )
        return self._unmatched.of(account) + running

    def newest(self, limit: int, after: int = 0, account: str | None = None) -> list[Entry]:
        """Returns at most `limit` entries whose ids are greater than `after`, newest first.

        `account`: returns only entries of this account; None: of all accounts.
        """
        entries = reversed(self._entries.of(account).values())
        return [*islice(takewhile(lambda entry: entry.id > after, entries), limit)]

    def unmatched(self, account: str | None = None) -> list[Entry]:
        """Returns the stored calls that no rule and no recording answered, oldest first.

        `account`: returns only calls of this account; None: of all accounts.
        """
        return [each for each in self._entries.of(account).values() if each.is_unmatched]

    def get(self, number: int) -> Entry | None:
        """Returns the entry with this id, or None if the entry was dropped or never existed."""
        return self._entries.of(None).get(number)

    def clear(self, account: str | None = None) -> None:
        """Drops the entries of an account, or all entries if `account` is None.

        Also drops the entries of running calls, and sets the counts of dropped entries and of
        unmatched calls to 0.
        """
        for entry in [*self._entries.of(account).values()]:
            self._drop(entry)
        for entry in self.running:
            entry.is_cleared |= entry.belongs_to(account)
        self._dropped.clear(account)
        self._unmatched.clear(account)
        self.epoch = str(uuid4())

    def begin(self, scope: Scope, call: InferenceCall) -> Entry:
        """Adds an entry for a new inference call, and returns the entry."""
        self._last_id += 1
        entry = Entry(self._last_id, scope, call)
        self._entries.add(entry)
        self.running.add(entry)
        self._drop_excess()
        return entry

    def grow(self, entry: Entry, num_bytes: int) -> None:
        """Adds `num_bytes` to an entry's size.

        Drops entries if the journal is now larger than `max_bytes`.
        """
        if entry.is_dropped:
            return
        self._entries.grow(entry, num_bytes)
        self._drop_excess()

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

    def end(self, entry: Entry, outcome: str, num_sent_tokens: int | None = None) -> None:
        """Stores the outcome of an ended call in its entry, and counts its completion tokens.

        `num_sent_tokens`: the number of completion tokens that an incomplete stream has sent; None
        if it is unknown.
        """
        self.running.discard(entry)
        entry.end(outcome)
        self._num_tokens += entry.usage.num_completion_tokens if entry.usage else 0
        if num_sent_tokens is not None:
            entry.limit_completion_tokens(num_sent_tokens)
        if entry.is_unmatched and not entry.is_cleared:
            self._unmatched.add(entry.account)

    def _drop_excess(self) -> None:
        while len(self._entries) > self._max_entries:
            self._drop_for_space(self._entries.oldest_of_most_entries())
        while self._entries.num_bytes > self._max_bytes:
            self._drop_for_space(self._entries.oldest_of_most_bytes())

    def _drop_for_space(self, entry: Entry) -> None:
        self._drop(entry)
        self._dropped.add(entry.account)

    def _drop(self, entry: Entry) -> None:
        self._entries.remove(entry)
        entry.drop()


async def _rendered(started: StartedGeneration) -> str:
    if started.generation.usage.num_prompt_tokens > _LONG_PROMPT:
        return await asyncio.to_thread(started.prompt)
    return started.prompt()
