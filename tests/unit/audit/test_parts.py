"""Intents, the recorder and the counts of strangers: nothing is forgotten, nothing is recorded twice."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from qimem.audit.intents import Intents
from qimem.audit.ports import PendingIntent
from qimem.audit.record import decoded, ids_in, line_of
from qimem.audit.recorder import AuditRecorder
from qimem.audit.refusals import RefusalCounts
from qimem.errors import QimemError, Unavailable, audit_unavailable, storage_unavailable
from qimem.kernel.audit_draft import AuditDraft
from qimem.kernel.clock import ManualClock
from qimem.kernel.transaction import Tx
from tests.support.audit import a_draft

pytestmark = pytest.mark.anyio


class Rows:
    """The intents of one stream, and a database that can be away."""

    def __init__(self) -> None:
        self.rows: dict[str, PendingIntent] = {}
        self.away = False

    def put(self, tx: Tx, stream: str, intent: PendingIntent) -> None:
        self.rows[intent.record_id] = intent

    def pending(self, tx: Tx, stream: str) -> list[PendingIntent]:
        return list(self.rows.values())

    def delete(self, tx: Tx, stream: str, record_ids: list[str]) -> None:
        for record_id in record_ids:
            self.rows.pop(record_id, None)

    async def write(self, fn: Any) -> Any:
        if self.away:
            raise storage_unavailable()
        return fn(None)

    read = write


class Trail:
    """Writes at once, fails, or keeps everybody waiting."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.strict = True
        self.verdict: bool | None = True
        self.waiting: list[Any] = []
        self.writable = True
        self.seconds = 0.0
        self.refused: set[str] = set()

    def submit(self, line: bytes, done: Any) -> None:
        self.require_writable()
        if self.verdict is None:
            self.waiting.append(done)
            return
        if self.verdict:
            self.lines.append(line)
        done(self.verdict)

    def require_writable(self) -> None:
        if not self.writable:
            raise audit_unavailable()

    async def append(self, line: bytes) -> None:
        self.require_writable()
        await asyncio.sleep(self.seconds)
        if decoded(line).id in self.refused:
            raise audit_unavailable()
        self.lines.append(line)


class Desk:
    def __init__(self) -> None:
        self.rows, self.trail, self.clock = Rows(), Trail(), ManualClock()
        self.intents = Intents(self.rows, self.clock, "s", lambda: 3)
        self.refusals = RefusalCounts(self.clock)
        self.recorder = AuditRecorder(self.trail, self.intents, self.refusals, self.clock)  # type: ignore[arg-type]
        self.told: list[QimemError | None] = []

    def intended(self) -> Any:
        draft = a_draft()
        draft.intent = self.intents.put(None, draft)  # type: ignore[arg-type]
        return draft

    def record(self, draft: Any, outcome: str = "ok") -> str | None:
        self.recorder.record(draft, outcome, self.told.append)
        error = self.told[-1]
        return None if error is None else error.code

    async def tidy(self) -> None:
        await self.intents.tidy(self.rows, self.trail.append)  # type: ignore[arg-type]


@pytest.fixture
async def desk() -> Desk:
    return Desk()


async def test_an_intent_stands_beside_its_effect_until_it_stands_in_the_log(desk: Desk) -> None:
    draft = desk.intended()
    await desk.tidy()
    assert list(desk.rows.rows) == [draft.intent.record_id]
    assert desk.record(draft) is None
    assert desk.trail.lines == [draft.intent.line]
    await desk.tidy()
    assert desk.rows.rows == {}


async def test_a_change_whose_record_fails_is_of_unknown_outcome(desk: Desk) -> None:
    desk.trail.verdict = False
    assert desk.record(desk.intended()) == "outcome_unknown"
    assert desk.record(a_draft()) == "audit_unavailable"


async def test_a_log_that_takes_nothing_is_told_in_the_same_way(desk: Desk) -> None:
    desk.trail.writable = False
    assert desk.record(desk.intended()) == "outcome_unknown"
    assert desk.record(a_draft()) == "audit_unavailable"
    with pytest.raises(Unavailable):
        desk.recorder.require_writable()


