"""Stamps of `robocache align`: exact conversion to nanoseconds, jumps, grids."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from robocache.align.clock import UNITS, Jump, find_jumps, grid, median_interval, ticks_to_ns
from robocache.align.log import AlignError


@pytest.mark.parametrize("unit", list(UNITS))
def test_float_ticks_are_rounded_once(unit: str, rng: np.random.Generator) -> None:
    scale = UNITS[unit]
    values = rng.uniform(-1, 1, 3000) * 10.0 ** rng.integers(-12, 10, 3000) * (1e9 / scale) ** rng.uniform(0, 0.5, 3000)
    values = values[np.abs(values) < 9e18 / scale]
    expected = [round(Fraction(float(value)) * scale) for value in values]
    assert ticks_to_ns(values, unit).tolist() == expected


def test_ties_of_seconds_go_to_even() -> None:
    # k / 2^11 s is an odd multiple of half a nanosecond times 5^9: the product lands on a half exactly.
    values = np.array([1, 3, 5, 2047, -1, -3]) / 1024 / 2
    assert ticks_to_ns(values, "s").tolist() == [round(Fraction(float(value)) * 10**9) for value in values]
    near = np.nextafter(1.0, 2.0, dtype=np.float64) * np.arange(1, 2000) / 2048
    assert ticks_to_ns(near, "s").tolist() == [round(Fraction(float(value)) * 10**9) for value in near]


def test_integer_ticks_are_exact() -> None:
    stamps = np.array([1_700_000_000_123_457, -3], dtype=np.int64)
    assert ticks_to_ns(stamps, "us").tolist() == [1_700_000_000_123_457_000, -3000]
    assert ticks_to_ns(np.array([2**63 - 1], dtype=np.uint64), "ns").tolist() == [2**63 - 1]


@pytest.mark.parametrize(
    ("values", "unit", "expected"),
    [
        (np.array([0.0, np.nan]), "s", "must be finite, got nan in row 1"),
        (np.array([1e10]), "s", "must fit int64 nanoseconds, got 10000000000.0 s in row 0"),
        (np.array([2.0**63]), "ns", "must fit int64 nanoseconds"),
        (np.array([2**63], dtype=np.uint64), "ns", "must fit int64 nanoseconds"),
        (np.array([9_223_372_036_855]), "ms", "must fit int64 nanoseconds"),
    ],
)
def test_ticks_that_do_not_fit(values: np.ndarray, unit: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        ticks_to_ns(values, unit)


def test_jumps_and_intervals() -> None:
    times = np.array([0, 10, 20, 5, 15, 15, 25])
    assert find_jumps(times) == [Jump(3, 20, 5)]
    assert median_interval(times) == 10  # neither the jump nor the repeated stamp counts
    assert median_interval(np.array([3, 3])) is None
    assert find_jumps(np.array([4])) == []


@pytest.mark.parametrize("rate", ["30", "29.97", "1000/3", "7"])
def test_grid_stamps_are_each_rounded_by_themselves(rate: str) -> None:
    period = 10**9 / Fraction(rate)
    start, end = 1_700_000_000_000_000_001, 1_700_000_600_000_000_001
    stamps = grid(start, end, period)
    assert stamps[-1] <= end < stamps[-1] + period
    expected = [start + (index * period + Fraction(1, 2)).__floor__() for index in range(0, len(stamps), 97)]
    assert stamps[::97].tolist() == expected


def test_a_stray_stamp_is_no_clock() -> None:
    with pytest.raises(AlignError, match="at most 50,000,000 targets"):
        grid(0, 1_700_000_000 * 10**9, Fraction(10**7))
