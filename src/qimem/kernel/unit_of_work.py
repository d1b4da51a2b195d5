"""One mutation, once: the effect, its audit record and what makes its repetition harmless, in one transaction.

A caller may send `Idempotency-Key` with a create or rotate. The first request stores its answer,
sealed, beside its effect; a repetition within 24 hours gets that answer again and has no effect.
An answer that held a secret is never stored: its repetition learns only the object's id.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol, TypeVar

from qimem.errors import Conflict, Mismatch
from qimem.kernel.audit_draft import AuditDraft, Intent
from qimem.kernel.clock import MICROSECONDS, Clock
from qimem.kernel.context import IdempotencyKey, RequestContext
from qimem.kernel.ids import RealmId
from qimem.kernel.limits import IDEMPOTENCY_SECONDS
from qimem.kernel.transaction import Database, Tx, UniqueViolation

T = TypeVar("T")

_OK, _REPLAYED = "ok", "replayed"


class Slot(NamedTuple):
    """What makes an idempotency key the same one: its caller, the route and the key.

    The realm is the caller's own, also where an operator acts in another one: the same key with another
    `realm_id` in its body is then seen for what it is, another request.
    """

    realm_id: RealmId
    subject: str
    route: str
    key: str


@dataclass(frozen=True, slots=True)
class IdempotencyRow:
    """What is kept of one answered request.

    Args:
        body_digest: Fingerprint of its body under the realm's key.
        answer_sealed: None where the answer held a secret.
    """

    slot: Slot
    body_digest: bytes
    answer_sealed: bytes | None
    object_id: str
    created_us: int
    expires_us: int


class IdempotencyStore(Protocol):
    """Rows of answered requests."""

    def find(self, tx: Tx, slot: Slot) -> IdempotencyRow | None:
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

    @property
    def version(self) -> int:
        """Of the key; a record that is to be opened later has to keep it."""
        ...

    def seal(self, label: str, plaintext: bytes) -> bytes:
        """Encrypt; `label` is authenticated and must be given again to open."""
        ...

    def open(self, label: str, sealed: bytes) -> bytes:
        """Decrypt what `seal` made with the same label."""
        ...

    def fingerprint(self, data: bytes) -> bytes:
        """Recognizes data again; without the realm's key it says nothing about it."""
        ...


class RecordSealers(Protocol):
    """Where sealers come from."""

    async def record_sealer(self, realm_id: RealmId) -> RecordSealer:
        """The realm's newest sealer, ready to be used inside a transaction."""
        ...

    async def sealer_of(self, realm_id: RealmId, version: int) -> RecordSealer:
        """The sealer of a version."""
        ...


class AnswerCodec(Protocol):
    """Turns wire structs into bytes and back."""

    def encode(self, answer: object) -> bytes:
        """The struct as bytes."""
        ...

    def decode(self, data: bytes, answer_type: type[T]) -> T:
        """The struct again."""
        ...


class Intents(Protocol):
    """Audit records beside their effects."""

    def put(self, tx: Tx, draft: AuditDraft) -> Intent:
        """Write the record of the draft."""
        ...

    def undone(self, intent: Intent) -> None:
        """The transaction did not happen."""
        ...

    def in_doubt(self, intent: Intent) -> None:
        """Nobody knows whether the transaction happened."""
        ...


