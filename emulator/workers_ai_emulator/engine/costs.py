"""Estimates how long a decode call for one sequence takes, from the calls that were measured.

The time of a call depends on the number of its rows (tokens). How it depends on them differs
between machines and types of weights: on one machine, four rows of F16 weights take hardly longer
than one row, and four rows of Q8_0 weights take four times as long. The time also grows with the
number of the sequence's KV cells, to which the attention of each row is computed:

    seconds = base(rows) + attention * rows * cells
"""

from __future__ import annotations

import numpy as np

_RECENT = 1 / 8  # the weight of the latest call in the average of a base
_KEPT = 0.98  # what the weight of each earlier call is multiplied by, for the attention
# Calls with fewer cells update the base; calls with more cells update the attention.
_SHORT = 256
_CALIBRATED_COUNTS = (1, 2, 4, 8, 16)


class CallCosts:
    """The measured durations of decode calls.

    `max_rows`: the maximum number of rows of a call. `pending`: the numbers of rows whose duration
    should be measured and passed to `calibrate`; each number is pending twice. The caller removes
    a number before it measures. Without calibration, all bases are the duration of the first call.
    """

    def __init__(self, max_rows: int) -> None:
        self.pending = 2 * [count for count in _CALIBRATED_COUNTS if count <= max_rows]
        self._calibrated: dict[int, float] = {}  # the base in seconds, by the number of rows
        self._bases: list[float] = []  # for all numbers of rows, from 0
        self._max_rows = max_rows
        self._lone, self._several = _Attention(), _Attention()

    @property
    def durations(self) -> dict[int, float]:
        """The calibrated bases in seconds, by the number of rows. Any thread may read them."""
        known = self._calibrated
        return {count: known[count] for count in _CALIBRATED_COUNTS if count in known}

    def calibrate(self, num_rows: int, duration_s: float) -> None:
        """Sets the base of a number of rows, from a call with few KV cells.

        If the same number of rows is calibrated again, the shorter duration is kept, because other
        programs can only slow a call down. The bases between the calibrated numbers of rows are
        interpolated.
        """
        known = self._calibrated
        known[num_rows] = min(duration_s, known.get(num_rows, duration_s))
        counts = sorted(known)
        bases = [known[count] for count in counts]
        self._bases = np.interp(np.arange(self._max_rows + 1), counts, bases).tolist()

    def add(self, num_rows: int, num_cells: int, duration_s: float) -> None:
        """Adds a measured decode call.

        `num_cells`: the number of KV cells of the sequence before the call.
        """
        if not self._bases:
            self._bases = [duration_s] * (self._max_rows + 1)
        attention, num_pairs = self._attention(num_rows), num_rows * num_cells
        base = self._bases[num_rows]
        if num_cells >= _SHORT:
            attention.add(num_pairs, duration_s - base)
        else:
            new_base = duration_s - attention.seconds(num_pairs)
            self._bases[num_rows] = base + _RECENT * (max(new_base, 0.0) - base)

    def estimate(self, num_rows: int, num_cells: int) -> float:
        """Returns how long a call will take, in seconds; 1 if no call was measured."""
        if not self._bases:
            return 1.0
        return self._bases[num_rows] + self._attention(num_rows).seconds(num_rows * num_cells)

    def _attention(self, num_rows: int) -> _Attention:
        # A single row is computed in a way of its own: on one thread, or together with a copy.
        return self._lone if num_rows == 1 else self._several


class _Attention:
    """The time that attention takes for each pair of a row and a cell, by least squares."""

    def __init__(self) -> None:
        self._sum_xx = 0.0
        self._sum_xy = 0.0

    def add(self, num_pairs: int, duration_s: float) -> None:
        self._sum_xx = self._sum_xx * _KEPT + num_pairs * num_pairs
        self._sum_xy = self._sum_xy * _KEPT + num_pairs * max(duration_s, 0.0)

    def seconds(self, num_pairs: int) -> float:
        return num_pairs * self._sum_xy / self._sum_xx if self._sum_xx else 0.0
