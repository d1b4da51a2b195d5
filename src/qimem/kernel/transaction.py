"""The unit of work as the domain sees it: synchronous functions over a transaction.

A function given to `write` or `read` has no side effects beyond the transaction and never awaits;
it may run more than once (serialization failures are retried) and it is never cancelled half-way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Statement:
    """A prepared question to the database. Only `qimem.storage` makes and understands these."""

    __slots__ = ()


class Tx(Protocol):
    """An open transaction. Repositories run statements on it; services only pass it on.

    The first statement that fails ends the operation, also where its error is caught: what may
    stand there already is inserted with ON CONFLICT instead.
    """

    def one(self, statement: Statement, /, **params: object) -> tuple[Any, ...] | None:
        """The first row, or None."""
        ...

    def all(self, statement: Statement, /, **params: object) -> Sequence[tuple[Any, ...]]:
        """Every row."""
        ...

    def run(self, statement: Statement, /, **params: object) -> int:
        """Execute; the number of rows changed."""
        ...


class Database(Protocol):
    """Where transactions come from."""

    async def write(self, fn: Callable[[Tx], T]) -> T:
        """Run `fn` in a durable transaction and return its value after the commit.

        Raises:
            Unavailable: `storage_unavailable` when nothing was changed, `outcome_unknown` when
                the commit may or may not have happened.
            Exception: whatever `fn` raises, with only its own work undone.
        """
        ...

    async def read(self, fn: Callable[[Tx], T]) -> T:
        """Run `fn` in one read-only snapshot.

        Raises:
            Unavailable: `storage_unavailable`.
        """
        ...


class UniqueViolation(Exception):
    """A row with this key is there already."""


class ForeignKeyViolation(Exception):
    """A row that this one refers to is not there."""
