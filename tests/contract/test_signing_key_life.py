"""What becomes of signing keys by itself, as time passes: on both databases, with a clock that is told to move."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
import sqlalchemy as sa

from qimem.bootstrap.core import JsonCodec
from qimem.errors import Conflict
from qimem.kernel.audit_draft import AuditDraft
from qimem.kernel.clock import ManualClock
from qimem.kernel.epochs import RealmCaches
from qimem.kernel.ids import RealmId
from qimem.kernel.limits import (
    ACCESS_TOKEN_SECONDS,
    CLOCK_SKEW_SECONDS,
    SIGNING_KEY_LEAD_SECONDS,
    SIGNING_KEY_OVERLAP_SECONDS,
    SIGNING_KEY_PERIOD_SECONDS,
)
from qimem.kernel.transaction import Tx
from qimem.kernel.unit_of_work import UnitOfWork
from qimem.kms.internal_keys import InternalKeys
from qimem.kms.keyring import Keyring
from qimem.kms.signing_keys import (
    DueSigningKeys,
    KeyState,
    RotationMode,
    SigningKeyLife,
    SigningKeyRow,
    SigningKeyService,
)
from qimem.storage.database import DatabaseLocation, OpenDatabase
from qimem.storage.repositories.idempotency import IdempotencyRepository
from qimem.storage.repositories.kms_keys import KeyRepository
from qimem.storage.repositories.signing_keys import SigningKeyRepository
from qimem.storage.schema import realm_kek
from qimem.storage.statement import sql
from tests.support.audit import FakeIntents
from tests.support.lifecycle import Installation, Worker

pytestmark = pytest.mark.anyio

_STORE = SigningKeyRepository()
_KEYS = KeyRepository()


@dataclass
class Node:
    """A worker with the job in it."""

    installation: Installation
    database: OpenDatabase
    records: list[AuditDraft] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)

    def __post_init__(self) -> None:
        clock = self.installation.clock
        keyring = Keyring(self.installation.root_keys(), self.database, _KEYS)
        self.internal = InternalKeys(RealmCaches(self.database, self.database), _KEYS, keyring)
        work = UnitOfWork(self.database, IdempotencyRepository(), keyring, JsonCodec(), clock, FakeIntents())
        life = SigningKeyLife(_KEYS, _STORE)
        self.service = SigningKeyService(work, self.database, life, keyring, self.internal, clock)
        self.due = DueSigningKeys(
            self.database, _STORE, self.service, clock, self.records.append, self.failures.append
        )

    async def rotate(self, realm_id: RealmId, mode: RotationMode) -> str:
        worker = Worker(self.database, self.installation.root_keys(), self.installation.clock)
        return (await self.service.rotate(await worker.context(realm_id), mode)).kid

    async def states(self, realm_id: RealmId) -> list[KeyState]:
        rows = await self.database.read(lambda tx: _STORE.of_realm(tx, realm_id))
        return sorted(row.state for row in rows)

    async def published(self, realm_id: RealmId) -> set[str]:
        return set(await self.internal.public_keys(realm_id))


async def active_kid(node: Node, realm_id: RealmId) -> str:
    kid, _ = await node.internal.active_signer(realm_id)
    return kid


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def node(location: DatabaseLocation, clock: ManualClock, anyio_backend: object) -> AsyncIterator[Node]:
    installation = Installation(location, clock)
    await installation.initialise()
    yield Node(installation, installation.databases[0])
    await installation.close()


@pytest.fixture
async def realm(node: Node) -> RealmId:
    return await node.installation.realm("acme")


async def test_a_key_lives_from_its_publication_to_its_retirement(
    node: Node, realm: RealmId, clock: ManualClock
) -> None:
    first = await active_kid(node, realm)
    clock.advance(SIGNING_KEY_PERIOD_SECONDS - 1)
    await node.due.run()
    assert await node.states(realm) == [KeyState.ACTIVE]
    clock.advance(1)
    await node.due.run()
    assert await node.states(realm) == [KeyState.ACTIVE, KeyState.PENDING]
    assert await active_kid(node, realm) == first
    (second,) = await node.published(realm) - {first}

    clock.advance(SIGNING_KEY_LEAD_SECONDS - 1)
    await node.due.run()
    assert await active_kid(node, realm) == first
    clock.advance(1)
    await node.due.run()
    assert await active_kid(node, realm) == second
    assert await node.published(realm) == {first, second}

    clock.advance(SIGNING_KEY_OVERLAP_SECONDS - 1)
    await node.due.run()
    assert await node.published(realm) == {first, second}
    clock.advance(1)
    await node.due.run()
    assert await node.published(realm) == {second}
    assert await node.states(realm) == [KeyState.ACTIVE]
    assert [draft.event for draft in node.records] == ["signing-keys.step"] * 3
    assert {draft.realm_id for draft in node.records} == {realm}
    assert node.failures == []


def test_the_overlap_outlives_every_token() -> None:
    assert SIGNING_KEY_OVERLAP_SECONDS > ACCESS_TOKEN_SECONDS + CLOCK_SKEW_SECONDS


async def test_a_replaced_key_retires_too(node: Node, realm: RealmId, clock: ManualClock) -> None:
    first = await active_kid(node, realm)
    second = await node.rotate(realm, RotationMode.NOW)
    assert await active_kid(node, realm) == second
    clock.advance(SIGNING_KEY_OVERLAP_SECONDS)
    await node.due.run()
    assert await node.published(realm) == {second}
    assert first not in await node.published(realm)


async def test_who_has_chosen_a_key_can_sign_with_it_though_it_is_taken_away_meanwhile(
    node: Node, realm: RealmId
) -> None:
    _, sign = await node.internal.active_signer(realm)
    await node.rotate(realm, RotationMode.COMPROMISED)
    # A defined refusal comes from whoever is shown the token, not a fault from who was about to sign it.
    assert len(sign(b"data")) == 64


async def test_what_was_compromised_has_no_step_left(node: Node, realm: RealmId, clock: ManualClock) -> None:
    await node.rotate(realm, RotationMode.SCHEDULED)
    kid = await node.rotate(realm, RotationMode.COMPROMISED)
    assert await node.states(realm) == [KeyState.ACTIVE]
    clock.advance(SIGNING_KEY_LEAD_SECONDS + SIGNING_KEY_OVERLAP_SECONDS)
    await node.due.run()
    assert await node.published(realm) == {kid}
    assert node.records == []


async def test_a_clock_that_jumps_ahead_makes_nothing_due(
    node: Node, realm: RealmId, clock: ManualClock
) -> None:
    first = await active_kid(node, realm)
    second = await node.rotate(realm, RotationMode.NOW)
    clock.wall_us += 400 * 86_400 * 1_000_000
    await node.due.run()
    assert await node.published(realm) == {first, second}
    clock.advance(SIGNING_KEY_OVERLAP_SECONDS)
    await node.due.run()
    assert await node.published(realm) == {second}


async def test_a_step_that_somebody_else_did_is_not_done_again(
    node: Node, realm: RealmId, clock: ManualClock
) -> None:
    other = Node(node.installation, node.installation.databases[1])
    await node.rotate(realm, RotationMode.SCHEDULED)
    clock.advance(SIGNING_KEY_LEAD_SECONDS)
    (row,) = await node.database.read(lambda tx: _STORE.due(tx, clock.now_us(), 10))
    done = await asyncio.gather(
        node.service.step(row, AuditDraft("a", "", "")), other.service.step(row, AuditDraft("b", "", ""))
    )
    assert sorted(done) == [False, True]
    assert await node.states(realm) == [KeyState.ACTIVE, KeyState.RETIRING]


async def test_a_step_on_what_changed_meanwhile_changes_nothing(
    node: Node, realm: RealmId, clock: ManualClock
) -> None:
    kid = await node.rotate(realm, RotationMode.SCHEDULED)
    clock.advance(SIGNING_KEY_LEAD_SECONDS)
    (row,) = await node.database.read(lambda tx: _STORE.due(tx, clock.now_us(), 10))
    assert await node.rotate(realm, RotationMode.NOW) == kid
    assert not await node.service.step(row, AuditDraft("late", "", ""))
    assert not await node.service.step(
        SigningKeyRow(realm, row.key_id, KeyState.RETIRING, row.due_us), AuditDraft("forged", "", "")
    )
    assert await active_kid(node, realm) == kid


async def test_one_damaged_realm_holds_up_no_other(node: Node, realm: RealmId, clock: ManualClock) -> None:
    other = await node.installation.realm("other")
    clock.advance(SIGNING_KEY_PERIOD_SECONDS)
    await node.database.write(lambda tx: _damage(tx, realm))
    await node.due.run()
    assert await node.states(other) == [KeyState.ACTIVE, KeyState.PENDING]
    assert len(node.failures) == 1


def _damage(tx: Tx, realm: RealmId) -> None:
    tx.run(sql(sa.update(realm_kek).where(realm_kek.c.realm_id == realm).values(wrapped=bytes(72))))


async def test_two_pending_keys_are_impossible(node: Node, realm: RealmId) -> None:
    await node.rotate(realm, RotationMode.SCHEDULED)
    with pytest.raises(Conflict):
        await node.rotate(realm, RotationMode.SCHEDULED)
    assert await node.states(realm) == [KeyState.ACTIVE, KeyState.PENDING]
