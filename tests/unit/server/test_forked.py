"""A forked child, with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import psutil
import pytest

from qimem.server.forked import Forked
from tests.support.processes import alive, eventually


def _sleep() -> int:
    time.sleep(60)
    return 0


def _leave(code: int | str | None) -> Callable[[], int]:
    return lambda: sys.exit(code)


def _fail() -> int:
    raise ValueError("not like this")


@pytest.mark.parametrize(
    ("run", "code"),
    [
        (lambda: 0, 0),
        (lambda: 78, 78),
        (_leave(3), 3),
        (_leave("with a word"), 1),
        (_leave(None), 0),
        (_fail, 1),
        (lambda: os.kill(os.getpid(), signal.SIGKILL) or 0, -signal.SIGKILL),
    ],
)
def test_its_end_is_told_as_of_any_process(run: Callable[[], int], code: int) -> None:
    child = Forked(run)
    assert child.wait(5) == code
    # A second look finds no process and must not ask the system for one.
    assert child.poll() == code
    assert not psutil.pid_exists(child.pid)


def only_here(run: Callable[[], int]) -> Forked:
    """A child that ends with a code of its own if the parent's program goes on in it."""
    here = os.getpid()
    try:
        return Forked(run)
    finally:
        if os.getpid() != here:
            os._exit(99)


def test_the_parents_program_never_goes_on_in_it() -> None:
    child = only_here(_fail)
    assert child.wait(5) == 1


def test_a_failure_is_said_on_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    Forked(_fail).wait(5)
    assert "ValueError: not like this" in capfd.readouterr().err


def test_it_reads_nothing_and_writes_beside_its_parents_output(capfd: pytest.CaptureFixture[str]) -> None:
    def run() -> int:
        os.write(1, b"said" + os.read(0, 10))
        return 0

    assert Forked(run).wait(5) == 0
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "said")


def test_while_it_runs_it_has_no_exit_code_and_a_wait_ends_in_time() -> None:
    child = Forked(_sleep)
    assert child.poll() is None
    began = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.1)
    assert 0.1 <= time.monotonic() - began < 1
    child.kill()
    assert child.wait() == -signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finds_no_handler_of_its_parent(number: signal.Signals) -> None:
    caught: list[int] = []
    before = signal.signal(number, lambda *_: caught.append(os.getpid()))
    try:
        for _ in range(50):
            child = Forked(_sleep)
            # Sent at once: its first instruction may come later.
            child.send_signal(number)
            assert child.wait(5) == -number
    finally:
        signal.signal(number, before)
    assert caught == []


def test_the_parent_keeps_its_handlers_and_its_signal_mask() -> None:
    caught: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda *_: caught.append(os.getpid()))
    try:
        child = Forked(_sleep)
        os.kill(os.getpid(), signal.SIGTERM)
        eventually(lambda: caught == [os.getpid()])
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {signal.SIGTERM, signal.SIGINT} == set()
    finally:
        signal.signal(signal.SIGTERM, before)
        child.kill()
        child.wait()


def test_no_signal_is_sent_to_a_number_that_is_free_again() -> None:
    child = Forked(lambda: 0)
    child.wait(5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "kill", lambda *_: pytest.fail("whose process is that?"))
        child.kill()
        child.send_signal(signal.SIGTERM)


def test_it_lives_until_it_ends() -> None:
    child = Forked(_sleep)
    assert alive(child.pid)
    child.kill()
    eventually(lambda: not alive(child.pid))
    child.wait()


@pytest.mark.parametrize("run", [lambda: 7, _fail], ids=["returns", "fails"])
@pytest.mark.parametrize("stderr", ["broken", "absent"])
def test_it_ends_also_where_nothing_can_be_said(run: Callable[[], int], stderr: str) -> None:
    def unheard() -> int:
        reading, writing = os.pipe()
        os.close(reading)
        sys.stderr = os.fdopen(writing, "w") if stderr == "broken" else None
        if sys.stderr is not None:
            sys.stderr.write("said to nobody")
        return run()

    child = only_here(unheard)
    assert child.wait(5) == (7 if run is not _fail else 1)


def test_where_the_system_keeps_no_exit_codes_its_end_is_seen() -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        child = Forked(_sleep)
        assert child.poll() is None
        child.kill()
        assert child.wait(5) == 0
        child.kill()
    finally:
        signal.signal(signal.SIGCHLD, before)
