"""A disk that fails on demand: a shim before the C library, switched while the server runs.

    disk = FaultyDisk(tmp_path / "data", tmp_path)
    server = Server(directory, environment=disk.environment())
    with disk.failing(Rule("sync", "qimem.db", errno.EIO)):
        …

Needs `cc`. What is below the directory is touched and nothing else; the shim is `disk_faults.c`.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.shims import shim

UNTIL_IT_ENDS = -1


@dataclass(frozen=True, slots=True)
class Rule:
    """One fault.

    Args:
        operation: `write`, `sync`, `truncate`, `allocate`, `open` (for writing) or `*`.
        part: Of the file's path; `*` for every file.
        error: What the call fails with; 0 lets it go on.
        wait_ms: How long it takes before; `UNTIL_IT_ENDS`: until the rule is gone.
        process: The only process that meets it; 0 for all.
    """

    operation: str
    part: str = "*"
    error: int = 0
    wait_ms: int = 0
    process: int = 0

    def line(self) -> str:
        return f"{self.operation} {self.part} {self.process} {self.wait_ms} {self.error}\n"


FULL = tuple(Rule(operation, error=errno.ENOSPC) for operation in ("write", "allocate", "truncate"))
READ_ONLY = tuple(
    Rule(operation, error=errno.EROFS) for operation in ("open", "write", "allocate", "truncate")
)
"""As processes see a file system that went read-only by itself: nothing is written, reads go on."""
BROKEN = tuple(Rule(operation, error=errno.EIO) for operation in ("write", "sync", "allocate", "truncate"))


class FaultyDisk:
    """The switch.

    Args:
        directory: Whose files meet the faults; may be made later.
        place: Where the rules are kept: not in the directory.
    """

    def __init__(self, directory: Path, place: Path) -> None:
        self._directory = directory
        self._rules = place / "disk-faults"

    def environment(self) -> dict[str, str]:
        """What a process has to be started with."""
        # Workers are started with the environment of their supervisor, less what begins with QIMEM_.
        return {
            "LD_PRELOAD": str(shim("disk_faults")),
            "DISK_FAULTS_DIRECTORY": str(self._directory.resolve()),
            "DISK_FAULTS_RULES": str(self._rules),
        }

    @contextlib.contextmanager
    def failing(self, *rules: Rule) -> Iterator[None]:
        """Have the disk fail like this meanwhile; the first rule that fits counts."""
        self.fail(*rules)
        try:
            yield
        finally:
            self.heal()

    def fail(self, *rules: Rule) -> None:
        """Fail like this from now on."""
        unfinished = self._rules.with_suffix(".new")
        unfinished.write_text("".join(rule.line() for rule in rules))
        unfinished.replace(self._rules)

    def heal(self) -> None:
        """Be sound from now on."""
        self._rules.unlink(missing_ok=True)

    @property
    def hits(self) -> int:
        """How many calls met a rule."""
        try:
            return self._rules.with_suffix(".hits").stat().st_size
        except FileNotFoundError:
            return 0
