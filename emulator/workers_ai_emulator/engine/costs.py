"""Estimates how long a decode call takes, from measured decode calls of one sequence.

The duration grows with the number of the call's rows (tokens), but by how much depends on the
machine and on the type of the weights. For example, on one machine a call with four rows takes
hardly longer than a call with one row with F16 weights, but four times as long with Q8_0 weights.
The duration also grows with the number of the sequence's KV cells, because each row attends to all
cells:

    seconds = base(rows) + attention * rows * cells

`base` is the duration without attention, for each number of rows. `attention` is the time for one
pair of a row and a cell; calls with a single row have a value of their own.
"""

from __future__ import annotations

import numpy as np

_RECENT = 1 / 8  # the weight of a new measurement in the moving average of a base
_KEPT = 0.98  # the factor by which each new measurement reduces the weight of earlier ones
# Calls with fewer KV cells than this update their base, all others update the attention.
_SHORT = 256
_CALIBRATED_COUNTS = (1, 2, 4, 8, 16)


class CallCosts:
    """The measured durations of decode calls.

    `max_rows`: the maximum number of rows of a call. `pending`: the numbers of rows whose duration
    should be measured and passed to `calibrate`. Each number is in the list twice, because it is
    measured twice. The caller removes a number from the list, measures a call, and then calls
    `calibrate`. If `calibrate` was never called, the first call that is passed to `add` sets the
    bases of all numbers of rows.
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
