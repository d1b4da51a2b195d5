"""Servers as child processes: started, watched and ended by their process id."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import psutil

from bench.figures import RunRefused

ROOT = Path(__file__).resolve().parent.parent
UNAUDITED = ROOT / "bench" / "unaudited"
READY_SECONDS = 60.0
STOP_SECONDS = 15.0
RUN_SECONDS = 600.0
_QUIET_CPU_SECONDS = 0.005
"""Less than a tick of the kernel's clock: none."""
_QUIET_LOOK_SECONDS = 0.05
_QUIET_LIMIT_SECONDS = 15.0


class Server:
    """A program that prints `ready http://…` once it serves.

    Args:
        name: For messages and the log file.
        command: What to run, in `directory`, so that no configuration file of someone else is read.
        directory: Where its log goes.
        before: Directories to import from before any other.
        cores: The one it runs on, and the one its load runs on; None leaves both to the system.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        directory: Path,
        *before: Path,
        cores: tuple[int, int] | None = None,
    ) -> None:
        self.name = name
        self.cores = cores
        self._before = before
        self.url = ""
        self.start_seconds = 0.0
        self._command = list(command)
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.url.rpartition(":")[2])

    @property
    def pid(self) -> int:
        """The process that was started."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> Self:
        """Run it and wait until it is ready.

        Raises:
            RunRefused: it ended or stayed silent.
        """
        started = time.perf_counter()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*_dying_with_us(), *on_core(self.cores and self.cores[0]), *self._command],
                cwd=self._directory,
                env=environment(*self._before),
                stdout=subprocess.PIPE,
                stderr=log,
            )
        try:
            self.url = self._await_ready(started + READY_SECONDS)
        except BaseException:
            self.stop()
            raise
        self.start_seconds = time.perf_counter() - started
        return self

    def stop(self) -> None:
        """SIGTERM, and SIGKILL when it does not end in time."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def cpu(self) -> dict[int, float]:
        """User and system seconds so far of each process of the tree, by process id."""
        found = {}
        try:
            for process in self._tree():
                times = process.cpu_times()
                found[process.pid] = times.user + times.system
        except psutil.NoSuchProcess as error:
            raise RunRefused(f"{self.name}: a process ended: {self.last_words()}") from error
        return found

    def worker_memory(self) -> list[float]:
        """Resident MB (10^6 bytes) of each process that serves: the workers, or the one there is.

        The small process beside each, which writes its log, is not in it.
        """
        root, *workers = (process for process in self._tree() if "qimem.audit.disk" not in process.cmdline())
        return [process.memory_info().rss / 1e6 for process in workers or [root]]

    def settle(self) -> None:
        """Wait until it has done what a finished load left behind.

        Raises:
            RunRefused: it does not come to rest.
        """
        deadline = time.monotonic() + _QUIET_LIMIT_SECONDS
        before = sum(self.cpu().values())
        while time.monotonic() < deadline:
            time.sleep(_QUIET_LOOK_SECONDS)
            now = sum(self.cpu().values())
            if now - before <= _QUIET_CPU_SECONDS:
                return
            before = now
        raise RunRefused(f"{self.name} is busy {_QUIET_LIMIT_SECONDS:.0f} s after its load ended")

    @property
    def _log(self) -> Path:
        return self._directory / f"{self.name}.log"

    def _tree(self) -> list[psutil.Process]:
        root = psutil.Process(self.pid)
        return [root, *root.children(recursive=True)]

    def _await_ready(self, deadline: float) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        descriptor, said = self._process.stdout.fileno(), b""
        while time.perf_counter() < deadline:
            if not select.select([descriptor], [], [], 0.5)[0]:
                continue
            more = os.read(descriptor, 65536)
            if not more:
                raise RunRefused(f"{self.name} did not start: {self.last_words()}")
            said += more
            for line in said.decode().splitlines(keepends=True):
                if line.startswith("ready ") and line.endswith("\n"):
                    return line.split()[1]
        raise RunRefused(f"{self.name} was not ready within {READY_SECONDS:.0f} s")

    def last_words(self) -> str:
        """The end of its log."""
        return self._log.read_text(errors="replace")[-1000:].strip()


def environment(*before: Path) -> dict[str, str]:
    """The environment without what would configure a server.

    Args:
        before: Directories to import from before any other.
    """
    configuring = ("QIMEM_", "DATABASE_URL", "CREDENTIALS_DIRECTORY", "PYTHONDONTWRITEBYTECODE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(configuring)}
    return kept | {"PYTHONPATH": os.pathsep.join(map(str, [*before, ROOT]))}


def run(command: Sequence[str], directory: Path) -> str:
    """Run a program to its end; what it printed.

    Raises:
        RunRefused: it failed.
    """
    done = subprocess.run(
        command,
        cwd=directory,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=RUN_SECONDS,
    )
    if done.returncode != 0:
        raise RunRefused(f"{' '.join(command[1:4])} ended with {done.returncode}: {done.stderr[-500:]}")
    return done.stdout


def _dying_with_us() -> list[str]:
    # Where there is such a program, no server outlives a bench that was killed. It runs the server in its place.
    found = shutil.which("setpriv")
    return [] if found is None else [found, "--pdeathsig", "KILL", "--"]


def on_core(core: int | None) -> list[str]:
    """What has to stand before a command that is to run on this core alone."""
    return [] if core is None else ["taskset", "--cpu-list", str(core)]


def floor(directory: Path, answer: bytes) -> Server:
    """The floor that gives this answer."""
    file = directory / "floor-answer"
    file.write_bytes(answer)
    return Server("floor", [sys.executable, "-m", "bench.floor", str(file)], directory)


class Installation:
    """An installation of the product in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700)
        self.directory = directory
        self.data = directory / "data"
        self._printed = ""

    def server(
        self,
        *,
        workers: int = 1,
        name: str = "qimem",
        audited: bool = True,
        cores: tuple[int, int] | None = None,
    ) -> Server:
        """`qimem serve` on it; the first start makes the installation.

        Args:
            workers: Processes.
            name: For messages and the log file.
            audited: False for a product that records nothing, which exists nowhere else.
            cores: See `Server`.
        """
        command = [
            sys.executable, "-m", "qimem", "serve",
            "--data-dir", str(self.data),
            "--bind", "127.0.0.1:0",
            "--workers", str(workers),
        ]  # fmt: skip
        return Server(name, command, self.directory, *([] if audited else [UNAUDITED]), cores=cores)

    def initialise(self) -> None:
        """`qimem init` on it."""
        command = [sys.executable, "-m", "qimem", "init", "--data-dir", str(self.data), "-o", "json"]
        self._printed = run(command, self.directory)

    @property
    def credentials(self) -> dict[str, Any]:
        """What `qimem init` printed, or the first start wrote."""
        written = self._printed or Path(f"{self.data}.credentials.json").read_text()
        content: dict[str, Any] = json.loads(written)
        return content
