"""A store of leases and a database that keep everything in this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

from qimem.kernel.transaction import Tx

T = TypeVar("T")

NO_TX = cast("Tx", None)


class FakeDatabase:
    """Runs every function at once; its transactions are of no use to the fakes."""

    def __init__(self) -> None:
        self.writes = 0
        self.failure: Exception | None = None

    async def write(self, fn: Callable[[Tx], T]) -> T:
        if self.failure is not None:
            raise self.failure
        self.writes += 1
        return fn(NO_TX)

    async def read(self, fn: Callable[[Tx], T]) -> T:
        return fn(NO_TX)


class FakeJobs:
    """Implements the port as it is described, without a database."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[str | None, int, int]] = {}

    def take(self, tx: Tx, name: str, *, holder: str, now_us: int, lease_us: int, due_before_us: int) -> bool:
        _, leased_until_us, last_run_us = self.rows.get(name, (None, 0, 0))
        if leased_until_us > now_us or last_run_us > due_before_us:
            return False
        self.rows[name] = (holder, now_us + lease_us, last_run_us)
        return True

    def finish(self, tx: Tx, name: str, *, holder: str, now_us: int) -> None:
        if self.rows[name][0] == holder:
            self.rows[name] = (None, 0, now_us)

    def release(self, tx: Tx, name: str, *, holder: str) -> None:
        if self.rows[name][0] == holder:
            self.rows[name] = (None, 0, self.rows[name][2])


class FakeRows:
    """Rows by their expiry."""

    def __init__(self, *expiries_us: int) -> None:
        self.expiries_us = sorted(expiries_us)
        self.limits: list[int] = []

    def delete_expired(self, tx: Tx, *, before_us: int, limit: int) -> int:
        self.limits.append(limit)
        old = [expiry for expiry in self.expiries_us if expiry <= before_us][:limit]
        self.expiries_us = self.expiries_us[len(old) :]
        return len(old)
