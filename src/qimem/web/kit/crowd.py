"""Room for a newcomer where a worker has as many connections as it may."""

from __future__ import annotations

from typing import Any, Protocol

from qimem.kernel.limits import CONNECTIONS_ROOM
from qimem.web.kit.admission import Admission


class Newcomer(Protocol):
    """A connection, one of all that the worker has."""

    admission: Admission
    connections: set[Any]


def has_room(newcomer: Newcomer) -> bool:
    """Whether there is room, after those who have been idle longest were closed.

    Otherwise whoever opens connections and asks for nothing would keep everybody else out. Many at once: looking
    through ten thousand takes milliseconds.
    """
    idle = []
    connection: Any
    for connection in newcomer.connections:
        until = connection.idle_until
        if until is not None and connection is not newcomer and not connection.transport.is_closing():
            idle.append((until, id(connection), connection))
    # The first to be closed anyway is the one that has been silent longest, whichever deadline it has.
    idle.sort()
    for _, _, connection in idle[:CONNECTIONS_ROOM]:
        newcomer.admission.closed("idle")
        connection.cut()
    if not idle:
        newcomer.admission.closed("full")
    return bool(idle)
