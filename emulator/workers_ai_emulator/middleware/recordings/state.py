"""The state of one account's recording and replay: its folder, and counts of its calls."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from workers_ai_emulator.middleware.recordings.folder import Folder
from workers_ai_emulator.middleware.recordings.request import RecordedRequest
from workers_ai_emulator.middleware.recordings.series import Series

_MAX_MISSING = 10_000
# The maximum number of series that keep older recordings in memory, up to 1 MiB each.
_MAX_WITH_OLDER = 100


@dataclass(slots=True)
class RecordingState:
    """The folder of one account, and which calls it recorded and replayed since the last reset.

    `num_begun`: how many calls were passed on to be recorded, by the key of the call. `series`: the
    recordings that were written, by the key of the call. `num_played`: how many calls were
    replayed, by the key of the call. `num_uses`: how many calls each file recorded or replayed.
    `missing`: the keys of calls that had no recording.
    `_with_older`: the newest series, which keep older recordings in memory.
    """

    folder: Folder
    num_begun: Counter[str] = field(default_factory=Counter)
    series: dict[str, Series] = field(default_factory=dict)
    num_played: Counter[str] = field(default_factory=Counter)
    num_uses: Counter[str] = field(default_factory=Counter)
    missing: set[str] = field(default_factory=set)
    _with_older: deque[Series] = field(default_factory=deque)

    def series_of(self, request: RecordedRequest) -> Series:
        """Returns the series of a call. Creates it first if it is missing.

        A new series deletes the older recordings of the call when it has written the first new one.
        """
        if request.key not in self.series:
            self.series[request.key] = series = Series(self.folder, request)
            self._with_older.append(series)
            if len(self._with_older) > _MAX_WITH_OLDER:
                self._with_older.popleft().forget_older()
        return self.series[request.key]

    def is_known_missing(self, key: str) -> bool:
        """Returns whether a call with this key had no recording before, and stores the key.

        Stores at most 10,000 keys.
        """
        is_known = key in self.missing
        if len(self.missing) < _MAX_MISSING:
            self.missing.add(key)
        return is_known
