"""A wall clock that jumps while the server runs, by a shim before the C library: `wall_clock.c`. Needs `cc`.

    clock = WallClock(tmp_path)
    server = Server(directory, environment=clock.environment())
    clock.jump(DAY)

The clock that only runs, from which durations are measured, is left alone, as when an administrator or NTP
steps the time of a machine. libfaketime 0.9.10 would do, but makes waits for a semaphore fail in Python's
threads (EINVAL in `queue.SimpleQueue.get`): what broke then was not the server's doing.
"""

from __future__ import annotations

from pathlib import Path

from tests.support.shims import shim

DAY = 86_400


class WallClock:
    """The offset of a server's wall clock.

    Args:
        place: Where it is kept.
    """

    def __init__(self, place: Path) -> None:
        self._file = place / "wall-clock"
        self.jump(0)

    def environment(self) -> dict[str, str]:
        """What a process has to be started with."""
        return {"LD_PRELOAD": str(shim("wall_clock")), "WALL_CLOCK_OFFSET": str(self._file)}

    def jump(self, seconds: int) -> None:
        """Be so many seconds ahead of the machine's clock from now on."""
        unfinished = self._file.with_suffix(".new")
        unfinished.write_text(f"{seconds}\n")
        unfinished.replace(self._file)
