"""What it takes for a new file to be there after a power cut: its content, and its name."""

from __future__ import annotations

import os
from pathlib import Path


def sync_directory(directory: Path) -> None:
    """Make the names in a directory survive a power cut.

    Raises:
        OSError: The disk refuses; whether the names survive is not known.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
