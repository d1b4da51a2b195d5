"""What a running server denies to others, seen from outside: with one worker and with two.

The server runs without capabilities and so does whoever looks: root could always look.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

from tests.support.cli import PROGRAM, clean_environment
from tests.support.processes import eventually
from tests.support.server import Server

T = TypeVar("T")

PR_CAPBSET_DROP = 24
CAPABILITIES = 64
LOOKS = {
    "environment": "cat /proc/{pid}/environ",
    "memory map": "cat /proc/{pid}/maps",
    "open files": "readlink /proc/{pid}/fd/0",
    "memory": "head -c 0 /proc/{pid}/mem",
}
ORDINARY = "import time; print('up', flush=True); time.sleep(60)"


def without_capabilities(start: Callable[[], T]) -> T:
    """Call in a thread whose children have no capabilities, as those of an ordinary user."""
    results: list[T] = []

    def run() -> None:
        # Capabilities belong to a thread: the others of this process keep theirs.
        for capability in range(CAPABILITIES):
            ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
        results.append(start())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return results[0]


@contextmanager
def careless_surroundings(directory: Path) -> Iterator[None]:
    """Files are open to all by default, cores are wanted, and land in this directory."""
    umask, where, (soft, hard) = os.umask(0), Path.cwd(), resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    os.chdir(directory)
    try:
        yield
    finally:
        os.chdir(where)
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))
        os.umask(umask)


@pytest.fixture(params=[1, 2], ids=["1 worker", "2 workers"], scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("hardened")
    (directory / "cwd").mkdir()
    server = Server(directory, workers=request.param)
    with careless_surroundings(directory / "cwd"):
        without_capabilities(server.start)
    yield server
    server.stop()


def family(server: Server) -> list[int]:
    """The processes of the server: the main one, then its workers."""
    main = psutil.Process(server.process.pid)
    children = [child.pid for child in main.children()]
    # A single worker is the main process, and the one child is who writes its audit log.
    assert len(children) == server.workers
    return [main.pid, *children]


def looks(pid: int) -> dict[str, int]:
    """How each attempt of an ordinary user to look into a process ended: 0 is success."""

    def look(command: str) -> int:
        line = command.format(pid=pid).split()
        return subprocess.run(line, capture_output=True, check=False).returncode

    return without_capabilities(lambda: {what: look(command) for what, command in LOOKS.items()})


def open_to_others(directory: Path) -> list[str]:
    return [path.name for path in directory.rglob("*") if path.lstat().st_mode & 0o077]


def test_nobody_of_the_same_user_looks_into_a_process(server: Server) -> None:
    for pid in family(server):
        assert 0 not in looks(pid).values()


def test_an_ordinary_process_can_be_looked_into() -> None:
    """The control: it is the server that prevents it."""
    command = [sys.executable, "-c", ORDINARY]
    process = without_capabilities(
        lambda: subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    )
    assert process.stdout.readline() == b"up\n"
    assert set(looks(process.pid).values()) == {0}
    process.kill()
    process.communicate()


def test_every_process_makes_private_files_and_no_core(server: Server) -> None:
    for pid in family(server):
        assert "Umask:\t0077" in Path(f"/proc/{pid}/status").read_text()
        assert psutil.Process(pid).rlimit(psutil.RLIMIT_CORE) == (0, 0)


def test_everything_it_makes_is_private(server: Server) -> None:
    assert {path.name for path in server.data.iterdir()} == {
        "audit",
        "qimem.db",
        "qimem.db-wal",
        "qimem.db-shm",
    }
    assert not open_to_others(server.data)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in server.directory.glob("data*")}
    assert modes == {"data": 0o700, "data.root.key": 0o600, "data.credentials.json": 0o600}


def test_directories_on_the_way_are_private_too(tmp_path: Path) -> None:
    data, key = tmp_path / "a" / "b" / "data", tmp_path / "keys" / "deep" / "root"
    command = [*PROGRAM, "init", "--data-dir", str(data), "--root-key-file", str(key)]
    subprocess.run(command, env=clean_environment(), umask=0, check=True, capture_output=True)
    assert key.exists()
    assert not open_to_others(tmp_path)


def test_an_aborted_server_leaves_no_core(tmp_path: Path) -> None:
    server = Server(tmp_path / "home")
    for place in (server.directory, tmp_path / "cwd"):
        place.mkdir()
    with careless_surroundings(tmp_path / "cwd"):
        server.start()
    assert aborted(server.process.pid) == os.CLD_KILLED
    server.kill()
    assert not list((tmp_path / "cwd").iterdir())
    assert not list(tmp_path.rglob("core*"))


def test_an_aborted_worker_leaves_no_core(tmp_path: Path) -> None:
    server = Server(tmp_path / "home", workers=2)
    for place in (server.directory, tmp_path / "cwd"):
        place.mkdir()
    with careless_surroundings(tmp_path / "cwd"):
        server.start()
    os.kill(family(server)[-1], signal.SIGABRT)
    eventually(lambda: '"exit_code": -6' in server.log.read_text(), seconds=30)
    assert server.stop() == 0
    assert not list((tmp_path / "cwd").iterdir())
    assert not list(tmp_path.rglob("core*"))


def test_an_aborted_ordinary_process_leaves_one(tmp_path: Path) -> None:
    """The control: in these surroundings a core is made."""
    with careless_surroundings(tmp_path):
        process = subprocess.Popen([sys.executable, "-c", ORDINARY], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"up\n"
    assert aborted(process.pid) == os.CLD_DUMPED
    process.communicate()


def aborted(pid: int) -> int:
    """Abort a child; whether the system says that it was killed, or killed and dumped."""
    os.kill(pid, signal.SIGABRT)
    ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert ended.si_status == signal.SIGABRT
    return ended.si_code
