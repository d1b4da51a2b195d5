from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from qimem.audit import space as module
from qimem.audit.space import AuditSpace, Forecast, Pressure, Room, Thresholds, described, growth, thresholds
from qimem.kernel.limits import AUDIT_SEGMENT_IN_MEMORY_BYTES

MIB = 1024 * 1024
GIB = 1024 * MIB
HOUR, DAY = 3_600.0, 86_400.0
LIMITS = Thresholds(low=1_000, reserve=100)


def after(minutes: int, free_at) -> float:
    forecast = Forecast()
    seconds = math.inf
    for minute in range(minutes + 1):
        seconds = forecast.saw(free_at(minute), minute * 60.0)
    return seconds


def test_a_disk_that_fills_evenly_is_full_when_the_line_says_so() -> None:
    assert after(60, lambda minute: 10_000 - 100 * minute) == pytest.approx(4_000 / 100 * 60)


def test_segments_that_come_and_go_are_no_trend() -> None:
    # 16 MiB are taken every ten minutes and 14 given back a minute later: 2 MiB in ten minutes.
    def free(minute: int) -> float:
        return 5 * GIB - MIB * (2 * (minute // 10) + (14 if minute % 10 == 0 else 0))

    assert after(120, free) == pytest.approx(5 * GIB / (0.2 * MIB / 60), rel=0.1)


@pytest.mark.parametrize(
    "free_at", [lambda _: 5_000, lambda minute: 5_000 + minute], ids=["stands still", "grows"]
)
def test_a_disk_that_does_not_fill_is_never_full(free_at) -> None:
    assert after(100, free_at) == math.inf


def test_a_short_look_forecasts_nothing() -> None:
    assert after(8, lambda minute: 10_000 - 1_000 * minute) == math.inf
    assert after(9, lambda minute: 10_000 - 1_000 * minute) < math.inf


def test_the_past_is_forgotten() -> None:
    def free(minute: int) -> float:
        return 10_000 - min(minute, 100) * 90

    assert after(150, free) < math.inf
    assert after(230, free) == math.inf


def test_a_look_a_second_is_a_sample_a_minute() -> None:
    forecast = Forecast()
    for second in range(3_600):
        forecast.saw(10_000 - second, float(second))
    assert len(forecast._seen) == 60


@pytest.mark.parametrize(
    ("free", "seconds", "pressure"),
    [
        (1_000, math.inf, Pressure.NONE),
        (999, math.inf, Pressure.LOW),
        (5_000, DAY, Pressure.NONE),
        (5_000, DAY - 1, Pressure.LOW),
        (100, math.inf, Pressure.LOW),
        (99, math.inf, Pressure.RESERVE),
        (0, 0.0, Pressure.RESERVE),
    ],
)
def test_how_tight_it_is(free: float, seconds: float, pressure: Pressure) -> None:
    assert LIMITS.pressure(Room(free, seconds)) is pressure


def test_each_worker_needs_room_for_two_segments() -> None:
    assert thresholds(1) == (GIB, 32 * MIB)
    assert thresholds(64) == (2 * GIB, 2 * GIB)
    assert thresholds(1, segment_bytes=AUDIT_SEGMENT_IN_MEMORY_BYTES) == (2 * MIB, 2 * MIB)


class Disk:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free = 10_000
        self.told: list[str] = []
        self.now = 0.0
        monkeypatch.setattr(module, "free_bytes", lambda _: self.free)
        self.space = AuditSpace(Path("log"), LIMITS, self.told.append)

    def has(self, free: int) -> int:
        """How often it has warned by now."""
        self.free = free
        self.now += 1
        assert self.space.look(self.now).free == free
        return len(self.told)


def test_each_threshold_is_told_once_until_there_is_room_again(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    frees = (10_000, 999, 500, 1_001, 999, 99, 50, 101, 99, 999, 2_000, 999, 10)
    assert [disk.has(free) for free in frees] == [0, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 3, 4]
    assert "next segment" in disk.told[1]


def test_a_disk_that_falls_to_the_reserve_at_once_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    assert [disk.has(free) for free in (10, 500, 10)] == [1, 1, 2]


def test_a_disk_that_cannot_be_seen_is_no_room(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        AuditSpace(tmp_path / "gone", LIMITS, print).look(0.0)


def a_segment(log: Path, name: str, size: int, written: float) -> None:
    file = log / "s0123456789ab" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(bytes(size))
    os.utime(file, (written, written))


def test_a_log_grows_by_what_was_sealed_in_the_last_day(tmp_path: Path) -> None:
    now = 1_000_000_000.0
    a_segment(tmp_path, "00000001.jsonl.gz", 7_000, now - 2 * DAY)
    a_segment(tmp_path, "00000002.jsonl.gz", 8_640, now - DAY / 2)
    a_segment(tmp_path, "00000003.jsonl", 8_640, now - HOUR)
    a_segment(tmp_path, "00000004.jsonl", 99_999, now)
    assert growth(tmp_path, now) == pytest.approx(2 * 8_640 / DAY)


def test_a_young_log_is_judged_by_its_age_and_no_less_than_an_hour(tmp_path: Path) -> None:
    now = 1_000_000_000.0
    a_segment(tmp_path, "00000001.jsonl.gz", 7_200, now - 60)
    a_segment(tmp_path, "00000002.jsonl", 99_999, now)
    assert growth(tmp_path, now) == pytest.approx(2.0)
    a_segment(tmp_path, "00000001.jsonl.gz", 7_200, now - 2 * HOUR)
    assert growth(tmp_path, now) == pytest.approx(1.0)


def test_an_empty_log_does_not_grow(tmp_path: Path) -> None:
    assert growth(tmp_path, 1_000_000_000.0) == 0


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (math.inf, "5 MiB are free where the audit log is"),
        (HOUR * 36, "full in 36.0 h"),
        (DAY * 9, "full in 9 days"),
    ],
)
def test_it_is_said_for_people(seconds: float, said: str) -> None:
    text = described(Room(5 * MIB, seconds))
    assert said in text
    assert "inf" not in text
