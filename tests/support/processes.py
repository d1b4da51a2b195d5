"""Waiting for what other processes do, and asking them over plain HTTP."""

from __future__ import annotations

import contextlib
import time
import urllib.request
from collections.abc import Callable

import psutil


def eventually(condition: Callable[[], bool], *, seconds: float = 10) -> None:
    """Wait until it holds; fail when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass in time"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether the process still does anything; who is dead may wait long for its parent to ask."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill_tree(pid: int) -> None:
    """kill -9 of a process and all that it started, and wait until they hold nothing any more."""
    family = []
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    eventually(lambda: not any(alive(process.pid) for process in family))


def get(url: str) -> bytes:
    """GET over a connection of its own, once more if the worker died meanwhile."""
    for attempt in range(50):
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.read()
        except OSError:
            if attempt == 49:
                raise
            time.sleep(0.02)
    raise AssertionError
