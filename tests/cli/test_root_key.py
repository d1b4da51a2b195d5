"""`qimem root-key`: what it prints, and how it ends."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.broken_server import broken
from tests.support.cli import Done, qimem


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """An installation without a server."""
    assert qimem("init", "--data-dir", tmp_path / "data", "-o", "json").code == 0
    return tmp_path / "data"


def doctor(data: Path) -> dict[str, tuple[str, str]]:
    found = qimem("doctor", "--data-dir", data, "-o", "json").json
    return {one["check"]: (one["state"], one["advice"]) for one in found if "root key" in one["check"]}


def cut_off(data: Path, tmp_path: Path) -> Done:
    """A rotation that ends between its beginning and its end."""
    return qimem("root-key", "rotate", "--data-dir", data, **broken(tmp_path, "dies_in_the_rotation"))


def test_a_rotation_tells_the_generation_and_where_the_key_is(data: Path) -> None:
    old = Path(f"{data}.root.key").read_bytes()
    done = qimem("root-key", "rotate", "--data-dir", data, "-o", "json")
    assert (done.code, done.err) == (0, "")
    assert done.json == {
        "generation": 2,
        "rewrapped": 1,
        "root_key_file": f"{os.path.realpath(data)}.root.key",
    }
    assert Path(f"{data}.root.key").read_bytes() != old
    status = qimem("root-key", "status", "--data-dir", data, "-o", "json").json
    assert status == [{"number": 2, "in_force": True, "keys": 1, "at_hand": True}]
    assert doctor(data)["root key match"][0] == "ok"
    assert "root key rotation" not in doctor(data)


def test_one_that_was_cut_off_is_told_and_ends_when_repeated(data: Path, tmp_path: Path) -> None:
    assert cut_off(data, tmp_path).code == -9
    status = qimem("root-key", "status", "--data-dir", data, "-o", "json").json
    assert [(one["number"], one["in_force"], one["keys"], one["at_hand"]) for one in status] == [
        (2, True, 0, True),
        (1, False, 1, True),
    ]
    assert doctor(data)["root key rotation"] == ("warn", "qimem root-key rotate")
    assert doctor(data)["root key match"][0] == "ok"
    assert qimem("root-key", "rotate", "--data-dir", data).code == 0
    assert "root key rotation" not in doctor(data)


def test_a_key_that_is_missing_meanwhile_is_told(data: Path, tmp_path: Path) -> None:
    assert cut_off(data, tmp_path).code == -9
    Path(f"{data}.root.key.next").unlink()
    state, advice = doctor(data)["root key match"]
    assert (state, "<file>.next" in advice) == ("fail", True)
    refused = qimem("root-key", "rotate", "--data-dir", data)
    assert (refused.code, refused.out) == (78, "")
    assert "--new-root-key-file" in refused.err
    status = qimem("root-key", "status", "--data-dir", data, "-o", "json").json
    assert [one["at_hand"] for one in status] == [False, True]


def test_without_an_installation_nothing_is_made(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o700)
    for verb in ("rotate", "status"):
        done = qimem("root-key", verb, "--data-dir", tmp_path / "data")
        assert (done.code, done.out) == (78, "")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["data"]


@pytest.mark.parametrize("content", [b"", b"x" * 31, b"x" * 64])
def test_a_new_key_of_another_length_is_refused(data: Path, tmp_path: Path, content: bytes) -> None:
    new = tmp_path / "new.key"
    new.write_bytes(content)
    new.chmod(0o600)
    before = Path(f"{data}.root.key").read_bytes()
    done = qimem("root-key", "rotate", "--data-dir", data, "--new-root-key-file", new)
    assert (done.code, "32 bytes" in done.err) == (78, True)
    assert Path(f"{data}.root.key").read_bytes() == before
