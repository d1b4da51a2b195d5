"""The credentials file."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from qimem.kernel.refusal import Refused
from qimem.kernel.secret import SecretText
from qimem.server.credentials import CredentialsFile, shown


class Made:
    realm_id, client_id, client_secret = "system", "c", SecretText("qcs_x")
    username, password = "admin", SecretText("pw")
    data_dir, root_key_file, external_url = "data", "data.root.key", None


def test_it_is_named_after_the_data_directory(tmp_path: Path) -> None:
    assert CredentialsFile.beside(Path("data/")).path == Path("data.credentials.json")
    assert CredentialsFile.beside(tmp_path / "data").path == Path(f"{tmp_path}/data.credentials.json")


def test_what_is_written_is_private_and_read_back(tmp_path: Path) -> None:
    file = CredentialsFile(tmp_path / "c.json")
    file.reserve()
    file.write(shown(Made(), "http://127.0.0.1:1"))
    assert file.path.stat().st_mode & 0o777 == 0o600
    content = file.read()
    assert list(content) == [
        "realm_id", "client_id", "client_secret", "username", "password", "data_dir", "root_key_file", "external_url",
    ]  # fmt: skip
    assert content["external_url"] == "http://127.0.0.1:1"


def test_a_chosen_password_is_not_shown() -> None:
    made = Made()
    made.password = None
    assert "password" not in shown(made, None)


def test_a_configured_url_wins_over_the_address() -> None:
    made = Made()
    made.external_url = "https://id.example"
    assert shown(made, "http://127.0.0.1:1")["external_url"] == "https://id.example"


def test_existing_credentials_are_never_overwritten(tmp_path: Path) -> None:
    file = CredentialsFile(tmp_path / "c.json")
    file.path.write_text("{}")
    with pytest.raises(Refused, match="exists"):
        file.reserve()
    assert file.path.read_text() == "{}"


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    file = CredentialsFile(tmp_path / "c.json")
    file.path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Refused):
        file.reserve()
    with pytest.raises(Refused):
        file.read()
    assert not (tmp_path / "elsewhere").exists()


def test_a_name_reserved_by_a_crashed_start_is_taken_over(tmp_path: Path) -> None:
    file = CredentialsFile(tmp_path / "c.json")
    file.reserve()
    file.reserve()
    file.abandon()
    assert not file.exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o622])
def test_a_file_open_to_others_is_not_used(tmp_path: Path, mode: int) -> None:
    file = CredentialsFile(tmp_path / "c.json")
    file.path.write_text("{}")
    file.path.chmod(mode)
    with pytest.raises(Refused, match="open to others") as caught:
        file.read()
    assert caught.value.hint == f"chmod 600 {file.path}"


@pytest.mark.parametrize("content", ["", "[]", "{", "null", '"x"'])
def test_something_else_is_not_used(tmp_path: Path, content: str) -> None:
    file = CredentialsFile(tmp_path / "c.json")
    file.path.write_text(content)
    file.path.chmod(0o600)
    with pytest.raises(Refused, match="holds no credentials"):
        file.read()


def test_a_missing_file_names_the_flag(tmp_path: Path) -> None:
    with pytest.raises(Refused) as caught:
        CredentialsFile(tmp_path / "none").read()
    assert "--credentials" in caught.value.hint


def draft_of(file: CredentialsFile) -> Path:
    return file.path.with_name(f".{file.path.name}.new")


def test_what_was_put_aside_gets_its_name_when_it_is_published(tmp_path: Path) -> None:
    file = CredentialsFile(tmp_path / "c.json")
    file.reserve()
    file.prepare({"client_id": "first"})
    file.prepare({"client_id": "second"})
    assert file.prepared() == {"client_id": "second"}
    assert draft_of(file).stat().st_mode & 0o777 == 0o600
    file.publish()
    assert file.read() == {"client_id": "second"}
    assert list(tmp_path.iterdir()) == [file.path]


@pytest.mark.parametrize("content", ["", '{"client_id"', "[]"])
def test_half_of_what_was_put_aside_is_nothing(tmp_path: Path, content: str) -> None:
    file = CredentialsFile(tmp_path / "c.json")
    draft_of(file).write_text(content)
    draft_of(file).chmod(0o600)
    assert file.prepared() is None


def test_what_others_could_write_is_not_taken_for_ours(tmp_path: Path) -> None:
    file = CredentialsFile(tmp_path / "c.json")
    file.prepare({"client_id": "c"})
    draft_of(file).chmod(0o606)
    # Nor for nothing: it may be the only way into the installation.
    with pytest.raises(Refused, match="open to others"):
        file.prepared()


def test_what_was_put_aside_stays_until_the_next_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = CredentialsFile(tmp_path / "c.json")
    file.prepare({"client_id": "c"})

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            file.prepare({"client_id": "c", "external_url": "https://id.example"})
    assert file.prepared() == {"client_id": "c"}
    file.discard()
    assert list(tmp_path.iterdir()) == []


def test_nothing_takes_the_place_of_credentials_that_are_there(tmp_path: Path) -> None:
    file = CredentialsFile(tmp_path / "c.json")
    file.prepare({"client_id": "c"})
    file.path.write_text("{}")
    assert file.prepared() is None


def test_a_link_in_the_place_of_the_draft_is_not_followed(tmp_path: Path) -> None:
    file = CredentialsFile(tmp_path / "c.json")
    draft_of(file).symlink_to(tmp_path / "elsewhere")
    file.prepare({"client_id": "c"})
    assert not (tmp_path / "elsewhere").exists()
    file.discard()
    file.discard()
    assert list(tmp_path.iterdir()) == []
