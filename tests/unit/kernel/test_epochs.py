from __future__ import annotations

import asyncio
from typing import Any

import pytest

from qimem.errors import Unavailable, storage_unavailable
from qimem.kernel import epochs as epochs_module
from qimem.kernel.epochs import Epoch, RealmCache, RealmCaches
from qimem.kernel.ids import RealmId
from tests.unit.kernel.fakes import FakeDatabase, FakeEpochs

pytestmark = pytest.mark.anyio

ACME, OTHER = RealmId("acme"), RealmId("other")
FIVE = Epoch(b"first life", 5)

OTHER_EPOCHS = [
    Epoch(b"first life", 6),
    Epoch(b"first life", 4),
    Epoch(b"first life", 5_000_000),
    Epoch(b"first life", 0),
    Epoch(b"second life", 5),
    Epoch(b"", 5),
]


class Setting:
    """A worker's memory of two realms, and a storage of values."""

    def __init__(self) -> None:
        self.database = FakeDatabase()
        self.epochs = FakeEpochs()
        self.epochs.now = {ACME: FIVE, OTHER: FIVE}
        self.caches = RealmCaches(self.database, self.epochs)
        self.values: dict[object, Any] = {"key": "old"}
        self.loads = 0

    async def fresh(self, realm_id: RealmId = ACME) -> RealmCache:
        cache = await self.caches.fresh(realm_id)
        assert cache is not None
        return cache

    async def get(self, cache: RealmCache, key: object = "key", kind: str = "kind") -> Any:
        def load(tx: object) -> Any:
            self.loads += 1
            return self.values.get(key)

        return await cache.get(kind, key, load)


@pytest.fixture
async def setting() -> Setting:
    return Setting()


async def test_under_an_equal_epoch_a_value_is_loaded_once(setting: Setting) -> None:
    first = await setting.fresh()
    assert await setting.get(first) == "old"
    setting.epochs.now[ACME] = Epoch(b"first " + b"life", 5)
    again = await setting.fresh()
    assert await setting.get(again) == "old"
    assert (setting.loads, setting.database.reads) == (1, 1)
    assert again.find("kind", "key") == "old"


@pytest.mark.parametrize("changed", OTHER_EPOCHS)
async def test_under_any_other_epoch_nothing_is_remembered(setting: Setting, changed: Epoch) -> None:
    await setting.get(await setting.fresh())
    setting.epochs.now[ACME] = changed
    setting.values["key"] = "new"
    cache = await setting.fresh()
    assert cache.find("kind", "key") is None
    assert await setting.get(cache) == "new"
    assert cache.epoch == changed


async def test_an_epoch_that_comes_back_brings_nothing_back(setting: Setting) -> None:
    await setting.get(await setting.fresh())
    setting.epochs.now[ACME] = OTHER_EPOCHS[0]
    await setting.fresh()
    setting.epochs.now[ACME] = FIVE
    assert (await setting.fresh()).find("kind", "key") is None


async def test_a_change_in_one_realm_leaves_the_memory_of_others(setting: Setting) -> None:
    await setting.get(await setting.fresh(OTHER))
    setting.epochs.bump(None, ACME)  # type: ignore[arg-type]
    await setting.fresh(ACME)
    assert (await setting.fresh(OTHER)).find("kind", "key") == "old"
    assert (await setting.fresh(ACME)).find("kind", "key") is None


@pytest.mark.parametrize("snapshot", OTHER_EPOCHS)
async def test_a_value_of_another_snapshot_is_used_once_and_not_kept(
    setting: Setting, snapshot: Epoch
) -> None:
    cache = await setting.fresh()
    setting.epochs.snapshots[ACME] = snapshot
    setting.values["key"] = "of another snapshot"
    assert await setting.get(cache) == "of another snapshot"
    assert cache.find("kind", "key") is None
    assert await setting.get(cache) == "of another snapshot"
    assert setting.loads == 2


async def test_a_value_of_a_realm_that_is_gone_by_now_is_not_kept(setting: Setting) -> None:
    cache = await setting.fresh()
    del setting.epochs.now[ACME]
    await setting.get(cache)
    assert cache.find("kind", "key") is None


async def test_absence_is_not_remembered(setting: Setting) -> None:
    cache = await setting.fresh()
    assert await setting.get(cache, "absent") is None
    setting.values["absent"] = "here now"
    assert await setting.get(cache, "absent") == "here now"


@pytest.mark.parametrize("value", [0, False, "", (), frozenset()])
async def test_a_value_that_is_false_is_remembered(setting: Setting, value: object) -> None:
    setting.values["key"] = value
    cache = await setting.fresh()
    assert await setting.get(cache) == value
    assert await setting.get(cache) == value
    assert setting.loads == 1


async def test_a_load_that_fails_leaves_nothing(setting: Setting) -> None:
    def load(tx: object) -> None:
        raise storage_unavailable()

    cache = await setting.fresh()
    with pytest.raises(Unavailable):
        await cache.get("kind", "key", load)
    assert await setting.get(cache) == "old"


