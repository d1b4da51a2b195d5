"""Checkpoints as they were delivered, read again to be compared with the log."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from qimem.audit.log import PublicKey
from qimem.audit.verification import Altered, Known, digest_of, opened_checkpoint
from qimem.kernel.limits import AUDIT_CHECKPOINT_LINE_BYTES_MAX


@dataclass(slots=True)
class Delivered:
    """What a file of checkpoints holds.

    Args:
        streams: Stream → number → what is known of it.
        unreadable: Numbers of lines that hold none: a crash or a full disk cut them off.
        faults: What no crash explains: signatures of another key, or two checkpoints with one number.
    """

    streams: dict[str, dict[int, Known]] = field(default_factory=dict)
    unreadable: list[int] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        """How many different checkpoints there are."""
        return sum(map(len, self.streams.values()))


def read_delivered(file: Path, key: PublicKey) -> Delivered:
    """Read a file of checkpoints, one a line.

    Args:
        file: Of `audit.checkpoint_file`, or of whoever takes what is posted.
        key: Whose signatures count, and whose log they are of.

    Raises:
        OSError: it cannot be read.
        ValueError: the key is none.
    """
    found, verifier = Delivered(), key.verifier()
    for number, line in _lines(file):
        if not line.strip(b"\0 \t\r\n"):
            continue
        try:
            checkpoint = opened_checkpoint(f"line {number}", line, None)
        except Altered:
            found.unreadable.append(number)
            continue
        try:
            opened_checkpoint(f"line {number}", line, verifier)
        except Altered as error:
            found.faults.append(str(error))
            continue
        if checkpoint.instance != key.instance:
            found.faults.append(f"line {number}: the checkpoint is of another installation")
            continue
        stream = found.streams.setdefault(checkpoint.stream, {})
        known = Known(checkpoint.segment, digest_of(line))
        if stream.setdefault(checkpoint.number, known) != known:
            found.faults.append(f"line {number}: another checkpoint {checkpoint.number} came before it")
    return found


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Each line with its number, cut where no checkpoint is so long."""
    with file.open("rb") as opened:
        number = 0
        while line := opened.readline(AUDIT_CHECKPOINT_LINE_BYTES_MAX):
            number += 1
            whole = line
            while whole and not whole.endswith(b"\n"):
                whole = opened.readline(AUDIT_CHECKPOINT_LINE_BYTES_MAX)
            yield number, line.strip(b"\r\n")
