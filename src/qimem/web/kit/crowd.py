"""Room for a newcomer where a worker has as many connections as it may."""

from __future__ import annotations

from time import monotonic
from typing import Any, Final, Protocol

from qimem.kernel.limits import CONNECTIONS_ROOM
from qimem.web.kit.admission import Admission

_FULL_SECONDS: Final = 0.05
"""For so long nobody is looked for again after all were found to be busy: sixty-four newcomers of one turn, each of whom
looked through ten thousand, kept everybody else waiting for 140 ms."""


class Newcomer(Protocol):
    """A connection, one of all that the worker has."""

    admission: Admission
    connections: set[Any]


def has_room(newcomer: Newcomer) -> bool:
    """Whether there is room, after those who have been idle longest were closed.

    Otherwise whoever opens connections and asks for nothing would keep everybody else out. Many at once: looking
    through ten thousand takes milliseconds.
    """
    admission = newcomer.admission
    now = monotonic()
    if now < admission.full_until:
        admission.closed("full")
        return False
    idle = []
    connection: Any
    for connection in newcomer.connections:
        until = connection.idle_until
        if until is not None and connection is not newcomer and not connection.transport.is_closing():
            idle.append((until, id(connection), connection))
    # The first to be closed anyway is the one that has been silent longest, whichever deadline it has.
    idle.sort()
    for _, _, connection in idle[:CONNECTIONS_ROOM]:
        admission.closed("idle")
        connection.cut()
        # The loop tells it only in its next turn that it is closed. Counted until then, it would have each newcomer of
        # this turn look for room anew, and sixty-four of them close six thousand.
        newcomer.connections.discard(connection)
    if not idle:
        admission.full_until = now + _FULL_SECONDS
        admission.closed("full")
    return bool(idle)
