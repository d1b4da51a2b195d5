"""Shims before the C library: C files of this directory, compiled once for each run with `cc`."""

from __future__ import annotations

import atexit
import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

_SOURCES = Path(__file__).parent


@cache
def shim(name: str) -> Path:
    """The shared object for LD_PRELOAD; several are given with a colon between them."""
    place = Path(mkdtemp(prefix=f"{name}-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    made, source = place / f"{name}.so", _SOURCES / f"{name}.c"
    command = ["cc", "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-o", made, source, "-ldl"]
    subprocess.run(command, check=True)
    return made
