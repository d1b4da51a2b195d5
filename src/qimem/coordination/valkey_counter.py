"""Counts in a Valkey or Redis server, for several nodes that have one limit together.

A window is a key that ends with it. A charge is one `INCRBY`, together with all that wait; of several units it is asked
first whether they are left. No scripts: an account that may run none can be used.

What is kept there is lost with the server, so it can only make limits stricter. While it is gone, each node admits its
share. One that has not been up for a whole window may have lost what was counted in it, so until then the share has to
admit, too. And no node ever admits more than two windows' worth in one of its own, whatever the server says.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

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
    VALKEY_RETRY_SECONDS_MAX,
)
from qimem.kernel.metering import UNITS_MAX, Allowance, Charge
from qimem.kernel.secret import SecretText

_log = logging.getLogger(__name__)

_GIVE_BACK_SECONDS = 2.0
"""A window that ends sooner gets nothing back: a late command would make the next one begin below zero."""


@dataclass(slots=True, eq=False)
class _Question:
    bucket: bytes
    units: int
    allowance: Allowance
    answer: asyncio.Future[Charge]


@dataclass(frozen=True, slots=True)
class _Window:
    """What is known of one: its end by this node's monotonic clock (never too late) and as Unix second, and its count."""

    ends: float
    reset: int
    used: int