class UnitOfWork:
    """Runs mutations, exactly once for callers that ask for it, none without its audit record."""

    def __init__(
        self,
        database: Database,
        store: IdempotencyStore,
        sealers: RecordSealers,
        codec: AnswerCodec,
        clock: Clock,
        intents: Intents,
    ) -> None:
        self._intents = intents
        self._database = database
        self._store = store
        self._sealers = sealers
        self._codec = codec
        self._clock = clock
        self._running: set[Slot] = set()

    async def read(self, fn: Callable[[Tx], T]) -> T:
        """Run `fn` in one snapshot; it changes nothing.

        Raises:
            Unavailable: see `Database.read`.
        """
        return await self._database.read(fn)

    async def apply(self, draft: AuditDraft, fn: Callable[[Tx], T]) -> T:
        """Run `fn` durably, and its audit record with it.

        Args:
            draft: What `fn` does; `fn` notes the rest. An outcome `replayed` stands for no effect.
            fn: Runs inside the transaction.

        Raises:
            Unavailable: see `Database.write`.
        """
        tried: list[Intent] = []
        left = False

        def recorded(tx: Tx) -> T:
            value = fn(tx)
            while tried:
                # A serialization failure undid the attempt before this one.
                self._intents.undone(tried.pop())
            if draft.outcome != _REPLAYED:
                tried.append(self._intents.put(tx, draft))
                if left:
                    # Whoever asked was told that nobody knows, and does not look after it any more.
                    self._intents.in_doubt(tried[0])
            return value

        try:
            value = await self._database.write(recorded)
        except BaseException as error:
            left = True
            refused = isinstance(error, Exception) and getattr(error, "code", "") != "outcome_unknown"
            for intent in tried:
                (self._intents.undone if refused else self._intents.in_doubt)(intent)
            raise
        if tried:
            draft.intent = tried[0]
        return value

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
            ctx: Whose request it is; carries the idempotency key, if one was sent.
            fn: Makes the change and returns the answer; runs inside the transaction.
            answer_type: Type of the answer, for its replay.
            object_id: The id of what was made, told on repetition when the answer held a secret.
            holds_secret: Whether the answer must not be stored.

        Raises:
            Conflict: `in_progress` while the first request still runs, `already_done` for the
                repetition of an answer that held a secret.
            Mismatch: the key was used with another body.
            Unavailable: see `Database.write`.
        """
        draft, idempotency = ctx.draft, ctx.idempotency
        effect = partial(_noted, draft, fn, object_id)
        if idempotency is None:
            return await self.apply(draft, effect)
        slot = Slot(ctx.actor.realm_id, ctx.actor.subject, idempotency.route, idempotency.key)
        if slot in self._running:
            return await self._finished(draft, slot, idempotency, answer_type)
        self._running.add(slot)
        try:
            sealer = await self._sealers.record_sealer(slot.realm_id)
            # A bare digest of a body with a password in it could be guessed against at full speed.
            fingerprint = sealer.fingerprint(idempotency.body_digest)

            def once(tx: Tx) -> tuple[T, bool]:
                earlier = self._earlier(tx, slot, fingerprint)
                if earlier is not None:
                    return self._replay(draft, earlier, sealer, answer_type), True
                answer = effect(tx)
                sealed = None if holds_secret else sealer.seal(_label(slot), self._codec.encode(answer))
                self._put(tx, slot, fingerprint, sealed, object_id(answer))
                return answer, False

            answer, idempotency.replayed = await self.apply(draft, once)
            return answer
        finally:
            self._running.discard(slot)

    async def _finished(
        self, draft: AuditDraft, slot: Slot, idempotency: IdempotencyKey, answer_type: type[T]
    ) -> T:
        # The one at work may itself be a repetition: what was answered before is not in progress.
        sealer = await self._sealers.record_sealer(slot.realm_id)
        fingerprint = sealer.fingerprint(idempotency.body_digest)
        earlier = await self._database.read(lambda tx: self._earlier(tx, slot, fingerprint))
        if earlier is None:
            raise _in_progress()
        answer = self._replay(draft, earlier, sealer, answer_type)
        idempotency.replayed = True
        return answer

    def _earlier(self, tx: Tx, slot: Slot, fingerprint: bytes) -> IdempotencyRow | None:
        row = self._store.find(tx, slot)
        if row is None or row.expires_us <= self._clock.now_us():
            return None
        if row.body_digest != fingerprint:
            raise Mismatch("this Idempotency-Key was used with another request")
        return row

    def _replay(
        self, draft: AuditDraft, row: IdempotencyRow, sealer: RecordSealer, answer_type: type[T]
    ) -> T:
        draft.outcome, draft.target = _REPLAYED, row.object_id
        if row.answer_sealed is None:
            raise Conflict("already done", code="already_done", object_id=row.object_id)
        return self._codec.decode(sealer.open(_label(row.slot), row.answer_sealed), answer_type)

    def _put(self, tx: Tx, slot: Slot, fingerprint: bytes, sealed: bytes | None, object_id: str) -> None:
        now_us = self._clock.now_us()
        row = IdempotencyRow(
            slot=slot,
            body_digest=fingerprint,
            answer_sealed=sealed,
            object_id=object_id,
            created_us=now_us,
            expires_us=now_us + IDEMPOTENCY_SECONDS * MICROSECONDS,
        )
        try:
            self._store.put(tx, row)
        except UniqueViolation:
            # Another worker's request came between our look and our insert.
            raise _in_progress() from None


def _noted(draft: AuditDraft, fn: Callable[[Tx], T], object_id: Callable[[T], str], tx: Tx) -> T:
    draft.outcome = _OK
    answer = fn(tx)
    if draft.key_id is None:
        draft.target = object_id(answer)
    return answer


def _in_progress() -> Conflict:
    return Conflict("a request with this Idempotency-Key is still running", code="in_progress")


def _label(slot: Slot) -> str:
    # Lengths stand before the parts, so that no two slots share a label.
    return "".join(f"{len(part)}:{part}" for part in slot)
