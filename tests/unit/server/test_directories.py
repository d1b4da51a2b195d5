"""The data directory is private, or not used."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from qimem.config.load import load
from qimem.kernel.refusal import Refused
from qimem.server.directories import in_memory, make_private, sole_preparer


def test_a_new_directory_is_private(tmp_path: Path) -> None:
    make_private(tmp_path / "a" / "data")
    assert (tmp_path / "a" / "data").stat().st_mode & 0o777 == 0o700


def test_an_empty_directory_of_ours_is_made_private(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o755)
    make_private(tmp_path / "data")
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("bits", [0o050, 0o020, 0o005, 0o002, 0o001])
def test_data_open_to_others_is_refused(tmp_path: Path, bits: int) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "qimem.db").touch()
    (tmp_path / "data").chmod(0o700 | bits)
    with pytest.raises(Refused, match="open to others") as caught:
        make_private(tmp_path / "data")
    assert caught.value.hint == f"chmod 700 {tmp_path}/data"


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    with pytest.raises(Refused, match="not a directory"):
        make_private(tmp_path / "data")


def test_the_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to give a directory away")
    (tmp_path / "data").mkdir(mode=0o700)
    os.chown(tmp_path / "data", 65534, 65534)
    with pytest.raises(Refused, match="another user"):
        make_private(tmp_path / "data")


def test_an_impossible_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Refused, match="cannot make"):
        make_private(tmp_path / "file" / "data")


def test_only_one_process_prepares(tmp_path: Path) -> None:
    with sole_preparer(tmp_path):
        other = os.open(tmp_path, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)


def test_memory_is_private_apart_from_real_data_and_gone_afterwards(tmp_path: Path) -> None:
    settings = load({"server.data_dir": str(tmp_path)}, {"DATABASE_URL": "postgresql://h/d"}).settings
    with in_memory(settings) as memory:
        data = memory.server.data_dir
        assert data.parent.stat().st_mode & 0o777 == 0o700
        assert not data.is_relative_to(tmp_path)
        assert (memory.database.mode, memory.database.url) == ("stateless", None)
        make_private(data)
    assert not data.parent.exists()
