from __future__ import annotations

import pytest

from qimem.coordination import rate_limits
from qimem.coordination.rate_limits import RateLimits
from qimem.coordination.window_table import WindowTable
from qimem.kernel.clock import ManualClock
from qimem.kernel.ids import ClientId, RealmId
from qimem.kernel.metering import TIERS, Allowance

pytestmark = pytest.mark.anyio

ACME, OTHER, APP = RealmId("acme"), RealmId("other"), ClientId("app")


@pytest.fixture
def limits() -> RateLimits:
    tiers = TIERS | {"free": Allowance(2, 60), "pro": Allowance(4, 60)}
    return RateLimits(WindowTable(ManualClock()), tiers, Allowance(3, 60))


async def left(limits: RateLimits, client: str = APP, realm: RealmId = ACME, tier: str = "free") -> int:
    return (await limits.charge_client(realm, ClientId(client), tier, 1)).remaining


async def test_clients_are_charged_apart_by_realm_and_id(limits: RateLimits) -> None:
    assert [await left(limits), await left(limits)] == [1, 0]
    assert await left(limits, realm=OTHER) == 1
    assert await left(limits, "web") == 1
    assert not (await limits.charge_client(ACME, APP, "free", 1)).admitted


async def test_no_name_reaches_the_bucket_of_another(limits: RateLimits) -> None:
    await left(limits, "me\0app", RealmId("ac"))
    assert await left(limits, "app", RealmId("ac\0me")) == 1
    assert await left(limits, "meapp", RealmId("ac")) == 1
    assert await left(limits, "app", RealmId("acme")) == 1
    await limits.charge_address("4:acmeweb", 1)
    assert await left(limits, "web") == 1


async def test_the_tier_decides_and_one_that_nobody_knows_is_the_strictest(limits: RateLimits) -> None:
    assert await left(limits, "a", tier="pro") == 3
    assert await left(limits, "b", tier="unlimited") == 2_147_483_646
    assert await left(limits, "c", tier="platinum") == 1


async def test_addresses_have_one_allowance_and_a_network_of_ipv6_is_one(limits: RateLimits) -> None:
    async def of(address: str) -> int:
        return (await limits.charge_address(address, 1)).remaining

    assert [await of("192.0.2.1"), await of("192.0.2.2"), await of("192.0.2.1")] == [2, 2, 1]
    assert [await of("2001:db8:0:1::1"), await of("2001:db8:0:1:ffff::9"), await of("2001:db8:0:2::1")] == [
        2,
        1,
        2,
    ]
    assert [await of("::ffff:192.0.2.1"), await of("::ffff:192.0.2.9")] == [0, 2]
    assert [await of(""), await of("")] == [2, 1]


async def test_more_names_than_are_remembered_keep_their_counts(
    limits: RateLimits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limits, "REMEMBERED_BUCKETS_MAX", 4)
    for number in range(20):
        await left(limits, f"client-{number}")
        await limits.charge_address(f"192.0.2.{number}", 1)
    assert {await left(limits, f"client-{number}") for number in range(20)} == {0}
    assert {(await limits.charge_address(f"192.0.2.{number}", 1)).remaining for number in range(20)} == {1}
    assert max(len(limits._clients), len(limits._customers)) <= 4
