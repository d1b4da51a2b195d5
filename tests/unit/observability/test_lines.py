"""Log lines: written at once where somebody reads, waited for by nobody where nobody does."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from qimem.kernel.limits import LOG_LINE_SECONDS, LOG_LINES_WAITING_MAX
from qimem.observability import lines as lines_module
from qimem.observability.lines import Lines
from tests.support.processes import eventually


class Pipe:
    """Standard error is a pipe."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()

    def fileno(self) -> int:
        return self.writing

    def fill(self) -> int:
        """Until not one byte more fits; how many did."""
        os.set_blocking(self.writing, False)
        size = 0
        for chunk in (4096, 1):
            try:
                while True:
                    size += os.write(self.writing, b"\n" * chunk)
            except BlockingIOError:
                continue
        os.set_blocking(self.writing, True)
        return size

    def read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            data += os.read(self.reading, size - len(data))
        return data


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipe]:
    pipe = Pipe()
    monkeypatch.setattr(lines_module, "sys", SimpleNamespace(stderr=pipe))
    yield pipe
    os.close(pipe.reading)
    os.close(pipe.writing)


def test_a_line_is_out_when_it_was_put(pipe: Pipe) -> None:
    Lines().put("hello é")
    assert os.read(pipe.reading, 100) == "hello é\n".encode()


def test_nobody_waits_for_a_pipe_that_nobody_reads(pipe: Pipe) -> None:
    lines, filled = Lines(), pipe.fill()
    began = time.monotonic()
    for number in range(100):
        lines.put(f"line {number}")
    # For the first of them alone; a hundred times that is what each would cost.
    assert time.monotonic() - began < 50 * LOG_LINE_SECONDS
    pipe.read(filled)
    assert pipe.read(len(b"line 0\n")) == b"line 0\n"
    rest = b"".join(b"line %d\n" % number for number in range(1, 100))
    assert pipe.read(len(rest)) == rest
    assert lines.dropped == 0


def test_beyond_the_limit_lines_are_dropped_and_counted_until_somebody_reads(pipe: Pipe) -> None:
    lines, filled = Lines(), pipe.fill()
    for _ in range(LOG_LINES_WAITING_MAX + 11):
        lines.put("x")
    # One is in the thread's hand.
    assert lines.dropped == 10
    pipe.read(filled)
    assert pipe.read(2 * (LOG_LINES_WAITING_MAX + 1)) == b"x\n" * (LOG_LINES_WAITING_MAX + 1)
    eventually(lambda: not lines._stuck)
    lines.put("y")
    assert os.read(pipe.reading, 100) == b"y\n"
    assert lines.dropped == 10


def test_a_reader_that_is_gone_is_no_reason_to_stop(pipe: Pipe) -> None:
    lines = Lines()
    os.close(pipe.reading)
    lines.put("x")
    lines.put("y")
    assert not lines._stuck
    pipe.reading = os.open(os.devnull, os.O_RDONLY)


def test_a_forked_process_has_a_thread_of_its_own(pipe: Pipe) -> None:
    lines = Lines()
    lines.put("parent")
    child = os.fork()
    if child == 0:
        lines.put("child")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert os.read(pipe.reading, 100) == b"parent\nchild\n"


@pytest.mark.parametrize("stream", [None, object()])
def test_without_a_standard_error_lines_go_nowhere(monkeypatch: pytest.MonkeyPatch, stream: object) -> None:
    monkeypatch.setattr(lines_module, "sys", SimpleNamespace(stderr=stream))
    lines = Lines()
    lines.put("x")
    assert not lines._stuck
