"""What the figures were measured on, without a name of the machine or a path on it."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import version
from pathlib import Path

import apsw
import psutil

from bench.load import wrk_version

PACKAGES = (
    "uvicorn", "uvloop", "httptools", "msgspec", "cryptography", "argon2-cffi", "apsw", "sqlalchemy", "joserfc",
)  # fmt: skip
MEMORY_FILE_SYSTEMS = frozenset({"tmpfs", "ramfs", "devtmpfs"})
BUSY_PERCENT_MAX = 15.0
_LOOK_SECONDS = 0.5


def describe(directory: Path) -> dict[str, str | int | float]:
    """The machine, the software, and the file system that the databases lie on."""
    return {
        "cores": os.cpu_count() or 1,
        "processor": _processor(),
        "architecture": platform.machine(),
        "memory_mb": round(psutil.virtual_memory().total / 1e6),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "sqlite": apsw.sqlite_lib_version(),
        "wrk": wrk_version(),
        "file_system": file_system(directory),
        "busy_percent": psutil.cpu_percent(_LOOK_SECONDS),
    } | {package: version(package) for package in PACKAGES}


def slug(description: dict[str, str | int | float]) -> str:
    """A short name of such machines, for file names."""
    processor = re.sub(r"\(r\)|\(tm\)|processor|cpu|@.*", " ", str(description["processor"]).lower())
    words = re.sub(r"[^a-z0-9]+", "-", processor).strip("-")
    return f"{description['cores']}x-{words or description['architecture']}"[:48].rstrip("-")


def file_system(directory: Path) -> str:
    """Type of the file system a directory is on."""
    where = directory.resolve()
    mounts = {Path(found.mountpoint): found.fstype for found in psutil.disk_partitions(all=True)}
    return next((mounts[parent] for parent in (where, *where.parents) if parent in mounts), "unknown")


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()
