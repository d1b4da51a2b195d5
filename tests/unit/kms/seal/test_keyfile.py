"""The key file: made once and whole, and refused as soon as others could have read or replaced it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qimem.kernel.refusal import Refused
from qimem.kms.seal.custody import keys_at
from qimem.kms.seal.keyfile import KeyFileSeal


def sealed(tmp_path: Path, content: bytes = bytes(range(32)), mode: int = 0o600) -> KeyFileSeal:
    path = tmp_path / "data.root.key"
    path.write_bytes(content)
    path.chmod(mode)
    return KeyFileSeal(path)


def test_a_made_key_is_private_and_read_back(tmp_path: Path) -> None:
    seal = KeyFileSeal(tmp_path / "data.root.key")
    assert not seal.exists()
    key = seal.create()
    assert seal.path.stat().st_mode & 0o7777 == 0o600
    assert seal.path.stat().st_nlink == 1
    assert seal.path.read_bytes() == bytes(key.reveal())
    assert seal.load().equals(key.reveal())
    assert len(set(key.reveal())) > 8
    assert os.listdir(tmp_path) == ["data.root.key"]


def test_two_keys_differ(tmp_path: Path) -> None:
    assert not KeyFileSeal(tmp_path / "a").create().equals(KeyFileSeal(tmp_path / "b").create().reveal())


@pytest.mark.parametrize("what", ["file", "dangling link", "directory"])
def test_a_taken_name_is_never_overwritten(tmp_path: Path, what: str) -> None:
    path = tmp_path / "data.root.key"
    {
        "file": lambda: path.write_bytes(b"k" * 32),
        "dangling link": lambda: path.symlink_to(tmp_path / "elsewhere"),
        "directory": path.mkdir,
    }[what]()
    assert KeyFileSeal(path).exists()
    with pytest.raises(Refused, match="exists already"):
        KeyFileSeal(path).create()
    assert os.listdir(tmp_path) == ["data.root.key"]


def test_the_key_is_on_disk_with_its_name_before_it_is_used(tmp_path: Path, monkeypatch) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    KeyFileSeal(tmp_path / "data.root.key").create()
    assert Path(synced[0]).parent == tmp_path
    assert synced[1] == str(tmp_path)


def test_a_crash_while_writing_leaves_no_key_and_the_next_attempt_works(tmp_path: Path, monkeypatch) -> None:
    seal = KeyFileSeal(tmp_path / "data.root.key")
    (tmp_path / f".data.root.key.{os.getpid()}").write_bytes(b"half")
    monkeypatch.setattr(
        os, "link", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(Refused, match="No space left"):
        seal.create()
    assert os.listdir(tmp_path) == []
    monkeypatch.undo()
    assert len(seal.create()) == 32


def test_an_unwritable_place_names_the_flag(tmp_path: Path) -> None:
    with pytest.raises(Refused) as caught:
        KeyFileSeal(tmp_path / "none" / "key").create()
    assert "--root-key-file" in caught.value.hint


def test_a_place_that_others_fill_stays_untouched(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no root key"):
        KeyFileSeal(tmp_path / "key", creatable=False).create()
    assert os.listdir(tmp_path) == []


def test_a_missing_key_is_told_as_missing(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="is missing") as caught:
        KeyFileSeal(tmp_path / "key").load()
    assert "--root-key-file" in caught.value.hint


@pytest.mark.parametrize("length", [0, 1, 31, 33, 64, 4096])
def test_a_key_of_another_length_is_refused(tmp_path: Path, length: int) -> None:
    with pytest.raises(Refused, match="does not hold 32 bytes"):
        sealed(tmp_path, b"k" * length).load()


@pytest.mark.parametrize("bits", [0o040, 0o020, 0o010, 0o004, 0o002, 0o001])
def test_a_key_open_to_others_in_any_way_is_refused(tmp_path: Path, bits: int) -> None:
    with pytest.raises(Refused, match="open to others") as caught:
        sealed(tmp_path, mode=0o600 | bits).load()
    assert "chmod 600" in caught.value.hint


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    target = sealed(tmp_path)
    link = tmp_path / "link"
    link.symlink_to(target.path)
    with pytest.raises(Refused, match="symbolic link"):
        KeyFileSeal(link).load()


def test_a_directory_or_pipe_is_no_key(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="not a plain file"):
        KeyFileSeal(tmp_path).load()
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(Refused, match="not a plain file"):
        KeyFileSeal(tmp_path / "pipe").load()


def test_the_key_of_another_user_is_refused(tmp_path: Path, monkeypatch) -> None:
    seal = sealed(tmp_path)
    if os.geteuid() == 0:
        os.chown(seal.path, 65534, 65534)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 4_000_000)
    with pytest.raises(Refused, match="another user"):
        seal.load()


def test_root_may_own_the_key_of_a_service(tmp_path: Path, monkeypatch) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs a file that root owns")
    seal = sealed(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert len(seal.load()) == 32


def test_the_key_never_stands_in_a_message(tmp_path: Path) -> None:
    with pytest.raises(Refused) as caught:
        sealed(tmp_path, b"SUPERSECRETROOTKEYMATERIAL", mode=0o600).load()
    assert "SUPERSECRET" not in caught.value.message + (caught.value.hint or "")


# --- the next one -----------------------------------------------------------------------------


def test_the_next_key_waits_beside_this_one_and_takes_its_name(tmp_path: Path) -> None:
    seal = sealed(tmp_path)
    seal.make_successor()
    assert seal.successor.path == tmp_path / "data.root.key.next"
    assert seal.successor.path.stat().st_mode & 0o7777 == 0o600
    new = seal.successor.path.read_bytes()
    assert new != bytes(range(32))
    seal.succeed()
    assert seal.path.read_bytes() == new
    assert os.listdir(tmp_path) == ["data.root.key"]


def test_a_successor_is_never_overwritten(tmp_path: Path) -> None:
    seal = sealed(tmp_path)
    seal.make_successor()
    waiting = seal.successor.path.read_bytes()
    with pytest.raises(Refused, match="exists already"):
        seal.make_successor()
    assert seal.successor.path.read_bytes() == waiting
    assert seal.load().equals(bytes(range(32)))


def test_without_a_successor_the_key_stays(tmp_path: Path) -> None:
    seal = sealed(tmp_path)
    with pytest.raises(Refused, match="cannot put"):
        seal.succeed()
    assert seal.load().equals(bytes(range(32)))
    with pytest.raises(Refused, match="cannot write"):
        seal.successor.make_durable()


def test_what_an_operator_put_there_is_on_the_disk_before_it_is_used(tmp_path: Path, monkeypatch) -> None:
    synced = []
    sync = os.fsync

    def noting(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    sealed(tmp_path).make_durable()
    assert synced == [tmp_path / "data.root.key", tmp_path]


def test_the_next_key_belongs_to_whom_this_one_does(tmp_path: Path, monkeypatch) -> None:
    """The service is another user than root, who rotates."""
    seal, given = sealed(tmp_path), []
    monkeypatch.setattr(os, "fchown", lambda _, uid, gid: given.append((uid, gid)))
    monkeypatch.setattr(os, "geteuid", lambda: 4_242)
    seal.make_successor()
    status = seal.path.stat()
    assert given == [(status.st_uid, status.st_gid)]


def test_custody_shows_the_next_key_first_and_passes_over_what_is_not_fit(tmp_path: Path) -> None:
    seal = sealed(tmp_path)
    assert [bytes(key.reveal()) for key in keys_at(seal)] == [bytes(range(32))]
    seal.successor.path.write_bytes(b"n" * 32)
    seal.successor.path.chmod(0o600)
    assert [bytes(key.reveal()) for key in keys_at(seal)] == [b"n" * 32, bytes(range(32))]
    seal.successor.path.chmod(0o644)
    assert [bytes(key.reveal()) for key in keys_at(seal)] == [bytes(range(32))]
    seal.path.unlink()
    assert list(keys_at(seal)) == []
