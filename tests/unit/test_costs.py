from __future__ import annotations

import pytest
from workers_ai_emulator.engine.costs import CallCosts


def calibrated(*bases: float) -> CallCosts:
    """Returns costs with the bases of 1, 2, 4, 8 and 16 rows."""
    costs = CallCosts(16)
    for num_rows, base in zip((1, 2, 4, 8, 16), bases, strict=True):
        costs.calibrate(num_rows, base)
    return costs


def test_every_number_of_rows_is_measured_twice_at_first() -> None:
    assert sorted(CallCosts(16).pending) == [1, 1, 2, 2, 4, 4, 8, 8, 16, 16]
    assert sorted(CallCosts(5).pending) == [1, 1, 2, 2, 4, 4]


def test_the_shorter_duration_is_kept() -> None:
    for durations in ((3.0, 2.0), (2.0, 3.0)):
        costs = CallCosts(1)
        for duration in durations:
            costs.calibrate(1, duration)
        assert costs.estimate(1, 0) == 2.0


def test_the_durations_are_those_of_the_numbers_of_rows_to_calibrate() -> None:
    costs = CallCosts(16)
    assert costs.durations == {}
    costs.calibrate(16, 10.0)
    costs.add(3, 10, 4.0)
    costs.calibrate(2, 2.0)
    assert costs.durations == {2: 2.0, 16: 10.0}


def test_bases_between_the_measured_numbers_of_rows_are_interpolated() -> None:
    costs = calibrated(1, 2, 4, 6, 10)
    assert [costs.estimate(n, 0) for n in (1, 2, 3, 6, 12)] == [1, 2, 3, 5, 8]


def test_short_calls_change_the_base_a_little() -> None:
    costs = calibrated(1, 2, 4, 6, 10)
    costs.add(2, 10, 3.0)
    assert 2 < costs.estimate(2, 10) < 2.5
    for _ in range(100):
        costs.add(2, 10, 3.0)
    assert costs.estimate(2, 10) == pytest.approx(3.0, rel=0.01)


def test_the_time_of_attention_grows_with_rows_and_cells() -> None:
    costs = calibrated(1, 2, 4, 6, 10)
    costs.add(2, 1000, 4.0)  # 2 of them for 2 * 1,000 pairs of a row and a cell
    assert costs.estimate(2, 1000) == pytest.approx(4.0)
    assert costs.estimate(4, 2000) == pytest.approx(4 + 8)
    assert costs.estimate(1, 2000) == 1  # a single row is measured by itself
    costs.add(1, 1000, 1.5)
    assert costs.estimate(1, 2000) == pytest.approx(2.0)


def test_later_measurements_of_attention_count_more() -> None:
    costs = calibrated(1, 2, 4, 6, 10)
    costs.add(2, 1000, 4.0)
    for _ in range(500):
        costs.add(2, 1000, 3.0)
    assert costs.estimate(2, 1000) == pytest.approx(3.0, rel=0.01)


def test_without_calibration_the_first_call_sets_the_base() -> None:
    costs = CallCosts(16)
    costs.add(1, 10, 5.0)
    assert [costs.estimate(n, 0) for n in (1, 2, 16)] == [5.0, 5.0, 5.0]