@pytest.mark.parametrize(
    ("one", "another"),
    [
        (("kind", "key"), ("other", "key")),
        (("kind", ("ab", "c")), ("kind", ("a", "bc"))),
        (("kind", "ab"), ("kinda", "b")),
        (("kind", b"key"), ("kind", "key")),
        (("kind", ("key",)), ("kind", "key")),
        (("kind", None), ("kind", "None")),
    ],
)
async def test_no_key_reaches_the_value_of_another(
    setting: Setting, one: tuple[str, object], another: tuple[str, object]
) -> None:
    cache = await setting.fresh()
    cache.keep(*one, "value of one")
    assert cache.find(*another) is None
    assert cache.find(*one) == "value of one"


async def test_a_realm_that_does_not_exist_has_no_memory(setting: Setting) -> None:
    assert await setting.caches.fresh(RealmId("nowhere")) is None
    assert setting.database.reads == 0


async def test_a_realm_that_was_removed_and_made_again_remembers_nothing(setting: Setting) -> None:
    await setting.get(await setting.fresh())
    del setting.epochs.now[ACME]
    assert await setting.caches.fresh(ACME) is None
    setting.epochs.now[ACME] = FIVE
    assert (await setting.fresh()).find("kind", "key") is None


async def test_without_an_epoch_nothing_is_decided_from_memory(setting: Setting) -> None:
    await setting.get(await setting.fresh())
    setting.epochs.failure = storage_unavailable()
    with pytest.raises(Unavailable):
        await setting.caches.fresh(ACME)


async def test_an_answer_that_is_late_takes_nothing_of_a_newer_epoch(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[asyncio.Future[Epoch]] = []

    async def current(realm_id: RealmId) -> Epoch:
        asked.append(asyncio.get_running_loop().create_future())
        return await asked[-1]

    monkeypatch.setattr(setting.epochs, "current", current)
    slow, fast = (asyncio.create_task(setting.caches.fresh(ACME)) for _ in range(2))
    await asyncio.sleep(0)
    newer = setting.epochs.now[ACME] = OTHER_EPOCHS[0]
    asked[1].set_result(newer)
    await setting.get(await fast)  # type: ignore[arg-type]
    asked[0].set_result(FIVE)
    late = await slow
    assert late is not None
    assert late.find("kind", "key") is None
    late.keep("kind", "key", "of epoch five")
    third = asyncio.create_task(setting.caches.fresh(ACME))
    await asyncio.sleep(0)
    asked[2].set_result(newer)
    assert (await third).find("kind", "key") is None  # type: ignore[union-attr]


async def test_what_is_large_leaves_room_for_fewer(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epochs_module, "CACHED_ENTRIES_PER_REALM_MAX", 10)
    cache = await setting.fresh()
    held = []
    for number in range(6):
        setting.values[number] = "x" * 4
        await cache.get("kind", number, lambda _, number=number: setting.values[number], len)
        held.append([each for each in range(number + 1) if cache.find("kind", each) is not None])
    assert held == [[0], [0, 1], [2], [2, 3], [4], [4, 5]]


async def test_a_realms_memory_is_bounded_and_goes_on_to_work(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epochs_module, "CACHED_ENTRIES_PER_REALM_MAX", 10)
    cache = await setting.fresh()
    for number in range(1_000):
        setting.values[number] = f"value {number}"
        assert await setting.get(cache, number) == f"value {number}"
        assert cache.find("kind", number) == f"value {number}"
        assert sum(cache.find("kind", known) is not None for known in range(number + 1)) <= 10


@pytest.fixture
def three_realms_at_most(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> list[RealmId]:
    monkeypatch.setattr(epochs_module, "CACHED_REALMS_MAX", 3)
    realms = [RealmId(f"realm-{number}") for number in range(50)]
    setting.epochs.now = dict.fromkeys(realms, FIVE)
    return realms


def known(setting: Setting, realms: list[RealmId]) -> list[RealmId]:
    """The realms that are remembered; looks without asking, which would change what is."""
    return [realm_id for realm_id in realms if realm_id in setting.caches._caches]


async def test_the_number_of_remembered_realms_is_bounded(
    setting: Setting, three_realms_at_most: list[RealmId]
) -> None:
    for number, realm_id in enumerate(three_realms_at_most):
        assert await setting.get(await setting.fresh(realm_id)) == "old"
        assert len(known(setting, three_realms_at_most)) == min(number + 1, 3)
    assert known(setting, three_realms_at_most) == three_realms_at_most[-3:]


async def test_the_realm_that_was_filled_longest_ago_leaves_first(
    setting: Setting, three_realms_at_most: list[RealmId]
) -> None:
    first, second, third, fourth, fifth, *_ = three_realms_at_most
    for realm_id in (first, second, third, first, fourth):
        await setting.fresh(realm_id)
    assert known(setting, three_realms_at_most) == [second, third, fourth]
    setting.epochs.bump(None, second)  # type: ignore[arg-type]
    for realm_id in (second, fifth):
        await setting.fresh(realm_id)
    assert known(setting, three_realms_at_most) == [second, fourth, fifth]
