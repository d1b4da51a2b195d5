from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from qimem.audit import delivery as module
from qimem.audit.delivery import CheckpointDelivery, DeliveryTimes
from qimem.audit.segment import CHECKPOINT_DOMAIN, Checkpoint, checkpoint_line
from qimem.audit.sinks import SinkFailed
from qimem.kernel.clock import ManualClock
from tests.unit.audit.logs import AT, VERIFIER, signer

pytestmark = pytest.mark.anyio

ONE, TWO = "s000000000001", "s000000000002"


def a_head(stream: str, number: int, *, seed: int = 1) -> bytes:
    encoded = msgspec.json.encode(Checkpoint("here", stream, 1, number, 10 * number, "x", 1, AT))
    return checkpoint_line(encoded, signer(seed).sign(CHECKPOINT_DOMAIN + encoded)).rstrip()


class Sink:
    def __init__(self, name: str = "file") -> None:
        self.name = name
        self.taken: list[bytes] = []
        self.calls = 0
        self.broken: Exception | None = None
        self.gate: asyncio.Event | None = None

    async def take(self, checkpoints: Sequence[bytes]) -> None:
        self.calls += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.broken is not None:
            raise self.broken
        self.taken += checkpoints


class Place:
    """A log's directory with heads, and who delivers them."""

    def __init__(self, log: Path) -> None:
        self.log = log
        (log / "heads").mkdir()
        self.clock = ManualClock()
        self.failed: list[str] = []

    def put(self, stream: str, head: bytes) -> bytes:
        (self.log / "heads" / stream).write_bytes(head)
        return head

    def delivery(self, *sinks: Sink, seconds: float = 60) -> CheckpointDelivery:
        times = DeliveryTimes(self.clock, seconds)
        return CheckpointDelivery(self.log, VERIFIER, times, sinks, self.failed.append)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


async def test_every_stream_s_newest_checkpoint_is_delivered_once(place: Place) -> None:
    sinks = Sink("file"), Sink("url")
    delivery = place.delivery(*sinks)
    heads = [place.put(ONE, a_head(ONE, 3)), place.put(TWO, a_head(TWO, 7))]
    await delivery.deliver()
    await delivery.deliver()
    heads.append(place.put(ONE, a_head(ONE, 9)))
    await delivery.deliver()
    for sink in sinks:
        assert sorted(sink.taken) == sorted(heads)
    assert (place.failed, sinks[0].calls) == ([], 2)


async def test_a_stream_without_a_checkpoint_is_nothing_to_deliver(place: Place) -> None:
    sink = Sink()
    place.put(ONE, a_head(ONE, 0))
    await place.delivery(sink).deliver()
    assert sink.calls == 0


async def test_a_sink_that_was_away_gets_the_newest(place: Place) -> None:
    sink, other = Sink("url"), Sink("file")
    delivery = place.delivery(sink, other)
    sink.broken = SinkFailed("it answered 500")
    for number in range(1, 6):
        place.put(ONE, a_head(ONE, number))
        await delivery.deliver()
        place.clock.advance(10)
    assert place.failed == ["url"] * 5
    assert len(other.taken) == 5
    assert delivery.late_seconds("url") == 50
    assert delivery.late_seconds("file") == 0
    sink.broken = None
    await delivery.deliver()
    assert sink.taken == [a_head(ONE, 5)]
    assert delivery.late_seconds("url") == 0


@pytest.mark.parametrize("broken", [OSError(5, "Input/output error"), ValueError("a defect")])
async def test_nothing_that_goes_wrong_ends_the_delivery(place: Place, broken: Exception) -> None:
    sink = Sink()
    sink.broken = broken
    delivery = place.delivery(sink)
    head = place.put(ONE, a_head(ONE, 1))
    await delivery.deliver()
    assert place.failed == ["file"]
    sink.broken = None
    await delivery.deliver()
    assert sink.taken == [head]


@pytest.mark.parametrize(
    "head",
    [b"", b"{}", b"garbage\n", a_head(ONE, 5, seed=2), a_head(TWO, 5), a_head(ONE, 5).replace(b'"entries":50', b'"entries":51')],
    ids=["empty", "none", "garbage", "another key", "another stream", "changed"],
)  # fmt: skip
async def test_a_head_that_nobody_signed_is_not_delivered(
    place: Place, head: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    sink = Sink()
    delivery = place.delivery(sink)
    place.put(ONE, head)
    good = place.put("s000000000003", a_head("s000000000003", 1))
    await delivery.deliver()
    await delivery.deliver()
    assert sink.taken == [good]
    assert len([record for record in caplog.records if "changed by somebody" in record.getMessage()]) == 1


async def test_a_head_that_goes_back_is_told_and_not_delivered(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    sink = Sink()
    delivery = place.delivery(sink)
    place.put(ONE, a_head(ONE, 5))
    await delivery.deliver()
    place.put(ONE, a_head(ONE, 4))
    await delivery.deliver()
    assert sink.taken == [a_head(ONE, 5)]
    assert "went back to checkpoint 4" in caplog.text


async def test_one_process_of_a_node_delivers_and_another_takes_over(place: Place) -> None:
    first, second = Sink(), Sink()
    ours, theirs = place.delivery(first, Sink("url")), place.delivery(second)
    place.put(ONE, a_head(ONE, 1))
    await ours.deliver()
    await theirs.deliver()
    assert (len(first.taken), second.taken) == (1, [])
    assert theirs.late_seconds("file") == 0
    await ours.close()
    await theirs.deliver()
    assert second.taken == [a_head(ONE, 1)]


async def test_what_was_signed_last_is_delivered_at_the_end(place: Place) -> None:
    sink = Sink()
    delivery = place.delivery(sink)
    delivery.start()
    place.put(ONE, a_head(ONE, 1))
    while not sink.taken:
        await asyncio.sleep(0.01)
    place.put(ONE, a_head(ONE, 2))
    await delivery.close()
    assert sink.taken == [a_head(ONE, 1), a_head(ONE, 2)]


async def test_the_end_does_not_wait_for_a_sink_that_hangs(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AUDIT_SINK_CLOSE_SECONDS", 0.05)
    sink = Sink()
    delivery = place.delivery(sink)
    await delivery.deliver()
    sink.gate = asyncio.Event()
    place.put(ONE, a_head(ONE, 2))
    await asyncio.wait_for(delivery.close(), 2)
    assert sink.taken == []


async def test_attempts_at_a_sink_that_fails_grow_rare(place: Place) -> None:
    sink = Sink()
    sink.broken = SinkFailed("no")
    delivery = place.delivery(sink)
    place.put(ONE, a_head(ONE, 1))
    (route,) = delivery._routes
    pauses = []
    for _ in range(12):
        await delivery.deliver()
        pauses.append(delivery._pause(route))
    assert pauses == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]
    sink.broken = None
    await delivery.deliver()
    assert delivery._pause(route) == 60


async def test_a_log_that_cannot_be_read_is_a_failure(place: Place) -> None:
    delivery = place.delivery(Sink())
    place.put(ONE, a_head(ONE, 1))
    (place.log / "heads" / TWO).symlink_to("nowhere")
    await delivery.deliver()
    assert place.failed == ["file"]
