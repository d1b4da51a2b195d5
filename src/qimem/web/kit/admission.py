"""What a worker takes on: work by the time it takes, memory by what is kept for others.

A turn of the event loop serves every connection that has sent something; what is last in it waits for all the others.
So a turn may take `TURN_SECONDS` of processor time: whoever is met after that is refused before any work, if the turn
before was too long as well. Of large requests each turn serves as many as it has time for. A pause of the machine or of a disk takes
no processor time, and nobody is refused for it. ADR 0014 has the figures.
"""

from __future__ import annotations

import asyncio
from collections import deque
from enum import Enum
from time import monotonic, thread_time
from typing import Final, Protocol

from qimem.errors import Unavailable
from qimem.kernel.limits import (
    BODIES_ANONYMOUS_BYTES_MAX,
    BODIES_BYTES_MAX,
    LARGE_BODIES_MAX,
    LARGE_BYTES_PER_TURN,
    PIPELINED_MAX,
    REST_SECONDS,
    TURN_SECONDS,
    UNREAD_BYTES_MAX,
)
from qimem.observability.metrics import CLOSED, REFUSED, Metric

_GOLDEN: Final = 0.6180339887498949
"""Multiples of it, modulo 1, lie as far apart as possible: those who were refused together come back one by one."""


class Counts(Protocol):
    """Where refusals are counted; implemented by `observability.metrics.Metrics`."""

    def count(self, metric: Metric, reason: str = "", more: int = 1) -> None:
        """Add to a counter."""
        ...


class Peer(Protocol):
    """A connection whose client does not read."""

    def cut(self) -> None:
        """End it at once."""
        ...


class Body(Enum):
    """Who sends a body. Those whom nobody knows must not take the memory that the others need."""

    KNOWN = BODIES_BYTES_MAX
    ANONYMOUS = BODIES_ANONYMOUS_BYTES_MAX

    @property
    def bytes_max(self) -> int:
        """Of all such bodies together."""
        return self.value


class Admission:
    """Of one worker; used on its loop.

    Args:
        counts: Where what is refused is counted.
    """

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._began = 0.0
        """When the turn began in which requests are being served; 0 where that is not known, because there are few."""
        self._used = 0.0
        """Processor time of this thread at that time."""
        self._share = TURN_SECONDS
        self._late = False
        """Whether the turn before took too long."""
        self._rests = 0.0
        self._large: deque[tuple[asyncio.Future[None], int]] = deque()
        self._large_bytes = 0
        """Of the large bodies of this turn."""
        self._bodies = {Body.KNOWN: 0, Body.ANONYMOUS: 0}
        self._pipelined = 0
        self._unread: dict[Peer, int] = {}
        self._unread_bytes = 0
        self.full_until = 0.0
        """Until when newcomers need not look for idle connections: there was none."""

    def admits(self, now: float) -> bool:
        """Whether the request that is met now may be served.

        Args:
            now: Monotonic seconds.
        """
        if not self._began:
            self._watch(now)
            return True
        # The first answer is a tenth of the price of the last.
        return (
            now - self._began <= TURN_SECONDS or not self._late or thread_time() - self._used <= self._share
        )

    async def begin_large(self, size: int) -> None:
        """Wait for a turn in which there is time for a body of `size` bytes.

        Raises:
            Unavailable: `overloaded`: too many wait.
        """
        if len(self._large) >= LARGE_BODIES_MAX:
            raise self.refusal("bodies")
        if not self._large and self._fits(size):
            if not self._began:
                self._watch(monotonic())
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._large.append((turn, size))
        await turn

    def refusal(self, reason: str = "turn") -> Unavailable:
        """What to answer to one that is not; counted."""
        self._counts.count(REFUSED, reason)
        refusal = Unavailable("too many requests at once", code="overloaded")
        refusal.retry_after_seconds = REST_SECONDS
        return refusal

    def rest_seconds(self) -> float:
        """How long a connection that was refused is not read."""
        self._rests = (self._rests + _GOLDEN) % 1
        return REST_SECONDS * (1 + self._rests) / 2

    def keep_body(self, sender: Body, size: int) -> None:
        """Promise memory for a body that is on its way: whoever is let in will not be refused for others.

        Raises:
            Unavailable: `overloaded`.
        """
        if self._bodies[sender] + size > sender.bytes_max:
            raise self.refusal("bodies")
        self._bodies[sender] += size

    def drop_body(self, sender: Body, size: int) -> None:
        """It is kept no longer."""
        self._bodies[sender] -= size

    def pipeline(self) -> bool:
        """Note a request that waits for an earlier one; False, and counted as refused, when there is no room for it."""
        self._pipelined += 1
        if self._pipelined > PIPELINED_MAX:
            self._counts.count(REFUSED, "pipelined")
            return False
        return True

    def unpipeline(self, count: int = 1) -> None:
        """So many wait no longer."""
        self._pipelined -= count

    def unread(self, peer: Peer, size: int) -> None:
        """An answer is kept for a client who does not read; who has not read for longest is cut when it is too much."""
        self.taken(peer)
        self._unread[peer] = size
        self._unread_bytes += size
        while self._unread_bytes > UNREAD_BYTES_MAX and len(self._unread) > 1:
            oldest = next(iter(self._unread))
            self.taken(oldest)
            self.closed("unread")
            oldest.cut()

    def taken(self, peer: Peer) -> None:
        """It was read, or is kept no longer."""
        self._unread_bytes -= self._unread.pop(peer, 0)

    def closed(self, reason: str) -> None:
        """Count a connection that was closed to make room."""
        self._counts.count(CLOSED, reason)

    def _watch(self, now: float) -> None:
        self._began = now
        asyncio.get_running_loop().call_soon(self._turned)

    def _fits(self, size: int) -> bool:
        if self._large_bytes and self._large_bytes + size > LARGE_BYTES_PER_TURN:
            return False
        self._large_bytes += size
        # Those who are met after it must not be refused for what it takes.
        self._share = 2 * TURN_SECONDS
        return True

    def _turned(self) -> None:
        now, used = monotonic(), thread_time()
        took = now - self._began
        # Between turns that were watched, the thread had other work, which none of these took.
        self._late = min(took, used - self._used) > self._share
        self._used, self._share, self._large_bytes = used, TURN_SECONDS, 0
        while self._large and (self._large[0][0].done() or self._fits(self._large[0][1])):
            turn, _ = self._large.popleft()
            if not turn.done():
                turn.set_result(None)
        if self._large_bytes or took > TURN_SECONDS / 4:
            # The next turn begins here, with what those who were admitted have left to be done.
            self._watch(now)
        else:
            self._began = 0.0


class Uncounted:
    """Counts of a listener that nobody floods; its metrics are those of the main one."""

    def count(self, metric: Metric, reason: str = "", more: int = 1) -> None:
        """Forget it."""


def admission_of(app: object) -> Admission:
    """That of the application; one of its own for what has none."""
    found = getattr(app, "admission", None)
    return found if isinstance(found, Admission) else Admission(Uncounted())
