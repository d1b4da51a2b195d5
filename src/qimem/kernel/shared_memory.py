"""Memory that all workers of a server share: files without a place, inherited by number."""

from __future__ import annotations

import os
import tempfile
from typing import NamedTuple


class SharedMemory(NamedTuple):
    """Descriptors, the same in each worker.

    Args:
        windows: Where requests are counted for the rate limits.
        metrics: Where each worker tells how it is.
    """

    windows: int
    metrics: int


def memory_file(name: str, size: int) -> int:
    """A descriptor of so many zeros. They take no memory until they are written to.

    Args:
        name: For who looks at the process.
        size: Bytes.

    Raises:
        OSError: the system has no memory for it.
    """
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create(f"qimem-{name}")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor
