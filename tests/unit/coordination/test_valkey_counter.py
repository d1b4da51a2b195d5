"""Counts in a real Redis: exact among nodes, and never more than the node's share when it is gone."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from qimem.coordination import valkey_counter
from qimem.coordination.valkey_counter import ValkeyCounter
from qimem.coordination.window_table import WindowTable
from qimem.kernel.clock import SystemClock
from qimem.kernel.metering import UNITS_MAX, Allowance, Charge
from qimem.kernel.secret import SecretText
from tests.support.valkey import Valkey

pytestmark = pytest.mark.anyio

TEN = Allowance(10, 60)
HERE = "installation-one"


def bucket(number: int) -> bytes:
    return b"c" + number.to_bytes(15, "big")


A, B = bucket(1), bucket(2)


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    server = Valkey(tmp_path).start()
    yield server
    server.end()


class Nodes:
    """Nodes of one installation, each with counts of its own beside the server's."""

    def __init__(self, valkey: Valkey, stack: AsyncExitStack) -> None:
        self._valkey, self._stack = valkey, stack

    def node(
        self, prefix: str = HERE, *, url: str = "", nodes: int = 2, trusts: bool = True
    ) -> ValkeyCounter:
        """A node that takes the server it first meets for an old one, unless it is told not to."""
        clock = SystemClock()
        place = SecretText(url or self._valkey.url)
        counter = ValkeyCounter(place, prefix, b"secret", WindowTable(clock), nodes, clock)
        if trusts:
            pool = counter._server.connection_pool

            async def first(connection: Any) -> None:
                await counter._meet(connection)
                counter._up_since = -math.inf
                connection.redis_connect_func = pool.connection_kwargs["redis_connect_func"] = counter._meet

            pool.connection_kwargs["redis_connect_func"] = first
        self._stack.push_async_callback(counter.close)
        return counter


@pytest.fixture
async def nodes(valkey: Valkey) -> AsyncIterator[Nodes]:
    async with AsyncExitStack() as stack:
        yield Nodes(valkey, stack)


async def admitted(counter: ValkeyCounter, count: int, name: bytes = A, allowance: Allowance = TEN) -> int:
    charges = [await counter.charge(name, 1, allowance) for _ in range(count)]
    return sum(charge.admitted for charge in charges)


async def until_back(counter: ValkeyCounter) -> None:
    deadline = time.monotonic() + 10
    while counter._gone:
        assert time.monotonic() < deadline
        await counter.charge(bucket(999), 1, TEN)
        await asyncio.sleep(0.02)


async def test_what_is_left_is_told_alike_by_every_node(nodes: Nodes) -> None:
    one, two = nodes.node(), nodes.node()
    now = time.time()
    charges = [await counter.charge(A, 1, TEN) for counter in (one, two) * 6]
    assert [charge.remaining for charge in charges] == [*range(9, -1, -1), 0, 0]
    assert [charge.admitted for charge in charges] == [True] * 10 + [False] * 2
    assert len({charge.reset for charge in charges}) == 1
    assert now + 59 < charges[0].reset <= now + 62
    assert {charge.limit for charge in charges} == {10}
    assert 59 <= charges[-1].retry_after_seconds <= 61


async def test_many_at_once_on_two_nodes_admit_exactly_the_limit_ten_times_in_a_row(nodes: Nodes) -> None:
    one, two = nodes.node(), nodes.node()
    hundred = Allowance(100, 60)
    for number in range(10):
        charges = await asyncio.gather(
            *(counter.charge(bucket(number), 1, hundred) for _ in range(128) for counter in (one, two))
        )
        left = sorted(charge.remaining for charge in charges if charge.admitted)
        assert left == list(range(100))
        assert len({charge.reset for charge in charges}) == 1


async def test_buckets_and_installations_are_counted_apart(nodes: Nodes) -> None:
    here, elsewhere = nodes.node(), nodes.node("installation-two")
    assert await admitted(here, 12) == 10
    assert await admitted(here, 12, B) == 10
    assert await admitted(elsewhere, 12) == 10


async def test_several_units_are_taken_all_or_none_and_given_back(nodes: Nodes, valkey: Valkey) -> None:
    counter = nodes.node()
    assert (await counter.charge(A, 8, TEN)).remaining == 2
    refused = await counter.charge(A, 3, TEN)
    assert (refused.admitted, refused.remaining) == (False, 0)
    assert valkey.cli("GET", counter._name(A)) == "8"
    assert (await counter.charge(A, 2, TEN)).remaining == 0
    assert not (await counter.charge(A, 1, TEN)).admitted
    assert (await counter.charge(A, -1, TEN)).remaining == 1
    assert (await counter.charge(A, 1, TEN)).admitted


async def test_batches_at_once_never_admit_more_and_leave_no_window_below_zero(
    nodes: Nodes, valkey: Valkey
) -> None:
    one, two = nodes.node(), nodes.node()
    short, units = Allowance(10, 1), (999, 7, 1, -1)
    for _ in range(2):
        ends, taken = time.monotonic() + 1.05, 0
        while time.monotonic() < ends:
            charges = await asyncio.gather(
                *(counter.charge(A, count, short) for counter in (one, two) for count in units)
            )
            taken += sum(
                count
                for charge, count in zip(charges, units * 2, strict=True)
                if charge.admitted and count > 0
            )
            assert int(valkey.cli("GET", one._name(A)) or 0) >= 0
        assert taken <= 20


async def test_a_window_ends_and_the_next_is_found_by_who_knew_the_last(nodes: Nodes, valkey: Valkey) -> None:
    one, two = nodes.node(), nodes.node()
    short = Allowance(3, 1)
    first = await one.charge(A, 3, short)
    assert not (await two.charge(A, 1, short)).admitted
    await asyncio.sleep(1.1)
    again = await two.charge(A, 1, short)
    assert again.admitted
    assert again.reset > first.reset
    assert (await one.charge(A, 1, short)) == Charge(True, 3, 1, again.reset, 0)
    # Nothing stays behind.
    await asyncio.sleep(1.2)
    assert valkey.cli("DBSIZE") == "0"


async def test_a_key_that_lost_its_end_gets_one(nodes: Nodes, valkey: Valkey) -> None:
    counter = nodes.node()
    valkey.cli("SET", counter._name(A), "4")
    assert (await counter.charge(A, 1, TEN)).remaining == 5
    assert 0 < int(valkey.cli("TTL", counter._name(A))) <= 60


async def test_whatever_is_evicted_a_node_admits_two_windows_at_most(nodes: Nodes, valkey: Valkey) -> None:
    counter = nodes.node()
    count = 0
    for _ in range(10):
        count += await admitted(counter, 5)
        valkey.cli("FLUSHALL")
    assert count <= 20


async def test_what_is_unlimited_counts_down(nodes: Nodes) -> None:
    counter = nodes.node()
    assert (await counter.charge(A, 1, Allowance(UNITS_MAX, 60))).remaining == UNITS_MAX - 1


# --- without the server ------------------------------------------------------------------------


async def test_a_node_without_the_server_admits_its_share_and_no_more(nodes: Nodes, valkey: Valkey) -> None:
    counter = nodes.node()
    valkey.kill()
    assert await admitted(counter, 20) == 5
    assert (await counter.charge(A, 1, TEN)).limit == 5
    assert await admitted(counter, 20, B, Allowance(1, 60)) == 1


async def test_what_was_admitted_before_counts_when_it_is_gone(nodes: Nodes, valkey: Valkey) -> None:
    counter = nodes.node()
    assert await admitted(counter, 3) == 3
    valkey.kill()
    assert await admitted(counter, 20) == 2


async def test_killed_and_back_and_no_node_admits_more_than_its_share(nodes: Nodes, valkey: Valkey) -> None:
    one, two = nodes.node(), nodes.node()
    for number in range(5):
        name = bucket(100 + number)
        count = [await admitted(counter, 3, name) for counter in (one, two)]
        valkey.kill()
        count += [await admitted(counter, 9, name) for counter in (one, two)]
        valkey.start()
        for counter in (one, two):
            await until_back(counter)
        count += [await admitted(counter, 20, name) for counter in (one, two, one)]
        assert sum(count) == 10
        for counter in (one, two):
            # As if all windows of before were over.
            counter._up_since = -math.inf


async def test_a_restart_that_nobody_saw_sets_nobody_free(nodes: Nodes, valkey: Valkey) -> None:
    counter = nodes.node()
    assert await admitted(counter, 20) == 10
    valkey.kill()
    valkey.start()
    assert await admitted(counter, 20) == 0
    await until_back(counter)
    assert await admitted(counter, 20) == 0
    assert await admitted(counter, 20, B) == 5


async def test_a_young_server_is_not_trusted_by_who_meets_it_first(nodes: Nodes) -> None:
    counter = nodes.node(trusts=False)
    assert await admitted(counter, 20) == 5
    short = Allowance(10, 1)
    await asyncio.sleep(2.1)
    assert await admitted(counter, 20, B, short) == 10


async def test_what_was_refused_for_lack_of_trust_is_left_to_others(nodes: Nodes) -> None:
    one, two = nodes.node(trusts=False), nodes.node(trusts=False)
    assert await admitted(one, 50) == 5
    assert await admitted(two, 50) == 5


async def test_a_server_that_stands_still_delays_one_batch_and_not_every_request(
    nodes: Nodes, valkey: Valkey
) -> None:
    counter = nodes.node()
    await counter.charge(A, 1, TEN)
    valkey.stop()
    began = time.monotonic()
    await asyncio.gather(*(counter.charge(bucket(number), 1, TEN) for number in range(50)))
    assert time.monotonic() - began < 0.3
    began = time.monotonic()
    for _ in range(50):
        await counter.charge(A, 1, TEN)
    assert time.monotonic() - began < 0.2
    valkey.go_on()
    await until_back(counter)
    assert (await counter.charge(bucket(7_777), 1, TEN)).limit == 10


