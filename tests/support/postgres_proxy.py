"""A network between a server and its PostgreSQL that a test can break, message by message.

    with Proxy(cluster.port) as proxy:
        server = Server(directory, database_url=proxy.url(url))
        proxy.delay = lambda: 0.5

What was swallowed stays lost, and its connection silent for ever, as behind a firewall that forgot it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal, Self
from urllib.parse import urlsplit

Cut = Literal["question", "answer"]

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_COMMITTED = b"C" + struct.pack(">I", 4 + len(b"COMMIT\0")) + b"COMMIT\0"


def messages(data: bytearray) -> Iterator[bytes]:
    """Take the whole messages off the front: a type, a length, a body."""
    while len(data) >= 5:
        length = 1 + int.from_bytes(data[1:5])
        if len(data) < length:
            return
        yield bytes(data[:length])
        del data[:length]


@dataclass(eq=False)
class _Link:
    """One connection of a client and its counterpart at the server."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter | None = None
    silent: bool = False
    prepared: set[bytes] = field(default_factory=set)
    """Names of the statements that are COMMIT."""
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def commits(self, message: bytes) -> bool:
        """Whether the client commits: in words, or by executing what it prepared."""
        kind, body = message[:1], message[5:]
        name, _, rest = body.partition(b"\0")
        if kind == b"P" and rest.partition(b"\0")[0] == b"COMMIT":
            self.prepared.add(name)
        statement = rest.partition(b"\0")[0]
        return (kind == b"Q" and name == b"COMMIT") or (kind == b"B" and statement in self.prepared)

    def reset(self) -> None:
        """End it with RST on both sides."""
        for writer in filter(None, (self.client, self.server)):
            sock = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            writer.transport.abort()

    def close(self) -> None:
        for writer in filter(None, (self.client, self.server)):
            writer.close()


class Proxy:
    """Listens on a port of its own, on a thread of its own.

    Args:
        target: The port of PostgreSQL on loopback.

    Attributes:
        delay: Seconds by which each answer comes late.
        cut: Where a transaction's COMMIT is lost: on its way there, or its answer on the way back.
        halves: The next answer of every connection is reset in its middle.
        cuts: How many commits were cut.
        halved: How many answers were reset in their middle.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self.delay: Callable[[], float] | None = None
        self.cut: Cut | None = None
        self.halves = False
        self.cuts = 0
        self.halved = 0
        self._silent = False
        self._links: set[_Link] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._listening: asyncio.Server
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._listening = self._run(asyncio.start_server(self._connected, "127.0.0.1", 0))
        self.port = self._listening.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def url(self, url: str) -> str:
        """The same database, through here; unencrypted, so that messages can be told apart."""
        place = urlsplit(url)
        return (
            f"postgresql://{place.username}@127.0.0.1:{self.port}{place.path}"
            "?sslmode=disable&gssencmode=disable"
        )

    def reset(self) -> None:
        """RST on every connection."""
        self._run(self._each(_Link.reset))

    @contextlib.contextmanager
    def silence(self) -> Iterator[None]:
        """Connections are accepted, everything said on them is swallowed, and nobody ever answers."""
        self._silent = True
        self._run(self._each(lambda link: setattr(link, "silent", True)))
        try:
            yield
        finally:
            self._silent = False

    def _run(self, awaitable):  # type: ignore[no-untyped-def]
        return asyncio.run_coroutine_threadsafe(awaitable, self._loop).result(10)

    async def _each(self, act: Callable[[_Link], None]) -> None:
        for link in list(self._links):
            act(link)

    async def _end(self) -> None:
        self._listening.close()
        tasks = [task for link in self._links for task in link.tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._each(_Link.close)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(writer, silent=self._silent)
        self._links.add(link)
        link.tasks.append(asyncio.ensure_future(self._serve(link, reader)))

    async def _serve(self, link: _Link, reader: asyncio.StreamReader) -> None:
        try:
            with contextlib.suppress(OSError):
                await self._forward(link, reader)
        finally:
            self._links.discard(link)
            link.close()

    async def _forward(self, link: _Link, reader: asyncio.StreamReader) -> None:
        if not link.silent:
            answers, link.server = await asyncio.open_connection("127.0.0.1", self._target)
            back = asyncio.create_task(self._answer(link, answers))
            link.tasks.append(back)
        # The first message has no type; it is answered before anything else is sent.
        pending, first = bytearray(), True
        while data := await reader.read(1 << 16):
            if link.silent or link.server is None:
                continue
            pending += b"" if first else data
            first = False
            # Every message is looked at: any of them may prepare what a later one executes.
            commits = [link.commits(message) for message in messages(pending)]
            if any(commits) and self.cut == "question":
                self.cuts += 1
                link.reset()
                return
            link.server.write(data)

    async def _answer(self, link: _Link, reader: asyncio.StreamReader) -> None:
        loop, pending, due = asyncio.get_running_loop(), bytearray(), 0.0
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                pending += data
                # Late, but not one after the other: the way is long, not narrow. Never the same moment
                # twice: the loop keeps no order then.
                due = max(due + 1e-6, loop.time() + (self.delay() if self.delay else 0.0))
                loop.call_at(due, self._deliver, link, list(messages(pending)))
        loop.call_at(due + 1e-6, lambda: None if link.silent else link.client.close())

    def _deliver(self, link: _Link, told: list[bytes]) -> None:
        for message in told:
            if link.silent or link.client.is_closing():
                return
            self._tell(link, message)

    def _tell(self, link: _Link, message: bytes) -> None:
        if self.cut == "answer" and message == _COMMITTED:
            self.cuts += 1
            link.reset()
        elif self.halves:
            self.halved += 1
            link.client.write(message[: len(message) // 2])
            link.reset()
        else:
            link.client.write(message)
