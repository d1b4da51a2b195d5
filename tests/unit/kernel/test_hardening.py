"""Hardening, seen from outside the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import eventually

WAIT = "import sys; print('up', flush=True); sys.stdin.read()"
HARDENED = "from qimem.kernel.hardening import harden; harden(); " + WAIT


def spawn(code: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "up\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.communicate("")


@pytest.mark.parametrize(("code", "owner"), [(HARDENED, 0), (WAIT, None)])
def test_a_hardened_process_belongs_to_root_in_proc(code: str, owner: int | None) -> None:
    # proc(5): the entries of a process that may not be dumped belong to root, so its own user gets EPERM.
    # A change of user makes a process undumpable too; that is taken back, so that only harden() counts.
    user = 65534 if os.geteuid() == 0 else os.geteuid()
    become = (
        "import ctypes, os; import qimem.kernel.hardening; "
        f"os.setuid({user}); ctypes.CDLL(None).prctl(4, 1, 0, 0, 0); "
    )
    process = spawn(become + code)
    try:
        expected = user if owner is None else owner
        assert Path(f"/proc/{process.pid}/mem").lstat().st_uid == expected
    finally:
        end(process)


def test_no_core_files_and_private_files() -> None:
    process = spawn(HARDENED)
    try:
        limits = Path(f"/proc/{process.pid}/limits").read_text()
        assert "Max core file size        0                    0 " in limits
        assert "Umask:\t0077" in Path(f"/proc/{process.pid}/status").read_text()
    finally:
        end(process)


def test_a_child_dies_with_its_parent() -> None:
    child = (
        "import os; from qimem.kernel.hardening import die_with; die_with(os.getppid()); "
        "print(os.getpid(), flush=True); import time; time.sleep(60)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    pid = int(parent.stdout.readline())
    os.kill(parent.pid, signal.SIGKILL)
    parent.communicate()
    eventually(
        lambda: not Path(f"/proc/{pid}").exists() or "zombie" in Path(f"/proc/{pid}/status").read_text()
    )


def test_an_orphan_does_not_begin() -> None:
    code = "from qimem.kernel.hardening import die_with; die_with(1 << 21); print('began')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")


def test_a_hardened_process_may_open_as_many_files_as_it_can_be_allowed() -> None:
    code = (
        "import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (256, 2048)); "
        "from qimem.kernel.hardening import harden; harden(); print(r.getrlimit(r.RLIMIT_NOFILE))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "(2048, 2048)\n"


@pytest.mark.skipif(sys.platform != "linux", reason="/proc shows what a process was given")
@pytest.mark.parametrize(
    ("erased", "left"), [("['GIVEN_SECRET']", b"GIVEN_OTHER=b"), ("['ABSENT']", b"GIVEN_SECRET=a")]
)
def test_an_erased_variable_is_gone_from_what_the_system_shows(erased: str, left: bytes) -> None:
    code = (
        "import os; from qimem.kernel.hardening import erase_variables; "
        f"erase_variables({erased}); assert os.environ['GIVEN_SECRET'] == 'a long one'; " + WAIT
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"GIVEN_SECRET": "a long one", "GIVEN_OTHER": "b"},
    )
    try:
        assert process.stdout.readline() == "up\n"
        shown = Path(f"/proc/{process.pid}/environ").read_bytes()
        assert left in shown
        assert (b"a long one" in shown) == (erased == "['ABSENT']")
    finally:
        end(process)
