"""The process that writes a stream: steps onto a disk, the next segment in time, and again when it could not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from qimem.audit.disk import Disk
from qimem.audit.segment_file import StreamFiles, segment_name
from qimem.audit.steps import Step
from qimem.kernel.clock import ManualClock
from tests.support.processes import eventually

SIZE = 1024 * 1024


class FullAtFirst(StreamFiles):
    """A disk that has room from the second try on."""

    tries = 0

    def prepare_spare(self, size: int, hurried: Callable[[], bool] = lambda: False) -> None:
        self.tries += 1
        if self.tries == 1:
            raise OSError(28, "full")
        super().prepare_spare(size, hurried)


def settled(disk: Disk) -> None:
    eventually(lambda: not disk._making.locked())


def test_a_spare_segment_that_could_not_be_made_is_tried_again_after_a_while(tmp_path: Path) -> None:
    files, clock = FullAtFirst(tmp_path), ManualClock()
    disk = Disk(files, 0, SIZE, clock)
    disk.prepare()
    eventually(lambda: files.tries == 1 and disk._spare_for == -1)
    disk.prepare()
    clock.advance(9)
    disk.prepare()
    assert files.tries == 1
    clock.advance(2)
    disk.prepare()
    eventually((tmp_path / "spare").exists)
    settled(disk)
    clock.advance(20)
    disk.prepare()
    assert files.tries == 2


def test_a_process_that_has_written_nothing_yet_seals_a_segment_that_is_full(tmp_path: Path) -> None:
    files = StreamFiles(tmp_path)
    Disk(files, 0, SIZE).do([Step(b"", 0, header=b"one\n")])
    Disk(files, 1, SIZE).do([Step(b"", 4, seal=True, header=b"two\n"), Step(b"more\n", 4)])
    assert (tmp_path / segment_name(1)).read_bytes() == b"one\n"
    assert (tmp_path / segment_name(2)).read_bytes().rstrip(b"\0") == b"two\nmore\n"
