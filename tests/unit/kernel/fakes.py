"""A database that can undo, hold and repeat, and everything else the kernel asks for, in this process."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar, cast

from qimem.kernel.epochs import Epoch
from qimem.kernel.ids import RealmId
from qimem.kernel.transaction import Tx, UniqueViolation
from qimem.kernel.unit_of_work import IdempotencyRow, Slot

T = TypeVar("T")

NO_TX = cast("Tx", object())
"""What stands for a transaction here."""


@dataclass
class Table:
    """Rows that a transaction can undo."""

    rows: dict[Any, Any] = field(default_factory=dict)

    def seen(self, tx: Tx) -> dict[Any, Any]:
        """The rows, for who asks inside a transaction."""
        assert tx is NO_TX, "asked outside of the transaction"
        return self.rows


class FakeDatabase:
    """Undoes a failed write in every table it knows.

    While `open` is cleared writes wait, and like real ones they go on when their caller leaves. Of `attempts`
    runs of each write all but the last lose against another transaction.
    """

    def __init__(self, *tables: Table) -> None:
        self._tables = tables
        self.reads = 0
        self.attempts = 1
        self.open = asyncio.Event()
        self.open.set()

    async def write(self, fn: Callable[[Tx], T]) -> T:
        return await asyncio.shield(self._write(fn))

    async def read(self, fn: Callable[[Tx], T]) -> T:
        self.reads += 1
        return fn(NO_TX)

    async def _write(self, fn: Callable[[Tx], T]) -> T:
        await self.open.wait()
        before = [copy.copy(table.rows) for table in self._tables]
        try:
            for _ in range(self.attempts - 1):
                fn(NO_TX)
                self._undo(before)
            return fn(NO_TX)
        except BaseException:
            self._undo(before)
            raise

    def _undo(self, before: list[dict[Any, Any]]) -> None:
        for table, rows in zip(self._tables, before, strict=True):
            table.rows = copy.copy(rows)


class FakeEpochs:
    """Epochs to set by hand. `snapshots` overrides what transactions see."""

    def __init__(self) -> None:
        self.now: dict[RealmId, Epoch] = {}
        self.snapshots: dict[RealmId, Epoch] = {}
        self.failure: Exception | None = None

    async def current(self, realm_id: RealmId) -> Epoch | None:
        if self.failure is not None:
            raise self.failure
        return self.now.get(realm_id)

    def at(self, tx: Tx, realm_id: RealmId) -> Epoch | None:
        return self.snapshots.get(realm_id, self.now.get(realm_id))

    def bump(self, tx: Tx, realm_id: RealmId) -> None:
        incarnation, number = self.now[realm_id]
        self.now[realm_id] = Epoch(incarnation, number + 1)


class FakeAnswers(Table):
    """Implements the store of answered requests as the port describes it."""

    def find(self, tx: Tx, slot: Slot) -> IdempotencyRow | None:
        return self.rows.get(slot)

    def put(self, tx: Tx, row: IdempotencyRow) -> None:
        standing = self.rows.get(row.slot)
        if standing is not None and standing.expires_us > row.created_us:
            raise UniqueViolation
        self.rows[row.slot] = row


class WrongLabel(Exception):
    """What was sealed under one label was opened under another."""


class FakeSealers:
    """Seals by turning bytes around behind their label; remembers the labels."""

    def __init__(self) -> None:
        self.labels: list[str] = []
        self.failure: Exception | None = None

    async def record_sealer(self, realm_id: RealmId) -> FakeSealers:
        if self.failure is not None:
            raise self.failure
        return self

    def fingerprint(self, data: bytes) -> bytes:
        return b"of " + data

    def seal(self, label: str, plaintext: bytes) -> bytes:
        self.labels.append(label)
        return label.encode() + b"\0" + plaintext[::-1]

    def open(self, label: str, sealed: bytes) -> bytes:
        found, _, turned = sealed.partition(b"\0")
        if found != label.encode():
            raise WrongLabel
        return turned[::-1]


@dataclass(frozen=True)
class Answer:
    """What a mutation answers."""

    id: str
    text: str


class FakeCodec:
    """Answers as JSON."""

    def encode(self, answer: object) -> bytes:
        return json.dumps(asdict(cast("Answer", answer))).encode()

    def decode(self, data: bytes, answer_type: type[T]) -> T:
        return answer_type(**json.loads(data))
