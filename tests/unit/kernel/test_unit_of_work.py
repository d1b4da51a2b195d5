from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from qimem.authz.permissions import compile_permissions
from qimem.errors import Conflict, Mismatch, NotFound, Unavailable, storage_unavailable
from qimem.kernel.clock import MICROSECONDS, ManualClock
from qimem.kernel.context import Actor, ActorKind, IdempotencyKey, RequestContext
from qimem.kernel.epochs import Epoch, RealmCache
from qimem.kernel.ids import ClientId, RealmId
from qimem.kernel.transaction import Tx, UniqueViolation
from qimem.kernel.unit_of_work import UnitOfWork
from tests.support.audit import FakeIntents, a_draft
from tests.unit.kernel.fakes import (
    Answer,
    FakeAnswers,
    FakeCodec,
    FakeDatabase,
    FakeEpochs,
    FakeSealers,
    Table,
    WrongLabel,
)

pytestmark = pytest.mark.anyio

DAY_US = 24 * 3600 * MICROSECONDS
WAIT_SECONDS = 10
SECRET = "the secret of the answer"


class Setting:
    """Two workers on one database, and a mutation that counts its effects."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.effects = Table()
        self.answers = FakeAnswers()
        self.sealers = FakeSealers()
        self.codec = FakeCodec()
        self.database = FakeDatabase(self.effects, self.answers)
        self.work, self.other_worker = self.worker(), self.worker()

    def worker(self) -> UnitOfWork:
        return UnitOfWork(self.database, self.answers, self.sealers, self.codec, self.clock, FakeIntents())

    def make(self, tx: Tx) -> Answer:
        """Makes one more thing."""
        number = len(self.effects.rows) + 1
        self.effects.rows[number] = "made"
        return Answer(f"id-{number}", SECRET)

    async def run(self, ctx: RequestContext, work: UnitOfWork | None = None, **more: Any) -> Answer:
        """The mutation for this request."""
        fn: Callable[[Tx], Answer] = more.pop("fn", self.make)
        async with asyncio.timeout(WAIT_SECONDS):
            return await (work or self.work).run(ctx, fn, Answer, object_id=lambda answer: answer.id, **more)

    @property
    def made(self) -> int:
        return len(self.effects.rows)

    @property
    def rows(self) -> list[Any]:
        return list(self.answers.rows.values())


@pytest.fixture
async def setting() -> Setting:
    return Setting()


def request(
    key: str | None = "k1",
    body: bytes = b"body",
    *,
    route: str = "POST /v1/security/keys",
    subject: str = "ada",
    home: str = "acme",
    target: str | None = None,
) -> RequestContext:
    permissions = compile_permissions(frozenset())
    actor = Actor(RealmId(home), ActorKind.USER, subject, ClientId("app"), "token", permissions, "pro")
    state = RealmCache(RealmId(target or home), Epoch(b"", 1), FakeDatabase(), FakeEpochs())
    idempotency = None if key is None else IdempotencyKey(key, route, body)
    return RequestContext("request", actor, state, a_draft(), idempotency)


def replayed(ctx: RequestContext) -> bool:
    assert ctx.idempotency is not None
    return ctx.idempotency.replayed


async def test_without_a_key_every_request_has_its_effect_and_none_is_stored(setting: Setting) -> None:
    answers = [await setting.run(request(None)) for _ in range(2)]
    assert [answer.id for answer in answers] == ["id-1", "id-2"]
    assert setting.rows == []
    assert setting.sealers.labels == []


async def test_a_repetition_gets_the_first_answer_and_has_no_effect(setting: Setting) -> None:
    first, second = request(), request()
    answer = await setting.run(first)
    assert not replayed(first)
    assert await setting.run(second) == answer
    assert replayed(second)
    assert setting.made == 1


async def test_another_worker_replays_as_well(setting: Setting) -> None:
    answer = await setting.run(request())
    again = request()
    assert await setting.run(again, setting.other_worker) == answer
    assert replayed(again)
    assert setting.made == 1


async def test_another_body_under_the_same_key_is_refused_and_has_no_effect(setting: Setting) -> None:
    await setting.run(request())
    other = request(body=b"another body")
    with pytest.raises(Mismatch) as caught:
        await setting.run(other)
    assert caught.value.code == "idempotency_mismatch"
    assert not replayed(other)
    assert setting.made == 1
    assert await setting.run(request()) == Answer("id-1", SECRET)


@pytest.mark.parametrize(
    "other",
    [
        {"key": "k2"},
        {"key": "K1"},
        {"key": "k1 "},
        {"route": "POST /v1/security/rotate"},
        {"subject": "bob"},
        {"home": "other"},
        {"subject": "adak", "key": "1"},
    ],
)
async def test_a_key_is_one_callers_on_one_route(setting: Setting, other: dict[str, str]) -> None:
    await setting.run(request())
    ctx = request(**other)
    assert (await setting.run(ctx)).id == "id-2"
    assert not replayed(ctx)


async def test_an_operators_key_is_the_same_one_in_every_realm(setting: Setting) -> None:
    await setting.run(request(home="system", target="acme", body=b"acme"))
    with pytest.raises(Mismatch):
        await setting.run(request(home="system", target="other", body=b"other"))
    assert setting.made == 1


async def test_a_repetition_while_the_first_still_runs_is_told_so(setting: Setting) -> None:
    setting.database.open.clear()
    first = asyncio.create_task(setting.run(request()))
    await asyncio.sleep(0)
    for body in (b"body", b"another body"):
        with pytest.raises(Conflict) as caught:
            await setting.run(request(body=body))
        assert caught.value.code == "in_progress"
    setting.database.open.set()
    assert (await first).id == "id-1"
    assert (await setting.run(request())).id == "id-1"
    assert setting.made == 1


async def test_a_repetition_beside_another_repetition_is_answered(setting: Setting) -> None:
    answer = await setting.run(request())
    setting.database.open.clear()
    first = asyncio.create_task(setting.run(request()))
    await asyncio.sleep(0)
    second = request()
    assert await setting.run(second) == answer
    assert replayed(second)
    with pytest.raises(Mismatch):
        await setting.run(request(body=b"another body"))
    setting.database.open.set()
    assert await first == answer
    assert setting.made == 1


async def test_a_repetition_beside_another_is_not_told_a_secret(setting: Setting) -> None:
    await setting.run(request(), holds_secret=True)
    setting.database.open.clear()
    first = asyncio.create_task(setting.run(request(), holds_secret=True))
    await asyncio.sleep(0)
    with pytest.raises(Conflict) as caught:
        await setting.run(request(), holds_secret=True)
    assert (caught.value.code, caught.value.object_id) == ("already_done", "id-1")
    setting.database.open.set()
    with pytest.raises(Conflict):
        await first


async def test_a_request_that_runs_holds_up_no_other_key(setting: Setting) -> None:
    setting.database.open.clear()
    tasks = [asyncio.create_task(setting.run(request(key))) for key in ("k1", "k2", None)]
    tasks.append(asyncio.create_task(setting.run(request(subject="bob"))))
    await asyncio.sleep(0)
    setting.database.open.set()
    assert {(await task).id for task in tasks} == {"id-1", "id-2", "id-3", "id-4"}


async def test_a_request_of_another_worker_that_came_between_is_still_running(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put(tx: Tx, row: object) -> None:
        raise UniqueViolation

    monkeypatch.setattr(setting.answers, "put", put)
    with pytest.raises(Conflict) as caught:
        await setting.run(request())
    assert caught.value.code == "in_progress"
    assert setting.made == 0


async def test_an_answer_with_a_secret_is_not_given_twice(setting: Setting) -> None:
    first = await setting.run(request(), holds_secret=True)
    assert first == Answer("id-1", SECRET)
    for work in (setting.work, setting.other_worker):
        again = request()
        with pytest.raises(Conflict) as caught:
            await setting.run(again, work, holds_secret=True)
        assert (caught.value.code, caught.value.object_id) == ("already_done", "id-1")
        assert SECRET not in str(caught.value)
        assert not replayed(again)
    assert setting.made == 1


async def test_an_answer_with_a_secret_is_not_stored_in_any_form(setting: Setting) -> None:
    await setting.run(request(), holds_secret=True)
    (row,) = setting.rows
    assert row.answer_sealed is None
    assert row.object_id == "id-1"
    assert setting.sealers.labels == []
    assert SECRET not in repr(row)


async def test_another_body_is_refused_before_it_is_told_what_was_done(setting: Setting) -> None:
    await setting.run(request(), holds_secret=True)
    with pytest.raises(Mismatch) as caught:
        await setting.run(request(body=b"another body"), holds_secret=True)
    assert "id-1" not in str(caught.value)


async def test_a_stored_answer_is_sealed(setting: Setting) -> None:
    answer = await setting.run(request())
    (row,) = setting.rows
    label = setting.sealers.labels[0]
    assert row.answer_sealed == setting.sealers.seal(label, setting.codec.encode(answer))
    assert setting.codec.encode(answer) not in row.answer_sealed


@pytest.mark.parametrize("age_us", [0, 1, DAY_US - 1])
async def test_within_a_day_a_key_is_remembered(setting: Setting, age_us: int) -> None:
    await setting.run(request())
    setting.clock.wall_us += age_us
    assert (await setting.run(request())).id == "id-1"
    assert setting.made == 1


@pytest.mark.parametrize("age_us", [DAY_US, DAY_US + 1, 30 * DAY_US])
@pytest.mark.parametrize("body", [b"body", b"another body"])
async def test_after_a_day_a_key_is_new(setting: Setting, age_us: int, body: bytes) -> None:
    await setting.run(request())
    setting.clock.wall_us += age_us
    ctx = request(body=body)
    assert (await setting.run(ctx)).id == "id-2"
    assert not replayed(ctx)
    (row,) = setting.rows
    assert (row.created_us, row.expires_us) == (setting.clock.now_us(), setting.clock.now_us() + DAY_US)
    assert (await setting.run(request(body=body))).id == "id-2"


async def test_a_day_is_counted_from_the_first_request_and_not_from_its_repetition(setting: Setting) -> None:
    await setting.run(request())
    setting.clock.wall_us += DAY_US - 1
    await setting.run(request())
    setting.clock.wall_us += 1
    assert (await setting.run(request())).id == "id-2"


async def test_an_answer_moved_to_another_key_does_not_open(setting: Setting) -> None:
    await setting.run(request("k1"))
    await setting.run(request("k2"))
    first, second = setting.rows
    setting.answers.rows[second.slot] = replace(second, answer_sealed=first.answer_sealed)
    with pytest.raises(WrongLabel):
        await setting.run(request("k2"))
    assert setting.made == 2


async def test_no_two_keys_share_a_label(setting: Setting) -> None:
    parts = ("", "1", ":", "1:", "1:1")
    slots = list(itertools.product(parts, repeat=4))
    for realm_id, subject, route, key in slots:
        await setting.run(request(key, home=realm_id, subject=subject, route=route))
    assert len(set(setting.sealers.labels)) == len(slots) == setting.made


@pytest.mark.parametrize("error", [NotFound("gone"), Conflict("taken"), storage_unavailable(), KeyError("x")])
async def test_a_mutation_that_fails_leaves_nothing_and_can_be_tried_again(
    setting: Setting, error: Exception
) -> None:
    def fail(tx: Tx) -> Answer:
        setting.make(tx)
        raise error

    with pytest.raises(type(error)):
        await setting.run(request(), fn=fail)
    assert (setting.made, setting.rows) == (0, [])
    again = request(body=b"corrected body")
    assert (await setting.run(again)).id == "id-1"
    assert not replayed(again)


async def test_an_answer_that_cannot_be_stored_undoes_its_effect(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    for part, name in ((setting.codec, "encode"), (setting.sealers, "seal"), (setting.answers, "put")):
        with monkeypatch.context() as patch:
            patch.setattr(part, name, fail)
            with pytest.raises(ZeroDivisionError):
                await setting.run(request())
        assert (setting.made, setting.rows) == (0, [])
    assert (await setting.run(request())).id == "id-1"


async def test_a_realm_without_a_sealer_changes_nothing_and_does_not_block_the_key(setting: Setting) -> None:
    setting.sealers.failure = storage_unavailable()
    with pytest.raises(Unavailable):
        await setting.run(request())
    assert (setting.made, setting.rows) == (0, [])
    setting.sealers.failure = None
    assert (await setting.run(request())).id == "id-1"


async def test_a_transaction_that_has_to_be_repeated_has_one_effect(setting: Setting) -> None:
    setting.database.attempts = 3
    first, again = request(), request()
    assert await setting.run(first) == await setting.run(again) == Answer("id-1", SECRET)
    assert (replayed(first), replayed(again)) == (False, True)
    assert (setting.made, len(setting.rows)) == (1, 1)


async def test_a_caller_that_leaves_does_not_block_its_key_and_the_effect_happens_once(
    setting: Setting,
) -> None:
    setting.database.open.clear()
    first = asyncio.create_task(setting.run(request()))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    second = asyncio.create_task(setting.run(request()))
    await asyncio.sleep(0)
    setting.database.open.set()
    assert (await second).id == "id-1"
    assert setting.made == 1


async def test_a_caller_that_leaves_before_anything_began_changes_nothing(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(realm_id: RealmId) -> FakeSealers:
        await asyncio.Event().wait()
        return setting.sealers

    with monkeypatch.context() as patch:
        patch.setattr(setting.sealers, "record_sealer", never)
        first = asyncio.create_task(setting.run(request()))
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
    assert setting.made == 0
    assert (await setting.run(request())).id == "id-1"
