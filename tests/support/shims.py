"""C files of this directory, compiled once for each run with `cc`: shims before the C library, and programs."""

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
    return _compiled(name, f"{name}.so", "-shared", "-fPIC")


@cache
def program(name: str) -> Path:
    """The executable."""
    return _compiled(name, name)


def _compiled(name: str, made: str, *options: str) -> Path:
    place = Path(mkdtemp(prefix=f"{name}-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    command = ["cc", *options, "-O2", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([*command, "-o", place / made, _SOURCES / f"{name}.c", "-ldl"], check=True)
    return place / made
