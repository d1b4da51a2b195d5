"""Counts in a Valkey or Redis server, for several nodes that have one limit together.

A window is a key that ends with it. A charge is one `INCRBY`, together with all that wait; where a window ends is asked
once (`PEXPIRETIME`, so the server is Valkey, or Redis 7.0 or newer). No scripts: an account that may run none can be
used. When the server is gone, each node goes on alone with its share of the limit; what it admitted in this window
before counts there too. When it is back, perhaps with nothing in it, both have to admit until every window of before is
over.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from qimem.coordination.window_table import WindowTable
from qimem.kernel.clock import MICROSECONDS, Clock
from qimem.kernel.limits import (
    REMEMBERED_BUCKETS_MAX,
    VALKEY_ANSWER_SECONDS,
    VALKEY_BATCH_MAX,
    VALKEY_RETRY_SECONDS,
)
from qimem.kernel.metering import Allowance, Charge
from qimem.kernel.secret import SecretText

_log = logging.getLogger(__name__)

_GONE = (RedisError, OSError, TimeoutError)
_MARGIN_MS = 250


@dataclass(slots=True)
class _Question:
    bucket: bytes
    units: int
    allowance: Allowance
    answer: asyncio.Future[Charge]


class ValkeyCounter:
    """Counts together with the other nodes. Belongs to one loop.

    Args:
        url: `redis://`, `rediss://`, `valkey://`, `valkeys://` or `unix://`.
        namespace: Of the installation: two of them may use one server.
        table: Counts of this node, for when the server is gone.
        nodes: Among how many the limit is divided then, at least 1.
        clock: Tells how long a refusal lasts.
    """

    def __init__(
        self, url: SecretText, namespace: bytes, table: WindowTable, nodes: int, clock: Clock
    ) -> None:
        self.key = namespace
        """Goes into the name of each bucket; all nodes have to find the same."""
        self._prefix = b"qimem:" + namespace.hex().encode() + b":"
        self._table = table
        self._nodes = nodes
        self._clock = clock
        self._server = _client(url)
        self._ends: dict[bytes, int] = {}
        """Of windows, by the server's clock: Unix milliseconds."""
        self._waiting: list[_Question] = []
        self._asking: asyncio.Task[None] | None = None
        self._trying: asyncio.Task[None] | None = None
        self._gone = False
        self._try_at = 0.0
        self._back_at = -math.inf

    async def charge(self, bucket: bytes, units: int, allowance: Allowance) -> Charge:
        """Take units of what is left in the bucket's window: all of them or none.

        Args:
            bucket: As of `WindowTable.charge`.
            units: At least 1; negative gives back what was taken.
            allowance: What a window holds.
        """
        if self._gone:
            self._try_again()
            return self._alone(bucket, units, allowance)
        question = _Question(bucket, units, allowance, asyncio.get_running_loop().create_future())
        self._waiting.append(question)
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())
        return await question.answer

    async def close(self) -> None:
        """Let go of the connection."""
        for task in (self._asking, self._trying):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        with suppress(*_GONE):
            await self._server.aclose()

    def _alone(self, bucket: bytes, units: int, allowance: Allowance) -> Charge:
        share = Allowance(max(1, allowance.limit // self._nodes), allowance.window_seconds)
        return self._table.charge(bucket, units, share)

    async def _ask(self) -> None:
        """Ask for everyone who waits, until nobody does."""
        questions: list[_Question] = []
        try:
            while self._waiting and not self._gone:
                questions = self._waiting[:VALKEY_BATCH_MAX]
                del self._waiting[:VALKEY_BATCH_MAX]
                await self._count(questions)
        finally:
            self._asking = None
            for question in questions + self._waiting:
                # Also of those that were sent: what the server did with them nobody knows.
                if not question.answer.done():
                    question.answer.set_result(
                        self._alone(question.bucket, question.units, question.allowance)
                    )
            self._waiting.clear()

    async def _count(self, questions: Sequence[_Question]) -> None:
        try:
            async with asyncio.timeout(VALKEY_ANSWER_SECONDS):
                used = await self._tell(questions)
        except _GONE as error:
            self._lose(error)
            return
        refused = []
        for question, count in zip(questions, used, strict=True):
            charge = self._judged(question, count)
            if count > question.allowance.limit and question.units > 0:
                refused.append(question)
            if not question.answer.done():
                question.answer.set_result(charge)
        if refused:
            await self._give_back(refused)

    async def _tell(self, questions: Sequence[_Question]) -> list[int]:
        """Count, and learn where windows end that were not known; units used, of each question."""
        now_ms = self._clock.now_us() // 1000
        pipe = self._server.pipeline(transaction=False)
        places = []
        for question in questions:
            known = self._ends.get(question.bucket, 0) > now_ms
            if not known:
                pipe.set(self._name(question.bucket), 0, px=question.allowance.window_seconds * 1000, nx=True)
            places.append(len(pipe))
            pipe.incrby(self._name(question.bucket), question.units)
        answers = await pipe.execute()
        used: list[int] = [answers[place] for place in places]
        new = {
            question.bucket: question.allowance.window_seconds * 1000
            for question, count in zip(questions, used, strict=True)
            # The first of a window, which here nobody knew, or which began a moment before it was thought to.
            if count <= question.units or self._ends.get(question.bucket, 0) <= now_ms
        }
        if new:
            await self._learn_ends(new)
        return used

    async def _learn_ends(self, windows: Mapping[bytes, int]) -> None:
        pipe = self._server.pipeline(transaction=False)
        for bucket, milliseconds in windows.items():
            # One that was made by counting alone would stay for ever.
            pipe.pexpire(self._name(bucket), milliseconds, nx=True)
            pipe.execute_command("PEXPIRETIME", self._name(bucket))
        ends = (await pipe.execute())[1::2]
        if len(self._ends) + len(windows) > REMEMBERED_BUCKETS_MAX:
            self._ends.clear()
        self._ends.update(zip(windows, ends, strict=True))

    async def _give_back(self, refused: Sequence[_Question]) -> None:
        """What was refused is not charged. In a window that ends now it would be taken from the next."""
        soon_ms = self._clock.now_us() // 1000 + _MARGIN_MS
        pipe = self._server.pipeline(transaction=False)
        for question in refused:
            if self._ends.get(question.bucket, 0) > soon_ms:
                pipe.decrby(self._name(question.bucket), question.units)
        with suppress(*_GONE):
            async with asyncio.timeout(VALKEY_ANSWER_SECONDS):
                await pipe.execute()

    def _name(self, bucket: bytes) -> bytes:
        return self._prefix + bucket.hex().encode()

    def _judged(self, question: _Question, used: int) -> Charge:
        bucket, units, allowance = question.bucket, question.units, question.allowance
        # Counted here too, for the day that the server is gone.
        here = self._table.charge(bucket, units, allowance)
        now_us = self._clock.now_us()
        reset = max(math.ceil(self._ends.get(bucket, 0) / 1000), now_us // MICROSECONDS + 1)
        admitted = units < 0 or used <= allowance.limit
        remaining = max(0, allowance.limit - used)
        if self._clock.monotonic_seconds() < self._back_at + allowance.window_seconds:
            admitted, remaining = admitted and here.admitted, min(remaining, here.remaining)
        if admitted:
            return Charge(True, allowance.limit, remaining, reset, 0)
        wait = min(reset - now_us // MICROSECONDS, allowance.window_seconds + 1)
        return Charge(False, allowance.limit, 0, reset, wait)

    def _lose(self, error: BaseException) -> None:
        if not self._gone:
            _log.error(
                "the server of the rate limits is gone: this node counts alone, with its share",
                extra={"reason": repr(error)},
            )
        self._gone = True
        self._try_at = self._clock.monotonic_seconds() + VALKEY_RETRY_SECONDS

    def _try_again(self) -> None:
        if self._trying is None and self._clock.monotonic_seconds() >= self._try_at:
            self._trying = asyncio.create_task(self._try())

    async def _try(self) -> None:
        try:
            async with asyncio.timeout(VALKEY_ANSWER_SECONDS):
                await self._server.connection_pool.disconnect()
                await self._server.ping()
        except _GONE as error:
            self._lose(error)
        else:
            self._gone = False
            self._back_at = self._clock.monotonic_seconds()
            _log.warning("the server of the rate limits is back")
        finally:
            self._trying = None


def _client(url: SecretText) -> Redis:
    # Two names of one thing; the library knows the older one.
    text = url.reveal().replace("valkey", "redis", 1) if url.reveal().startswith("valkey") else url.reveal()
    # Once and no more: what is late is answered without it.
    return Redis.from_url(text, retry=Retry(NoBackoff(), 0), socket_connect_timeout=VALKEY_ANSWER_SECONDS)
