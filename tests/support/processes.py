"""Waiting for what other processes do, and asking them over plain HTTP."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable


def eventually(condition: Callable[[], bool], *, seconds: float = 10) -> None:
    """Wait until it holds; fail when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass in time"
        time.sleep(0.02)


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
