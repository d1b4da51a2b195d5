from __future__ import annotations

import pytest

from qimem.jobs.tasks import MARGIN_SECONDS, ExpiredSweep
from qimem.kernel.clock import MICROSECONDS, ManualClock
from tests.unit.jobs.fakes import FakeDatabase, FakeRows

pytestmark = pytest.mark.anyio

MARGIN = MARGIN_SECONDS * MICROSECONDS
DAY_SECONDS = 86_400


class Setting:
    def __init__(self, *ages_us: int) -> None:
        """Rows that expired so long before the process started."""
        self.clock = ManualClock()
        self.start_us = self.clock.now_us()
        self.rows = FakeRows(*(self.start_us - age for age in ages_us))
        self.database = FakeDatabase()
        self.sweep = ExpiredSweep(self.database, self.rows, self.clock)


async def test_nothing_is_deleted_before_the_process_has_seen_the_margin_pass() -> None:
    setting = Setting(30 * DAY_SECONDS * MICROSECONDS)
    await setting.sweep.run()
    setting.clock.advance(MARGIN_SECONDS - 1)
    await setting.sweep.run()
    assert setting.rows.limits == []
    setting.clock.advance(1)
    await setting.sweep.run()
    assert setting.rows.expiries_us == []


@pytest.mark.parametrize("early_seconds", [1, MARGIN_SECONDS])
async def test_a_row_lives_until_the_margin_after_its_expiry(early_seconds: int) -> None:
    setting = Setting(0, -1)
    setting.clock.advance(MARGIN_SECONDS - early_seconds)
    await setting.sweep.run()
    assert len(setting.rows.expiries_us) == 2
    setting.clock.advance(early_seconds)
    await setting.sweep.run()
    assert setting.rows.expiries_us == [setting.start_us + 1]


async def test_a_wall_clock_that_jumps_ahead_deletes_nothing() -> None:
    setting = Setting(0)
    setting.clock.wall_us += DAY_SECONDS * MICROSECONDS
    await setting.sweep.run()
    setting.clock.advance(MARGIN_SECONDS - 1)
    await setting.sweep.run()
    assert setting.rows.limits == []


async def test_after_a_jump_ahead_only_time_that_really_passed_counts() -> None:
    setting = Setting(0, -DAY_SECONDS * MICROSECONDS // 2)
    setting.clock.advance(MARGIN_SECONDS)
    setting.clock.wall_us += DAY_SECONDS * MICROSECONDS
    await setting.sweep.run()
    assert setting.rows.expiries_us == [setting.start_us + DAY_SECONDS * MICROSECONDS // 2]


async def test_a_wall_clock_that_jumps_back_keeps_what_it_makes_young_again() -> None:
    setting = Setting(0)
    setting.clock.advance(2 * MARGIN_SECONDS)
    setting.clock.wall_us = setting.start_us + MARGIN - 1
    await setting.sweep.run()
    assert setting.rows.expiries_us == [setting.start_us]


async def test_rows_are_deleted_in_small_transactions_until_none_is_left() -> None:
    setting = Setting(*range(2_500))
    setting.clock.advance(MARGIN_SECONDS)
    await setting.sweep.run()
    assert setting.rows.expiries_us == []
    assert setting.rows.limits == [1_000] * 4


async def test_one_run_has_an_end_whatever_is_left() -> None:
    setting = Setting(*range(100_500))
    setting.clock.advance(MARGIN_SECONDS)
    await setting.sweep.run()
    assert len(setting.rows.expiries_us) == 500
    await setting.sweep.run()
    assert setting.rows.expiries_us == []