async def test_what_failed_is_appended_later_once_and_marked(desk: Desk) -> None:
    desk.trail.verdict = False
    draft = desk.intended()
    desk.record(draft)
    for _ in range(3):
        await desk.tidy()
    (line,) = desk.trail.lines
    assert (decoded(line).id, decoded(line).recovered) == (draft.intent.record_id, True)
    assert desk.rows.rows == {}


async def test_what_is_under_way_is_not_taken_for_lost(desk: Desk) -> None:
    desk.trail.verdict = None
    under_way = desk.intended()
    desk.recorder.record(under_way, "ok", desk.told.append)
    desk.trail.verdict = False
    lost = desk.intended()
    desk.record(lost)
    await desk.tidy()
    assert [decoded(line).id for line in desk.trail.lines] == [lost.intent.record_id]


async def test_a_commit_nobody_knows_of_is_settled_by_the_database(desk: Desk) -> None:
    committed, undone = desk.intended().intent, desk.intended().intent
    desk.intents.in_doubt(committed)
    del desk.rows.rows[undone.record_id]
    desk.intents.in_doubt(undone)
    await desk.tidy()
    assert [decoded(line).id for line in desk.trail.lines] == [committed.record_id]


async def test_a_commit_that_comes_after_its_doubt_was_settled_is_found_later(desk: Desk) -> None:
    late = desk.intended().intent
    row = desk.rows.rows.pop(late.record_id)
    desk.intents.in_doubt(late)
    await desk.tidy()
    desk.rows.rows[late.record_id] = row
    await desk.tidy()
    assert desk.trail.lines == []
    desk.clock.advance(61)
    await desk.tidy()
    assert [decoded(line).id for line in desk.trail.lines] == [late.record_id]


async def test_what_has_been_on_its_way_for_too_long_is_looked_for(desk: Desk) -> None:
    draft = desk.intended()
    desk.clock.advance(61)
    await desk.tidy()
    assert [decoded(line).id for line in desk.trail.lines] == [draft.intent.record_id]


async def test_while_the_database_is_away_nothing_is_forgotten(desk: Desk) -> None:
    desk.record(desk.intended())
    desk.rows.away = True
    with pytest.raises(Unavailable):
        await desk.tidy()
    desk.rows.away = False
    await desk.tidy()
    assert desk.rows.rows == {}


async def test_while_the_log_is_away_doubts_are_kept(desk: Desk) -> None:
    draft = desk.intended()
    desk.intents.in_doubt(draft.intent)
    desk.trail.writable = False
    with pytest.raises(Unavailable):
        await desk.tidy()
    desk.trail.writable = True
    await desk.tidy()
    assert len(desk.trail.lines) == 1


def lost(desk: Desk, count: int) -> list[str]:
    """Changes that happened, whose records are not in the log."""
    desk.trail.verdict = False
    drafts = [desk.intended() for _ in range(count)]
    for draft in drafts:
        desk.record(draft)
    return [draft.intent.record_id for draft in drafts]


async def test_what_was_left_out_is_appended_together_and_in_order(desk: Desk) -> None:
    ids = lost(desk, 1_005)
    desk.trail.seconds = 0.05
    began = asyncio.get_running_loop().time()
    await desk.tidy()
    assert asyncio.get_running_loop().time() - began < 2
    assert [decoded(line).id for line in desk.trail.lines] == ids
    await desk.tidy()
    assert (desk.rows.rows, len(desk.trail.lines)) == ({}, len(ids))


async def test_of_several_that_were_left_out_those_that_fail_again_are_tried_again(desk: Desk) -> None:
    ids = lost(desk, 5)
    desk.trail.refused = {ids[1], ids[3]}
    with pytest.raises(Unavailable):
        await desk.tidy()
    assert [decoded(line).id for line in desk.trail.lines] == [ids[0], ids[2], ids[4]]
    desk.trail.refused = set()
    await desk.tidy()
    await desk.tidy()
    assert sorted(decoded(line).id for line in desk.trail.lines) == sorted(ids)
    assert desk.rows.rows == {}


