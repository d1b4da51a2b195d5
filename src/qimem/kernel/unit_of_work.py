"""One mutation, once: the effect and the record that makes its repetition harmless, in one transaction.

A caller may send `Idempotency-Key` with a create or rotate. The first request stores its answer,
sealed, beside its effect; a repetition within 24 hours gets that answer again and has no effect.
An answer that held a secret is never stored: its repetition learns only the object's id.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from qimem.errors import Conflict, Mismatch
from qimem.kernel.clock import MICROSECONDS, Clock
from qimem.kernel.context import IdempotencyKey, RequestContext
from qimem.kernel.ids import RealmId
from qimem.kernel.limits import IDEMPOTENCY_SECONDS
from qimem.kernel.transaction import Database, Tx

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class IdempotencyRow:
    """What is kept of one answered request. `answer_sealed` is None where the answer held a secret."""

    realm_id: RealmId
    subject: str
    key: str
    route: str
    body_digest: bytes
    answer_sealed: bytes | None
    object_id: str
    created_us: int
    expires_us: int


class IdempotencyStore(Protocol):
    """Rows of answered requests."""

    def find(self, tx: Tx, realm_id: RealmId, subject: str, key: str) -> IdempotencyRow | None:
        """The row, expired or not."""
        ...

    def put(self, tx: Tx, row: IdempotencyRow) -> None:
        """Insert the row, or replace one that expired before `row.created_us`.

        Raises:
            UniqueViolation: a live row of a concurrent request stands there.
        """
        ...


class RecordSealer(Protocol):
    """Seals small records under a realm's key-encryption key."""

    def seal(self, label: str, plaintext: bytes) -> bytes:
        """Encrypt; `label` is authenticated and must be given again to open."""
        ...

    def open(self, label: str, sealed: bytes) -> bytes:
        """Decrypt what `seal` made with the same label."""
        ...


class RecordSealers(Protocol):
    """Where sealers come from."""

    async def record_sealer(self, realm_id: RealmId) -> RecordSealer:
        """The realm's sealer, ready to be used inside a transaction."""
        ...


class AnswerCodec(Protocol):
    """Turns wire structs into bytes and back."""

    def encode(self, answer: object) -> bytes:
        """The struct as bytes."""
        ...

    def decode(self, data: bytes, answer_type: type[T]) -> T:
        """The struct again."""
        ...


class UnitOfWork:
    """Runs mutations, exactly once for callers that ask for it."""

    def __init__(
        self,
        database: Database,
        store: IdempotencyStore,
        sealers: RecordSealers,
        codec: AnswerCodec,
        clock: Clock,
    ) -> None:
        self._database = database
        self._store = store
        self._sealers = sealers
        self._codec = codec
        self._clock = clock
        self._running: set[tuple[RealmId, str, str]] = set()

    async def run(
        self,
        ctx: RequestContext,
        fn: Callable[[Tx], T],
        answer_type: type[T],
        *,
        object_id: Callable[[T], str],
        holds_secret: bool = False,
    ) -> T:
        """Run `fn` durably; replay its earlier answer if the caller's idempotency key has one.

        Args:
            fn: Makes the change and returns the answer; runs inside the transaction.
            object_id: The id of what was made, told on repetition when the answer held a secret.
            holds_secret: Whether the answer must not be stored.

        Raises:
            Conflict: `in_progress` while the first request still runs, `already_done` for the
                repetition of an answer that held a secret.
            Mismatch: the key was used with another body or route.
            Unavailable: see `Database.write`.
        """
        idempotency = ctx.idempotency
        if idempotency is None:
            return await self._database.write(fn)
        slot = (ctx.realm_id, ctx.actor.subject, idempotency.key)
        if slot in self._running:
            raise Conflict("a request with this Idempotency-Key is still running", code="in_progress")
        self._running.add(slot)
        try:
            sealer = await self._sealers.record_sealer(ctx.realm_id)

            def once(tx: Tx) -> tuple[T, bool]:
                earlier = self._earlier(tx, ctx, idempotency)
                if earlier is not None:
                    return self._replay(earlier, sealer, answer_type), True
                answer = fn(tx)
                sealed = None if holds_secret else sealer.seal(_label(slot), self._codec.encode(answer))
                self._store.put(tx, self._row(ctx, idempotency, sealed, object_id(answer)))
                return answer, False

            answer, idempotency.replayed = await self._database.write(once)
            return answer
        finally:
            self._running.discard(slot)

    def _earlier(self, tx: Tx, ctx: RequestContext, idempotency: IdempotencyKey) -> IdempotencyRow | None:
        row = self._store.find(tx, ctx.realm_id, ctx.actor.subject, idempotency.key)
        if row is None or row.expires_us <= self._clock.now_us():
            return None
        if row.route != idempotency.route or row.body_digest != idempotency.body_digest:
            raise Mismatch("this Idempotency-Key was used with another request")
        return row

    def _replay(self, row: IdempotencyRow, sealer: RecordSealer, answer_type: type[T]) -> T:
        if row.answer_sealed is None:
            raise Conflict("already done", code="already_done", object_id=row.object_id)
        label = _label((row.realm_id, row.subject, row.key))
        return self._codec.decode(sealer.open(label, row.answer_sealed), answer_type)

    def _row(
        self, ctx: RequestContext, idempotency: IdempotencyKey, sealed: bytes | None, object_id: str
    ) -> IdempotencyRow:
        now_us = self._clock.now_us()
        return IdempotencyRow(
            realm_id=ctx.realm_id,
            subject=ctx.actor.subject,
            key=idempotency.key,
            route=idempotency.route,
            body_digest=idempotency.body_digest,
            answer_sealed=sealed,
            object_id=object_id,
            created_us=now_us,
            expires_us=now_us + IDEMPOTENCY_SECONDS * MICROSECONDS,
        )


def _label(slot: tuple[RealmId, str, str]) -> str:
    # Lengths stand before the parts, so that no two slots share a label.
    return "".join(f"{len(part)}:{part}" for part in slot)
