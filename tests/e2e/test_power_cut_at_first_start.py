"""The power is cut while an installation is made: it works afterwards, or the next start makes a whole one.

Needs root.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

import apsw
import httpx
import pytest

from tests.support.broken_durability import STEPS, standing_still
from tests.support.load import Chance
from tests.support.powered import Powered, embedded
from tests.support.processes import eventually
from tests.support.volume import volume

KEY_BYTES = 32
POINTS = [(when, step) for step in STEPS for when in ("before", "after")]
"""In the order of what there is to lose; the daily run takes the first."""
STANDS_STILL = "stands_still_at_a_step"


def holds_data(powered: Powered) -> bool:
    """Whether there is an installation in the database."""
    file = powered.server.data / "qimem.db"
    if not file.exists():
        return False
    with contextlib.closing(apsw.Connection(str(file))) as connection:
        if not connection.table_exists(None, "instance"):
            return False
        return connection.execute("SELECT count(*) FROM instance").fetchall() != [(0,)]


def root_key(powered: Powered) -> bytes | None:
    """The root key, if there is one."""
    file = Path(f"{powered.server.data}.root.key")
    return file.read_bytes() if file.exists() else None


def start_and_cut(powered: Powered, moment: Callable[[threading.Event], None]) -> bool:
    """Cut the power at a moment of a start; whether it was ready before.

    Args:
        moment: Returns when it has come; it is given what is set when the server is ready.
    """
    ready = threading.Event()

    def start() -> None:
        with contextlib.suppress(AssertionError):
            powered.server.start()
            ready.set()

    thread = threading.Thread(target=start)
    thread.start()
    try:
        moment(ready)
        served = ready.is_set()
    finally:
        powered.cut(thread)
    powered.restore()
    return served


def examine(powered: Powered, *, served: bool) -> list[str]:
    """Start again after a cut; what is wrong."""
    data, key = holds_data(powered), root_key(powered)
    # From here on it is a sound server that goes all the way.
    powered.server.environment.clear()
    findings = []
    if data and (key is None or len(key) != KEY_BYTES):
        findings.append(f"lost: the root key of existing data: {key!r}")
    if served and not data:
        findings.append("lost: an installation that was ready")
    try:
        powered.server.start()
    except AssertionError as refusal:
        return [*findings, f"does not start: {refusal}"]
    if data and root_key(powered) != key:
        findings.append("a new root key over existing data")
    try:
        powered.server.token()
    except (AssertionError, OSError, ValueError, KeyError, httpx.HTTPError) as refusal:
        findings.append(f"nobody can sign in: {refusal!r}")
    return findings + powered.damage()


def cut_at(when: str, step: str, *faults: str) -> list[str]:
    """An installation on a new disk that is cut there; what went wrong."""
    with embedded(STANDS_STILL, *faults, workers=1) as powered:
        sign = powered.disk.place.with_name("sign")
        powered.server.environment |= standing_still(when, step, sign)
        served = start_and_cut(powered, lambda _: eventually(sign.exists, seconds=60))
        return [f"cut {when} {step}: {finding}" for finding in examine(powered, served=served)]


@pytest.mark.acceptance
def test_a_cut_at_any_step_of_an_installation_leaves_a_whole_one_or_none() -> None:
    points = POINTS[: volume(len(POINTS), share=0.22)]
    assert [finding for when, step in points for finding in cut_at(when, step)] == []


@pytest.mark.acceptance
def test_a_cut_at_any_moment_of_a_first_start_leaves_a_whole_installation_or_none() -> None:
    chance, findings = Chance().source("cuts"), []
    for _ in range(volume(100)):
        with embedded(workers=1) as powered:
            seconds = chance.uniform(0.2, 3)
            served = start_and_cut(powered, lambda ready, seconds=seconds: ready.wait(seconds))  # type: ignore[misc]
            findings += [f"cut after {seconds}: {finding}" for finding in examine(powered, served=served)]
    assert findings == []


def test_a_root_key_that_is_left_to_the_system_is_found_out() -> None:
    findings = cut_at("after", "commit", "leaves_its_root_key_to_the_system")
    assert any("lost: the root key of existing data" in finding for finding in findings), findings
