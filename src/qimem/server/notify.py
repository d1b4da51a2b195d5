"""What the server tells the init system that started it: it serves, it stops, it is alive. sd_notify(3).

Each message is one datagram to the socket that NOTIFY_SOCKET names; nothing is held open in between, so no worker
inherits it. Whether anybody listens is not this server's affair: a message that cannot be sent is dropped. Only for
the first one it waits a while: who never hears that the server serves would end it.
"""

from __future__ import annotations

import asyncio
import math
import os
import socket
import time
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Self

_SOCKET = "NOTIFY_SOCKET"
_WATCHDOG = ("WATCHDOG_USEC", "WATCHDOG_PID")
_READY_SECONDS = 5.0
"""For an init system that is too busy to read: its queue holds some ten messages."""


@dataclass(slots=True)
class InitSystem:
    """The one that started this process, or nobody.

    Args:
        address: Its datagram socket; empty when there is none.
        beat_seconds: How often it wants to hear that the server is alive; 0 when it does not.
    """

    address: str = ""
    beat_seconds: float = 0.0
    _beaten: float = field(default=math.inf, init=False)

    @classmethod
    def adopt(cls, environ: MutableMapping[str, str]) -> Self:
        """Who the environment names. It is taken out of it: no child may speak in this process's place."""
        named = environ.pop(_SOCKET, "")
        microseconds, pid = (environ.pop(name, "") for name in _WATCHDOG)
        if not named.startswith(("/", "@")):
            return cls()
        # Left over from a process that this one was started by, it is meant for that one.
        ours = pid in ("", str(os.getpid()))
        known = microseconds.isascii() and microseconds.isdigit()
        # Twice in the time that it allows, as sd_watchdog_enabled(3) advises.
        return cls(named, int(microseconds) / 2_000_000 if ours and known else 0.0)

    def ready(self, url: str) -> None:
        """All workers serve. It may take seconds: not for an event loop."""
        self._tell(f"READY=1\nSTATUS=serving {url}", _READY_SECONDS)
        # Before, nobody waits for a beat, and beats could take the place of what is waited for.
        self._beaten = 0.0

    def stopping(self) -> None:
        """No more requests are taken; those that run are finished."""
        self._tell("STOPPING=1\nSTATUS=draining")

    def beat(self) -> None:
        """Alive; sent when it is time to."""
        now = time.monotonic()
        if self.beat_seconds and now - self._beaten >= self.beat_seconds:
            self._beaten = now
            self._tell("WATCHDOG=1")

    async def beats(self) -> None:
        """Be alive for as long as the event loop turns."""
        while self.beat_seconds:
            self.beat()
            await asyncio.sleep(self.beat_seconds / 2)

    def _tell(self, message: str, seconds: float = 0.0) -> None:
        if not self.address:
            return
        # A leading @ stands for the NUL of an abstract name, unix(7).
        address = f"\0{self.address[1:]}" if self.address.startswith("@") else self.address
        try:
            # Without a descriptor left, too: a beat that raises would be the last one, and the server be ended for it.
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                # Who does not read must not hold up who serves; 0 is not to wait at all.
                sender.settimeout(seconds)
                sender.sendto(message.encode(), address)
        except OSError:
            return
