from __future__ import annotations

import asyncio

import pytest

from qimem.kernel.clock import ManualClock
from qimem.web import readiness as module
from qimem.web.readiness import Readiness
from qimem.wire.common import Check

pytestmark = pytest.mark.anyio

OK, UNKNOWN = Check(state="ok"), Check(state="unknown")


class World:
    """Storage that fails on demand, and how often it was asked."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.failing: dict[str, str] = {}
        self.writable = True
        self.looks = 0
        self.gate: asyncio.Event | None = None
        self.readiness = Readiness(self._look, lambda: self.writable, self.clock)

    async def _look(self) -> dict[str, str]:
        self.looks += 1
        if self.gate is not None:
            await self.gate.wait()
        return self.failing


@pytest.fixture
def world() -> World:
    return World()


async def test_a_sound_process_is_ready(world: World) -> None:
    assert await world.readiness.failing() == {}
    assert await world.readiness.checks() == dict.fromkeys(
        ("storage", "migrations", "root_key", "audit", "drain"), OK
    )


@pytest.mark.parametrize(
    ("failing", "behind"),
    [("storage", ("migrations", "root_key")), ("migrations", ("root_key",)), ("root_key", ())],
)
async def test_what_the_look_did_not_reach_is_unknown(world: World, failing: str, behind: tuple) -> None:
    world.failing = {failing: "broken"}
    assert await world.readiness.failing() == {failing: "broken"}
    checks = await world.readiness.checks()
    assert checks[failing] == Check(state="failing", reason="broken")
    assert {name for name, check in checks.items() if check == UNKNOWN} == set(behind)
    assert (checks["audit"], checks["drain"]) == (OK, OK)


async def test_what_the_process_knows_by_itself_is_as_it_is_now(world: World) -> None:
    assert await world.readiness.failing() == {}
    world.writable = False
    assert list(await world.readiness.failing()) == ["audit"]
    world.writable = True
    assert await world.readiness.failing() == {}
    world.readiness.drain()
    assert list(await world.readiness.failing()) == ["drain"]
    assert (await world.readiness.checks())["drain"].state == "failing"


async def test_a_thousand_who_ask_are_one_look(world: World) -> None:
    world.gate = asyncio.Event()
    asking = [asyncio.create_task(world.readiness.failing()) for _ in range(1_000)]
    await asyncio.sleep(0)
    world.gate.set()
    assert await asyncio.gather(*asking) == [{}] * 1_000
    await world.readiness.failing()
    assert world.looks == 1


@pytest.mark.parametrize("found", [{}, {"storage": "away"}], ids=["passes", "fails"])
async def test_what_was_found_is_remembered_for_half_a_second(world: World, found: dict[str, str]) -> None:
    world.failing = found
    assert await world.readiness.failing() == found
    world.failing = {"root_key": "another"}
    world.clock.advance(0.499)
    assert await world.readiness.failing() == found
    world.clock.advance(0.002)
    assert await world.readiness.failing() == {"root_key": "another"}
    assert world.looks == 2


async def test_a_wall_clock_that_is_set_back_does_not_prolong_what_was_found(world: World) -> None:
    await world.readiness.failing()
    world.clock.wall_us -= 3_600_000_000
    world.clock.monotonic += 1.5
    await world.readiness.failing()
    assert world.looks == 2


async def test_storage_that_hangs_is_asked_once_and_told(world: World, monkeypatch) -> None:
    monkeypatch.setattr(module, "READY_SECONDS", 0.01)
    world.gate = asyncio.Event()
    for _ in range(3):
        assert await world.readiness.failing() == {"storage": "no answer in time"}
        world.clock.advance(10)
    assert world.looks == 1
    world.gate.set()
    await asyncio.sleep(0)
    assert await world.readiness.failing() == {}


async def test_whoever_goes_away_does_not_end_the_look_of_others(world: World) -> None:
    world.gate = asyncio.Event()
    leaving = asyncio.create_task(world.readiness.failing())
    staying = asyncio.create_task(world.readiness.failing())
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.sleep(0)
    world.gate.set()
    assert await staying == {}
    assert world.looks == 1
