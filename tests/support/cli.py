"""Runs `qimem` as people do: a process of its own, with its own directory and environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRAM = (sys.executable, "-m", "qimem")


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def clean_environment(**more: str) -> dict[str, str]:
    """The environment without what would configure the server."""
    names = ("QIMEM_", "DATABASE_URL", "CREDENTIALS_DIRECTORY")
    return {name: value for name, value in os.environ.items() if not name.startswith(names)} | more


def qimem(*arguments: str | Path, cwd: Path | None = None, stdin: str = "", **environment: str) -> Done:
    """Run one command to its end."""
    done = subprocess.run(
        [*PROGRAM, *map(str, arguments)],
        cwd=cwd, input=stdin, env=clean_environment(**environment), capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    return Done(done.returncode, done.stdout, done.stderr)
