"""A kept-alive connection that sends anything and reads what comes back."""

from __future__ import annotations

import itertools
import random
import re
import socket
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

GIVE_UP_SECONDS = 20.0
UNFRAMED_SECONDS = 0.02
"""What may wait for more bytes for ever is not waited for."""

_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n")
_ADDRESSES = itertools.count(2)


@dataclass(frozen=True, slots=True)
class Got:
    """One answer, and when it was whole."""

    status: int
    head: bytes
    body: bytes
    at: float

    @property
    def closes(self) -> bool:
        return b"\r\nconnection: close\r\n" in self.head


class Connection:
    """One connection, from one of many addresses of the loopback network."""

    def __init__(self, url: str) -> None:
        place = urlsplit(url)
        source = f"127.0.0.{next(_ADDRESSES) % 250 + 2}"
        self._socket = socket.create_connection(
            (place.hostname, place.port), timeout=GIVE_UP_SECONDS, source_address=(source, 0)
        )
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._read = b""
        self.sent = 0.0

    def close(self) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self.sent = time.monotonic()
        self._socket.settimeout(GIVE_UP_SECONDS)
        self._socket.sendall(data)

    def receive(self, *, bodiless: bool, unframed: bool) -> Got:
        """The next final answer.

        Raises:
            OSError: the connection ended, or nothing came in time.
            ValueError: what came is no answer.
        """
        self._socket.settimeout(UNFRAMED_SECONDS if unframed else GIVE_UP_SECONDS)
        while True:
            while b"\r\n\r\n" not in self._read:
                self._more()
            head, _, self._read = self._read.partition(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 "):
                raise ValueError(f"not an answer: {head[:200]!r}")
            status = int(head[9:12])
            if status >= 200:
                break
        head += b"\r\n"
        found = _LENGTH.search(head)
        length = int(found[1]) if found is not None and not bodiless else 0
        while len(self._read) < length:
            self._more()
        body, self._read = self._read[:length], self._read[length:]
        return Got(status, head, body, time.monotonic())

    def _more(self) -> None:
        data = self._socket.recv(1 << 18)
        if not data:
            raise ConnectionResetError("closed by the server")
        self._read += data


def sample_seed(seed: str, part: int) -> random.Random:
    """The source of chance of one of several processes."""
    return random.Random(f"{seed} {part}")
