"""A batch is charged whole or not at all, also when its body comes in another window than its head."""

from __future__ import annotations

from typing import Any

import pytest

from qimem.coordination.rate_limits import RateLimits
from qimem.coordination.window_table import WindowTable
from qimem.errors import Limited, storage_unavailable
from qimem.kernel.clock import ManualClock
from qimem.kernel.metering import Allowance
from qimem.web.kit.asked import Asked
from qimem.web.kit.forwarded import Peers
from tests.unit.oauth.fakes import ACME, APP, an_actor

pytestmark = pytest.mark.anyio

TEN = Allowance(10, 60)
NO_PROXIES = Peers((), lambda: None, lambda: 0.0)


class Door:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.limits = RateLimits(WindowTable(self.clock), {"pro": TEN}, TEN)
        self.actor = an_actor()

    async def asked(self) -> Asked:
        """One request that was charged for itself."""
        scope: dict[str, Any] = {"headers": [], "client": ("192.0.2.1", 1)}
        asked = Asked(scope, None, self.limits, NO_PROXIES, 0.0)  # type: ignore[arg-type]  # it has no body
        await asked.charge_client(ACME, APP, "pro")
        return asked

    async def left(self) -> int:
        """Before this question."""
        return (await self.limits.charge_client(ACME, APP, "pro", 1)).remaining + 1


@pytest.fixture
async def door() -> Door:
    return Door()


@pytest.mark.parametrize(("items", "left"), [(0, 9), (1, 9), (2, 8), (10, 0)])
async def test_a_batch_costs_its_items(door: Door, items: int, left: int) -> None:
    asked = await door.asked()
    await asked.charge_items(door.actor, items)
    assert asked.charge is not None
    assert asked.charge.remaining == left


async def test_one_that_is_too_large_costs_nothing(door: Door) -> None:
    asked = await door.asked()
    with pytest.raises(Limited):
        await asked.charge_items(door.actor, 11)
    assert asked.charge is not None
    assert asked.charge.remaining == 0
    assert await door.left() == 10


async def test_a_unit_of_a_window_that_is_over_is_not_given_back_to_the_next(door: Door) -> None:
    early = [await door.asked() for _ in range(5)]
    door.clock.advance(61)
    for _ in range(10):
        await door.asked()
    for asked in early:
        with pytest.raises(Limited):
            await asked.charge_items(door.actor, 2)
    with pytest.raises(Limited):
        await door.asked()


async def test_who_was_not_charged_is_the_address(door: Door) -> None:
    asked = Asked({"headers": [], "client": ("192.0.2.1", 1)}, None, door.limits, NO_PROXIES, 0.0)  # type: ignore[arg-type]
    asked.heard = True
    for _ in range(10):
        assert asked.owes_charge or asked.charge is not None
        assert await asked.charge_unproven(KeyError()) is None
    assert not asked.owes_charge
    assert isinstance(await asked.charge_unproven(KeyError()), Limited)
    # What was done is answered, and so are failures of our own and what was judged before the limit.
    assert await asked.charge_unproven(None) is None
    assert await asked.charge_unproven(storage_unavailable()) is None
    asked.heard = False
    assert await asked.charge_unproven(KeyError()) is None
