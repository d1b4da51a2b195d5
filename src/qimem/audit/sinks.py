"""Where signed checkpoints are brought to, away from the disk of the log: a file on another mount, a URL.

Whoever controls the machine can replace the log, its heads and its key together. What a checkpoint says is then elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

from qimem.crypto.mac import mac
from qimem.kernel.durable import sync_directory
from qimem.kernel.limits import AUDIT_SINK_FILE_SECONDS
from qimem.kernel.secret import SecretBytes
from qimem.outbound.answer import Answer, OutboundFailed
from qimem.outbound.target import Target

SIGNATURE: Final = "X-Qimem-Signature"
"""HMAC-SHA256 of the body with the shared secret, as `sha256=<hex>`."""
_FLAGS: Final = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class SinkFailed(Exception):
    """It does not take them; the text says why and names nothing secret."""


class Sink(Protocol):
    """Takes checkpoints."""

    @property
    def name(self) -> str:
        """One of `observability.metrics.SINKS`."""
        ...

    async def take(self, checkpoints: Sequence[bytes]) -> None:
        """Have all of them; some may come again.

        Args:
            checkpoints: As they stand in the log, without line ends.

        Raises:
            SinkFailed: it may have some of them.
        """
        ...


class Poster(Protocol):
    """Sends requests; `outbound.fetcher.Fetcher`."""

    async def post(self, target: Target, body: bytes, headers: Mapping[str, str]) -> Answer:
        """POST to it.

        Raises:
            OutboundFailed: there is no answer.
        """
        ...


class FileSink:
    """Appends them to a file, a line each, and syncs it."""

    name = "file"

    def __init__(self, file: Path) -> None:
        self._file = file
        self._hanging = threading.Lock()

    async def take(self, checkpoints: Sequence[bytes]) -> None:
        """See `Sink`."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[str | None] = loop.create_future()
        data = b"".join(line + b"\n" for line in checkpoints)
        if not self._hanging.acquire(blocking=False):
            raise SinkFailed("the file does not answer")

        def settle(fault: str | None) -> None:
            if not done.done():
                done.set_result(fault)

        def work() -> None:
            fault = None
            try:
                append(self._file, data)
            except OSError as error:
                fault = error.strerror or str(error)
            finally:
                self._hanging.release()
            with contextlib.suppress(RuntimeError):
                # The loop may be closed by now.
                loop.call_soon_threadsafe(settle, fault)

        # A thread that nobody waits for: a mount whose server is gone hangs for ever, and the process must end.
        threading.Thread(target=work, name="checkpoint-file", daemon=True).start()
        try:
            fault = await asyncio.wait_for(done, AUDIT_SINK_FILE_SECONDS)
        except TimeoutError:
            raise SinkFailed("the file does not answer") from None
        if fault is not None:
            raise SinkFailed(fault)


class UrlSink:
    """Posts them to a URL, one at a time.

    Args:
        poster: Sends them.
        target: Where.
        secret: Shared with whoever takes them; None sends no `SIGNATURE`.
    """

    name = "url"

    def __init__(self, poster: Poster, target: Target, secret: SecretBytes | None) -> None:
        self._poster = poster
        self._target = target
        self._secret = secret

    async def take(self, checkpoints: Sequence[bytes]) -> None:
        """See `Sink`."""
        for checkpoint in checkpoints:
            headers = {"Content-Type": "application/json"}
            if self._secret is not None:
                headers[SIGNATURE] = f"sha256={mac(self._secret, checkpoint).hex()}"
            try:
                answer = await self._poster.post(self._target, checkpoint, headers)
            except OutboundFailed as error:
                raise SinkFailed(str(error)) from None
            if not 200 <= answer.status < 300:
                raise SinkFailed(f"it answered {answer.status}")


def append(file: Path, data: bytes) -> None:
    """Append whole lines to a file that may be append-only, and have them on its disk.

    Raises:
        OSError: some or none of it is there.
    """
    descriptor = os.open(file, _FLAGS, 0o600)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            # A pipe or a device would swallow what is written.
            raise OSError("it is no regular file")
        if found.st_size and os.pread(descriptor, 1, found.st_size - 1) != b"\n":
            # The rest of a line that a crash cut off, or a full disk.
            data = b"\n" + data
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if found.st_size == 0:
        sync_directory(file.parent)
