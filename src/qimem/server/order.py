"""What a worker is told by its supervisor: settings, address and the root key, through a pipe.

Never through arguments or the environment, which every process of the user can read. On the
pipe: a 4-byte length, that many bytes of JSON, then the key.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

from qimem.config.schema import Settings
from qimem.config.transfer import dump, restore
from qimem.kernel.secret import SecretBytes
from qimem.kernel.shared_memory import SharedMemory
from qimem.kms.hierarchy import KEY_BYTES


@dataclass(frozen=True, slots=True)
class Order:
    """One server's orders; the same for each of its workers.

    Args:
        host: Address to listen on, already reserved.
        port: The real port.
        url: Base URL that clients use.
        shared: Descriptors of the memory that workers share; each has inherited them.
        admin: Host and port of the admin listener, already reserved.
        tls: Descriptor of the memory in which workers find certificate and key; inherited, too.
    """

    settings: Settings
    root_key: SecretBytes
    host: str
    port: int
    url: str
    shared: SharedMemory | None = None
    admin: tuple[str, int] | None = None
    tls: int | None = None

    def send(self, descriptor: int) -> None:
        """Write it all; the reader may still be starting, so this is small enough for a pipe's buffer."""
        place = {
            "host": self.host,
            "port": self.port,
            "url": self.url,
            "shared": self.shared,
            "admin": self.admin,
            "tls": self.tls,
        }
        head = json.dumps({"place": place, "settings": dump(self.settings).decode()}).encode()
        os.writev(descriptor, [len(head).to_bytes(4, "big"), head, self.root_key.reveal()])

    @classmethod
    def receive(cls, descriptor: int) -> Order:
        """Read what `send` wrote.

        Raises:
            EOFError: the supervisor went away.
        """
        head = bytes(_exactly(descriptor, int.from_bytes(_exactly(descriptor, 4), "big")))
        buffer = _exactly(descriptor, KEY_BYTES)
        key = SecretBytes(buffer)
        buffer[:] = bytes(KEY_BYTES)
        told = json.loads(head)
        place = told["place"]
        place["shared"] = None if place["shared"] is None else SharedMemory(*place["shared"])
        place["admin"] = None if place["admin"] is None else tuple(place["admin"])
        return cls(restore(told["settings"].encode()), key, **place)


def _exactly(descriptor: int, length: int) -> bytearray:
    buffer = bytearray(length)
    filled = 0
    while filled < length:
        read = os.readv(descriptor, [memoryview(buffer)[filled:]])
        if read == 0:
            raise EOFError
        filled += read
    return buffer