async def test_it_need_not_be_there_at_the_start(nodes: Nodes, valkey: Valkey, tmp_path: Path) -> None:
    valkey.kill()
    counter = nodes.node()
    assert await admitted(counter, 20) == 5
    valkey.start()
    await until_back(counter)
    assert await admitted(counter, 20, B) == 10


async def test_one_that_refuses_us_is_as_good_as_none(nodes: Nodes, tmp_path: Path) -> None:
    place = tmp_path / "locked"
    place.mkdir()
    locked = Valkey(place, ("--requirepass", "secret")).start()
    try:
        counter = nodes.node(url=locked.url)
        assert await admitted(counter, 20) == 5
        opened = nodes.node(url=f"unix://:secret@{locked.socket}")
        assert await admitted(opened, 20, B) == 10
    finally:
        locked.end()


RIGHTS = (
    "~qimem:*",
    "-@all",
    *"+set +get +incrby +decrby +pexpire +pexpiretime +pttl +info +auth +hello +client".split(),
)


async def test_an_account_without_scripts_is_enough(nodes: Nodes, valkey: Valkey) -> None:
    assert valkey.cli("ACL", "SETUSER", "limits", "on", ">secret", *RIGHTS) == "OK"
    counter = nodes.node(url=f"unix://limits:secret@{valkey.socket}")
    assert await admitted(counter, 20) == 10
    assert await admitted(counter, 20) == 0


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == valkey_counter.__name__]


async def test_one_that_answers_and_does_not_count_is_as_good_as_none(
    nodes: Nodes, valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    rights = [right for right in RIGHTS if right != "+incrby"]
    valkey.cli("ACL", "SETUSER", "limits", "on", ">secret", *rights)
    counter = nodes.node(url=f"unix://limits:secret@{valkey.socket}")
    for _ in range(4):
        await admitted(counter, 5)
        await asyncio.sleep(0.3)
    assert counter._gone
    assert told(caplog) == [
        "the server of the rate limits is gone (NoPermissionError): this node counts alone, with its share"
    ]


class Talker:
    """Speaks the protocol's framing, claims to be old, and gives the same answer to everything."""

    def __init__(self, answer: bytes) -> None:
        info = b"uptime_in_seconds:86400\r\n"
        self._answer = answer
        self._known = {
            b"HELLO": b"-ERR unknown command\r\n",
            b"CLIENT": b"+OK\r\n",
            b"SET": b"+OK\r\n",
            b"INFO": b"$%d\r\n%b\r\n" % (len(info), info),
        }

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            words = [await self._word(reader) for _ in range(int(line[1:]))]
            writer.write(self._known.get(words[0].upper(), self._answer))
        writer.close()

    async def _word(self, reader: asyncio.StreamReader) -> bytes:
        length = int((await reader.readline())[1:])
        return (await reader.readexactly(length + 2))[:-2]


NONSENSE = [
    b":1\r\n",
    b":-5\r\n",
    b":0\r\n",
    b":60000\r\n",
    b"$3\r\nabc\r\n",
    b"*0\r\n",
    b"$-1\r\n",
    b"hello\r\n",
]


@pytest.mark.parametrize("answer", NONSENSE)
async def test_nonsense_never_admits_more_than_two_windows(
    nodes: Nodes, tmp_path: Path, answer: bytes
) -> None:
    place = tmp_path / "talker.sock"
    server = await asyncio.start_unix_server(Talker(answer).serve, place)
    counter = nodes.node(url=f"unix://{place}")
    charges = [await asyncio.wait_for(counter.charge(A, 1, TEN), 2) for _ in range(60)]
    assert sum(charge.admitted for charge in charges) <= 20
    assert all(0 <= charge.remaining <= charge.limit for charge in charges)
    several = [await asyncio.wait_for(counter.charge(B, 7, TEN), 2) for _ in range(10)]
    assert sum(charge.admitted for charge in several) <= 2
    server.close()


async def test_losing_it_is_logged_once_and_never_with_its_password(
    nodes: Nodes, valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    valkey.cli("CONFIG", "SET", "requirepass", "another")
    counter = nodes.node(url=f"unix://:hunter2@{valkey.socket}")
    for _ in range(3):
        await admitted(counter, 5)
        await asyncio.sleep(0.3)
    assert len(told(caplog)) == 1
    assert "hunter2" not in "".join(f"{record.getMessage()}{record.__dict__}" for record in caplog.records)


@pytest.mark.parametrize("seconds", [0.0, 0.02])
async def test_closing_answers_who_waits(nodes: Nodes, valkey: Valkey, seconds: float) -> None:
    counter = nodes.node()
    await counter.charge(A, 1, TEN)
    valkey.stop()
    waiting = asyncio.create_task(counter.charge(A, 1, TEN))
    await asyncio.sleep(seconds)
    await counter.close()
    assert (await asyncio.wait_for(waiting, 1)).limit == 5
    assert (await asyncio.wait_for(counter.charge(A, 1, TEN), 1)).limit == 5
    valkey.go_on()
