"""How much of a long test to run: a few per cent in the daily run, everything in `make acceptance`.

@pytest.mark.acceptance
def test_honest_clients_are_never_logged_out():
    for _ in range(volume(1_000)):
        ...
"""

from __future__ import annotations

import os

VARIABLE = "QIMEM_TEST_VOLUME"


def volume(full: int, *, share: float = 0.02, least: int = 1) -> int:
    """How often to repeat.

    Args:
        full: The count of the acceptance run.
        share: The part of it that the daily run does.
        least: Never fewer than this.
    """
    return full if os.environ.get(VARIABLE) == "full" else max(least, int(full * share))