class ValkeyCounter:
    """Counts together with the other nodes. Belongs to one loop.

    Args:
        url: `redis://`, `rediss://`, `valkey://`, `valkeys://` or `unix://`.
        prefix: Of the installation's keys: two of them may use one server.
        key: Goes into the name of each bucket; secret, and the same on all nodes.
        table: Counts of this node.
        nodes: Among how many a limit is divided when the server cannot be trusted, at least 1.
        clock: Measures windows.
    """

    def __init__(
        self, url: SecretText, prefix: str, key: bytes, table: WindowTable, nodes: int, clock: Clock
    ) -> None:
        self.key = key
        self._prefix = f"qimem:{prefix}:"
        self._table = table
        self._nodes = nodes
        self._clock = clock
        self._server = _client(url, self._meet)
        self._up_since = -math.inf
        self._windows: dict[bytes, _Window] = {}
        self._waiting: list[_Question] = []
        self._asking: asyncio.Task[None] | None = None
        self._trying: asyncio.Task[None] | None = None
        self._gone = self._closed = False
        self._try_at = 0.0
        self._pause = VALKEY_RETRY_SECONDS

    async def charge(self, bucket: bytes, units: int, allowance: Allowance) -> Charge:
        """Take units of what is left in the bucket's window: all of them or none.

        Args:
            bucket: As of `WindowTable.charge`.
            units: At least 1; negative gives back what was taken.
            allowance: What a window holds.
        """
        if self._gone or self._closed:
            self._try_again()
            return self._alone(bucket, units, allowance)
        question = _Question(bucket, units, allowance, asyncio.get_running_loop().create_future())
        self._waiting.append(question)
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())
        return await question.answer

    async def close(self) -> None:
        """Let go of the connection; who waits is answered by this node alone."""
        self._closed = True
        for task in (self._asking, self._trying):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        self._answer_alone(self._waiting)
        with suppress(RedisError, OSError):
            await self._server.aclose()

    async def _meet(self, connection: Any) -> None:
        """On each new connection: how long what is counted there has been kept."""
        await connection.on_connect()
        await connection.send_command("INFO", "server")
        told = await connection.read_response()
        text = told.decode() if isinstance(told, bytes) else str(told)
        uptime = int(text.partition("uptime_in_seconds:")[2].split("\r\n", 1)[0])
        # Told in whole seconds: it may be up to one younger.
        self._up_since = self._clock.monotonic_seconds() - uptime + 1

    def _alone(self, bucket: bytes, units: int, allowance: Allowance) -> Charge:
        return self._table.charge(bucket, units, self._share(allowance))

    def _share(self, allowance: Allowance) -> Allowance:
        return Allowance(max(1, allowance.limit // self._nodes), allowance.window_seconds)

    def _answer_alone(self, questions: list[_Question]) -> None:
        for question in questions:
            if not question.answer.done():
                question.answer.set_result(self._alone(question.bucket, question.units, question.allowance))
        questions.clear()

    async def _ask(self) -> None:
        """Ask for everyone who waits, until nobody does."""
        questions: list[_Question] = []
        try:
            while self._waiting and not self._gone:
                questions = self._waiting[:VALKEY_BATCH_MAX]
                del self._waiting[:VALKEY_BATCH_MAX]
                async with asyncio.timeout(VALKEY_ANSWER_SECONDS):
                    await self._count(questions)
        except Exception as error:  # noqa: BLE001 - also nonsense of the server is an outage
            self._lose(error)
        finally:
            self._asking = None
            # Also of those that were sent: what the server did with them nobody knows.
            self._answer_alone(questions)
            self._answer_alone(self._waiting)

    async def _count(self, questions: Sequence[_Question]) -> None:
        unknown = {
            question.bucket: question for question in questions if self._window(question.bucket) is None
        }
        several = {question.bucket: question for question in questions if question.units > 1}
        await self._look(list((unknown | several).values()))
        # What has ended since it was looked at is looked at again.
        late = [question for question in questions if self._window(question.bucket) is None]
        self._waiting[:0] = late
        questions = [question for question in questions if question not in late]
        sent = [question for question in questions if self._worth_sending(question)]
        pipe = self._server.pipeline(transaction=False)
        for question in sent:
            pipe.incrby(self._name(question.bucket), question.units)
        counts = dict(zip(map(id, sent), map(_whole, await pipe.execute()), strict=True)) if sent else {}
        returned = []
        for question in questions:
            charge = self._judged(question, counts.get(id(question)))
            if not charge.admitted and id(question) in counts and question.units > 0:
                returned.append(question)
            if not question.answer.done():
                question.answer.set_result(charge)
        await self._give_back(returned)

    async def _look(self, questions: Sequence[_Question]) -> None:
        """Begin windows that are not there, and learn of each where it ends and what is used."""
        if not questions:
            return
        now = self._clock.monotonic_seconds()
        pipe = self._server.pipeline(transaction=False)
        for question in questions:
            name = self._name(question.bucket)
            pipe.set(name, 0, px=question.allowance.window_seconds * 1000, nx=True)
            # One that something left without an end would stay for ever.
            pipe.pexpire(name, question.allowance.window_seconds * 1000, nx=True)
            pipe.execute_command("PEXPIRETIME", name)
            pipe.pttl(name)
            pipe.get(name)
        answers = await pipe.execute()
        if len(self._windows) + len(questions) > REMEMBERED_BUCKETS_MAX:
            self._windows.clear()
        for place, question in enumerate(questions):
            ends_ms, left_ms, used = (
                _whole(answer or 0) for answer in answers[place * 5 + 2 : place * 5 + 5]
            )
            self._windows[question.bucket] = _Window(now + left_ms / 1000, math.ceil(ends_ms / 1000), used)

    def _window(self, bucket: bytes) -> _Window | None:
        known = self._windows.get(bucket)
        return known if known is not None and self._clock.monotonic_seconds() < known.ends else None

    def _worth_sending(self, question: _Question) -> bool:
        window = self._windows[question.bucket]
        if question.units < 0:
            return self._clock.monotonic_seconds() + _GIVE_BACK_SECONDS < window.ends
        return window.used + question.units <= question.allowance.limit

    def _judged(self, question: _Question, count: int | None) -> Charge:
        bucket, units, allowance = question.bucket, question.units, question.allowance
        window = self._windows[bucket]
        used = window.used if count is None else max(count, units, 0)
        if count is not None:
            self._windows[bucket] = _Window(window.ends, window.reset, used)
        remaining = min(allowance.limit, max(0, allowance.limit - used))
        if units < 0:
            self._table.charge(bucket, units, allowance)
            return Charge(True, allowance.limit, remaining, window.reset, 0)
        if count is not None and used <= allowance.limit:
            trusted = self._clock.monotonic_seconds() >= self._up_since + allowance.window_seconds
            bound = _twice(allowance) if trusted else self._share(allowance)
            # Counted here too, for the day that the server is gone.
            here = self._table.charge(bucket, units, bound)
            if here.admitted:
                remaining = remaining if trusted else min(remaining, here.remaining)
                return Charge(True, allowance.limit, remaining, window.reset, 0)
        left = window.reset - self._clock.now_us() // MICROSECONDS
        wait = min(max(1, left), allowance.window_seconds + 1)
        return Charge(False, allowance.limit, 0, window.reset, wait)

    async def _give_back(self, questions: Sequence[_Question]) -> None:
        """What was refused is not charged."""
        soon = self._clock.monotonic_seconds() + _GIVE_BACK_SECONDS
        pipe = self._server.pipeline(transaction=False)
        for question in questions:
            window = self._windows[question.bucket]
            if soon < window.ends:
                pipe.decrby(self._name(question.bucket), question.units)
                used = max(0, window.used - question.units)
                self._windows[question.bucket] = _Window(window.ends, window.reset, used)
        if len(pipe):
            await pipe.execute()

    def _name(self, bucket: bytes) -> str:
        return self._prefix + bucket.hex()

    def _lose(self, error: Exception) -> None:
        if not self._gone:
            # The text of an error may hold the address, and that a password.
            kind = type(error).__name__
            _log.error(
                "the server of the rate limits is gone (%s): this node counts alone, with its share", kind
            )
        self._gone = True
        self._windows.clear()
        self._try_at = self._clock.monotonic_seconds() + self._pause
        self._pause = min(2 * self._pause, VALKEY_RETRY_SECONDS_MAX)

    def _try_again(self) -> None:
        if self._trying is None and not self._closed and self._clock.monotonic_seconds() >= self._try_at:
            self._trying = asyncio.create_task(self._try())

    async def _try(self) -> None:
        """With the commands that are really used: one that merely answers may refuse to write."""
        probe = _Question(b"probe", 1, Allowance(UNITS_MAX, 1), asyncio.get_running_loop().create_future())
        try:
            async with asyncio.timeout(VALKEY_ANSWER_SECONDS):
                await self._server.connection_pool.disconnect()
                await self._look([probe])
                _whole(await self._server.incrby(self._name(probe.bucket), 1))
        except Exception as error:  # noqa: BLE001 - as above
            self._lose(error)
        else:
            self._gone = False
            self._pause = VALKEY_RETRY_SECONDS
            _log.warning("the server of the rate limits is back")
        finally:
            self._trying = None


def _twice(allowance: Allowance) -> Allowance:
    """A window of this node overlaps two of the server's at most."""
    return Allowance(min(2 * allowance.limit, 2 * UNITS_MAX), allowance.window_seconds)


def _whole(answer: Any) -> int:
    """A number that the server answered.

    Raises:
        ValueError: it is none.
    """
    if isinstance(answer, bytes | str):
        return int(answer)
    if type(answer) is not int:
        raise ValueError("not a number")
    return answer


def _client(url: SecretText, meet: Any) -> Redis:
    # Two names of one thing; the library knows the older one.
    text = url.reveal()
    text = text.replace("valkey", "redis", 1) if text.startswith("valkey") else text
    # Once and no more: what is late is answered without it.
    return Redis.from_url(
        text,
        retry=Retry(NoBackoff(), 0),
        socket_connect_timeout=VALKEY_ANSWER_SECONDS,
        redis_connect_func=meet,
    )
