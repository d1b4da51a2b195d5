"""Two clocks: one that tells the time, one that measures it."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qimem.kernel.clock import MICROSECONDS, ManualClock, SystemClock, rfc3339, seconds_since_boot

LAST_US = 253_402_300_799_999_999


def test_the_system_clock_tells_the_time_in_microseconds() -> None:
    before = time.time_ns() // 1_000
    assert before <= SystemClock().now_us() <= time.time_ns() // 1_000


def test_the_system_clock_measures_by_a_clock_that_is_never_set() -> None:
    before = time.monotonic()
    assert before <= SystemClock().monotonic_seconds() <= time.monotonic()


def test_a_manual_clock_stands_still() -> None:
    clock = ManualClock(5)
    assert [clock.now_us(), clock.now_us(), clock.monotonic_seconds()] == [5, 5, 0.0]


def test_a_manual_clock_moves_both_clocks() -> None:
    clock = ManualClock(5)
    clock.advance(1.5)
    clock.advance(0.25)
    assert (clock.now_us(), clock.monotonic_seconds()) == (5 + 1_750_000, 1.75)


def test_wall_time_can_be_set_back_and_measured_time_goes_on() -> None:
    clock = ManualClock()
    clock.advance(1)
    clock.wall_us -= 10 * MICROSECONDS
    clock.advance(1)
    assert clock.monotonic_seconds() == 2


@pytest.mark.parametrize(
    ("microseconds", "text"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (1, "1970-01-01T00:00:00.000001Z"),
        (999_999, "1970-01-01T00:00:00.999999Z"),
        (1_795_608_000_000_000, "2026-11-25T12:00:00.000000Z"),
        (1_709_164_800_000_000, "2024-02-29T00:00:00.000000Z"),
        (-1, "1969-12-31T23:59:59.999999Z"),
        (LAST_US, "9999-12-31T23:59:59.999999Z"),
    ],
)
def test_times_are_rfc_3339(microseconds: int, text: str) -> None:
    assert rfc3339(microseconds) == text


@given(st.integers(0, LAST_US))
def test_no_microsecond_is_lost(microseconds: int) -> None:
    moment = datetime.fromisoformat(rfc3339(microseconds))
    whole = int(moment.replace(microsecond=0).timestamp()) * MICROSECONDS
    assert (moment.tzinfo, whole + moment.microsecond) == (UTC, microseconds)


@given(st.integers(0, LAST_US), st.integers(0, LAST_US))
def test_times_sort_as_text(one: int, other: int) -> None:
    assert (one < other) == (rfc3339(one) < rfc3339(other))


def test_the_time_since_boot_goes_on_while_the_machine_sleeps() -> None:
    awake = time.monotonic()
    asleep_too = seconds_since_boot()
    assert asleep_too >= awake
    assert seconds_since_boot() >= asleep_too
