"""Streams that nobody writes: those of workers that are no longer started, because there are fewer of them now.

One worker of a node at a time compresses, archives and gives up their segments by the rules of its own stream. It holds
such a stream only for moments, and nobody finds a stream meanwhile: whoever starts takes it up as if nothing had been.
No archive command runs in these moments. What is sealed is told by the signed head, and the last segment stays.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import TypeVar

from qimem.audit.log import only_keeper, visiting
from qimem.audit.retention import Retirement
from qimem.audit.segment_file import StreamDirectory, StreamFiles, stream_paths
from qimem.audit.trail import AuditTrail
from qimem.audit.verification import Altered, Verifier, opened_checkpoint
from qimem.errors import QimemError
from qimem.kernel.threads import run_to_its_end

_log = logging.getLogger(__name__)

T = TypeVar("T")

TakeUp = Callable[[StreamDirectory], Awaitable[AuditTrail]]
"""Opens the trail of a stream that this process holds; raises as `open_trail` does."""


class OwnerlessKeeper:
    """Looks after the sealed segments of streams that nobody writes.

    Args:
        log: The directory of all streams.
        verifier: Of the key that signed their heads.
        take_up: To sign that segments are kept no longer.
        retirement: Which leave; no other keeper's.
    """

    def __init__(self, log: Path, verifier: Verifier, take_up: TakeUp, retirement: Retirement) -> None:
        self._log = log
        self._verifier = verifier
        self._take_up = take_up
        self._retirement = retirement
        self._altered: set[str] = set()

    def close(self) -> None:
        """End the archive command, and start no more."""
        self._retirement.close()

    async def keep_house(self) -> None:
        """Compress a segment of each, and give up those that are too old or too many."""
        with ExitStack() as stack:
            if not await _entered(stack, only_keeper(self._log)):
                return
            for path in await asyncio.to_thread(stream_paths, self._log):
                if path.name not in self._altered:
                    await self._keep(path)

    async def _keep(self, path: Path) -> None:
        try:
            leaving = await asyncio.to_thread(self._leaving, path)
            if leaving:
                await self._give_up(path, leaving)
        except (Altered, ValueError) as error:
            # It is left as it is, for whoever looks into it.
            self._altered.add(path.name)
            _log.error(
                "audit stream %s was changed by somebody: %s; see qimem audit verify", path.name, error
            )
        except (OSError, QimemError) as error:
            _log.warning("audit stream %s is looked after later: %s", path.name, error)

    def _leaving(self, path: Path) -> list[int]:
        with visiting(self._log, path) as directory:
            sealed = [] if directory is None else self._compress(directory)
        return self._retirement.leaving(StreamFiles(path), sealed) if sealed else []

    def _compress(self, directory: StreamDirectory) -> list[int]:
        """Compress one segment; all that are sealed once they are compressed."""
        head = directory.head()
        if head is None:
            return []
        checkpoint = opened_checkpoint(f"the head of {directory.path.name}", head, self._verifier)
        # Whoever takes the stream up goes back to its head at most.
        sealed = [number for number in directory.segments() if number < checkpoint.segment]
        plain = [number for number in sealed if directory.file(number).exists()]
        for number in plain[:1]:
            # No more of them: a worker that starts waits for it.
            directory.compress(number)
        return sealed if len(plain) < 2 else []

    async def _give_up(self, path: Path, leaving: Sequence[int]) -> None:
        with ExitStack() as stack:
            directory = await _entered(stack, visiting(self._log, path))
            if directory is None:
                # It was taken up in the meantime, and whoever did that keeps house there.
                return
            trail = await self._take_up(directory)
            try:
                # What the log no longer holds is signed before it is gone; a gap that nobody signed is damage.
                await trail.give_up(leaving[-1] + 1)
            finally:
                await trail.close()
            await run_to_its_end(partial(directory.remove_all, leaving))


async def _entered(stack: ExitStack, context: AbstractContextManager[T]) -> T:
    """Enter it beside the loop: a disk that hangs must not hold up requests."""
    return await run_to_its_end(partial(stack.enter_context, context))
