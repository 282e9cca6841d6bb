"""The entries that the journal stores, grouped by account, and counts for each account."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from workers_ai_emulator.middleware.journal.entry import Entry

Account = str | None

_MAX_COUNTED_ACCOUNTS = 10_000


@dataclass(slots=True)
class _Group:
    """The entries of one account, in the order of their ids, and their size in bytes."""

    entries: OrderedDict[int, Entry] = field(default_factory=OrderedDict)
    num_bytes: int = 0

    @property
    def oldest(self) -> Entry:
        return next(iter(self.entries.values()))


class Entries:
    """Stores entries by id, in the order in which they were added. Not thread-safe.

    Calls without an account form a group of their own. `num_bytes`: the size of all entries.
    """

    def __init__(self) -> None:
        self._all: OrderedDict[int, Entry] = OrderedDict()
        self._groups: dict[Account, _Group] = {}
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._all)

    def of(self, account: Account) -> OrderedDict[int, Entry]:
        """Returns the entries of an account, by id. If `account` is None, returns all entries."""
        if account is None:
            return self._all
        group = self._groups.get(account)
        return group.entries if group else OrderedDict()

    def num_bytes_of(self, account: Account) -> int:
        """Returns the size of an account's entries. If `account` is None, of all entries."""
        if account is None:
            return self.num_bytes
        group = self._groups.get(account)
        return group.num_bytes if group else 0

    def add(self, entry: Entry) -> None:
        """Adds an entry, whose id is greater than the ids of all earlier entries."""
        self._all[entry.id] = entry
        group = self._groups.setdefault(entry.account, _Group())
        group.entries[entry.id] = entry
        group.num_bytes += entry.num_bytes
        self.num_bytes += entry.num_bytes

    def grow(self, entry: Entry, num_bytes: int) -> None:
        """Adds `num_bytes` to the size of a stored entry."""
        entry.num_bytes += num_bytes
        self._groups[entry.account].num_bytes += num_bytes
        self.num_bytes += num_bytes

    def remove(self, entry: Entry) -> None:
        """Removes a stored entry."""
        del self._all[entry.id]
        self.num_bytes -= entry.num_bytes
        group = self._groups[entry.account]
        del group.entries[entry.id]
        group.num_bytes -= entry.num_bytes
        if not group.entries:
            del self._groups[entry.account]

    def oldest_of_most_entries(self) -> Entry:
        """Returns the oldest entry of the account that has the most entries.

        If several accounts have the most, returns the oldest one of all their entries.
        """
        groups = self._groups.values()
        return max(groups, key=lambda group: (len(group.entries), -group.oldest.id)).oldest

    def oldest_of_most_bytes(self) -> Entry:
        """Returns the oldest entry of the account whose entries have the largest size."""
        groups = self._groups.values()
        return max(groups, key=lambda group: (group.num_bytes, -group.oldest.id)).oldest


class Counts:
    """Counts something for each account.

    Stores the counts of at most 10,000 accounts. If there are more, the counts of the accounts that
    were added first become a part of the total only.
    """

    def __init__(self) -> None:
        self._counts: OrderedDict[Account, int] = OrderedDict()
        self._num_others = 0

    def of(self, account: Account) -> int:
        """Returns the count of an account. If `account` is None, returns the total."""
        if account is None:
            return sum(self._counts.values()) + self._num_others
        return self._counts.get(account, 0)

    def add(self, account: Account) -> None:
        """Adds one to the count of an account. None counts only for the total."""
        self._counts[account] = self._counts.get(account, 0) + 1
        if len(self._counts) > _MAX_COUNTED_ACCOUNTS:
            self._num_others += self._counts.popitem(last=False)[1]

    def clear(self, account: Account) -> None:
        """Sets the count of an account to 0. If `account` is None, sets all counts to 0."""
        if account is None:
            self._counts.clear()
            self._num_others = 0
        else:
            self._counts.pop(account, None)