async def test_what_is_being_appended_when_all_ends_is_appended_once(desk: Desk) -> None:
    ids = lost(desk, 3)
    desk.trail.seconds = 0.1
    tidying = asyncio.create_task(desk.tidy())
    await asyncio.sleep(0.02)
    tidying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await tidying
    # The last look before the log is closed.
    await desk.tidy()
    await asyncio.sleep(0.15)
    assert [decoded(line).id for line in desk.trail.lines] == ids
    await desk.tidy()
    assert desk.rows.rows == {}


async def test_the_outcome_is_the_one_that_is_answered(desk: Desk) -> None:
    desk.record(a_draft(), "key_disabled")
    assert decoded(desk.trail.lines[0]).outcome == "key_disabled"


async def test_without_waiting_the_answer_comes_first_and_the_intent_stays_until_it_is_logged(
    desk: Desk,
) -> None:
    desk.trail.strict, desk.trail.verdict = False, None
    draft = desk.intended()
    assert desk.record(draft) is None
    await desk.tidy()
    assert list(desk.rows.rows) == [draft.intent.record_id]
    desk.trail.waiting[0](True)
    await desk.tidy()
    assert desk.rows.rows == {}
    assert desk.told == [None]


async def test_without_waiting_as_well_nothing_is_done_that_cannot_be_recorded(desk: Desk) -> None:
    desk.trail.strict, desk.trail.writable = False, False
    assert desk.record(a_draft()) == "audit_unavailable"
    assert len(desk.told) == 1


async def counted(desk: Desk) -> dict[tuple[str, str, str], int]:
    await desk.refusals.flush(desk.trail.append)
    records = [decoded(line) for line in desk.trail.lines]
    desk.trail.lines.clear()
    assert {record.event for record in records} <= {"authentication.refused"}
    return {(record.address, record.target, record.outcome): record.count for record in records}


async def test_strangers_are_counted_by_address_and_reason(desk: Desk) -> None:
    for address, reason in [("10.0.0.1", "invalid_token")] * 3 + [("10.0.0.1", "unauthenticated"), ("10.0.0.2", "invalid_token")]:  # fmt: skip
        desk.recorder.refuse(address, "keys.list", reason)
    assert await counted(desk) == {
        ("10.0.0.1", "keys.list", "invalid_token"): 3,
        ("10.0.0.1", "keys.list", "unauthenticated"): 1,
        ("10.0.0.2", "keys.list", "invalid_token"): 1,
    }
    assert await counted(desk) == {}


async def test_ipv6_is_counted_by_its_64(desk: Desk) -> None:
    for address in ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "::ffff:10.0.0.1", "odd"):
        desk.recorder.refuse(address, "keys.list", "invalid_token")
    found = await counted(desk)
    assert found["2001:db8::/64", "keys.list", "invalid_token"] == 2
    assert len(found) == 4


async def test_many_addresses_share_a_count(desk: Desk) -> None:
    for number in range(5_000):
        desk.recorder.refuse(f"10.0.{number // 250}.{number % 250}", "keys.list", "invalid_token")
    found = await counted(desk)
    assert sum(found.values()) == 5_000
    assert len(found) == 4_097


async def test_counts_wait_for_the_log(desk: Desk) -> None:
    for number in range(3):
        desk.recorder.refuse(f"10.0.0.{number}", "keys.list", "invalid_token")
    desk.trail.writable = False
    with pytest.raises(Unavailable):
        await counted(desk)
    desk.recorder.refuse("10.0.0.0", "keys.list", "invalid_token")
    desk.trail.writable = True
    assert sum((await counted(desk)).values()) == 4


def test_the_ids_of_lines_are_those_of_their_records() -> None:
    draft = AuditDraft("keys.encrypt", "request-1", "127.0.0.1")
    draft.target = '"id":"another"'
    made = [f"{number:024x}" for number in range(3)]
    lines = [line_of(draft, record_id, 1, "ok") for record_id in made]
    assert ids_in(b"".join(lines)) == {decoded(line).id for line in lines} == set(made)
