"""`qimem init`, and what every command refuses to do with keys and data."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from qimem.server.credentials import CredentialsFile
from tests.support.cli import PROGRAM, clean_environment, qimem


def files(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    directory = tmp_path_factory.mktemp("made")
    done = qimem("init", "--data-dir", directory / "data", "-o", "json")
    assert (done.code, done.err) == (0, "")
    return directory, done.json


def copy(made: tuple[Path, dict[str, str]], tmp_path: Path) -> Path:
    subprocess.run(["cp", "-a", f"{made[0]}/.", tmp_path], check=True)
    return tmp_path / "data"


def test_init_prints_exactly_the_documented_fields(made) -> None:
    directory, shown = made
    assert list(shown) == [
        "realm_id", "client_id", "client_secret", "username", "password", "data_dir", "root_key_file", "external_url",
    ]  # fmt: skip
    assert (shown["realm_id"], shown["username"], shown["external_url"]) == ("system", "admin", None)
    assert shown["data_dir"] == f"{directory}/data"
    assert shown["root_key_file"] == f"{directory}/data.root.key"


def test_what_init_made_is_private_and_the_key_lies_beside(made) -> None:
    directory, _ = made
    assert files(directory) == {"data", "data.root.key"}
    assert (directory / "data").stat().st_mode & 0o777 == 0o700
    assert (directory / "data.root.key").stat().st_mode & 0o777 == 0o600
    assert (directory / "data.root.key").stat().st_size == 32
    assert all(path.stat().st_mode & 0o077 == 0 for path in (directory / "data").iterdir())


def test_a_second_init_ends_with_7_and_changes_nothing(made, tmp_path: Path) -> None:
    data = copy(made, tmp_path)
    before = (tmp_path / "data.root.key").read_bytes()
    done = qimem("init", "--data-dir", data)
    assert (done.code, done.out) == (7, "")
    assert done.err == "error: initialised already\nhint: start it with qimem serve\n"
    assert (tmp_path / "data.root.key").read_bytes() == before


def test_a_chosen_operator_is_not_printed_with_a_password(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("correct horse battery\n")
    done = qimem(
        "init", "--data-dir", tmp_path / "data", "--admin-username", "root",
        "--admin-password-file", tmp_path / "password", "-o", "json",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert done.json["username"] == "root"
    assert "password" not in done.json


@pytest.mark.parametrize(
    ("content", "code", "reason"),
    [
        (b"two\nlines\n", 78, "one line"),
        (b"", 78, "one line"),
        (b"\xff\xfe", 78, "UTF-8"),
        (b"short\n", 2, "weak"),
    ],
)
def test_an_unusable_password_makes_no_installation(
    tmp_path: Path, content: bytes, code: int, reason: str
) -> None:
    (tmp_path / "password").write_bytes(content)
    done = qimem("init", "--data-dir", tmp_path / "data", "--admin-password-file", tmp_path / "password")
    assert done.code == code
    assert reason in done.err
    assert qimem("init", "--data-dir", tmp_path / "data", "-o", "json").code == 0


def test_a_named_key_file_is_made_by_init_and_needed_afterwards(tmp_path: Path) -> None:
    key = tmp_path / "keys" / "root"
    done = qimem("init", "--data-dir", tmp_path / "data", "--root-key-file", key, "-o", "json")
    assert done.code == 0, done.err
    assert done.json["root_key_file"] == str(key)
    assert key.stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / "data.root.key").exists()
    without = qimem("serve", "--data-dir", tmp_path / "data", "--bind", "127.0.0.1:0")
    assert without.code == 78
    assert not (tmp_path / "data.root.key").exists()


def test_a_new_key_is_never_made_over_existing_data(made, tmp_path: Path) -> None:
    data = copy(made, tmp_path)
    (tmp_path / "data.root.key").unlink()
    for command in (["serve", "--bind", "127.0.0.1:0"], ["serve", "--bind", "127.0.0.1:0", "--workers", "2"]):
        done = qimem(*command, "--data-dir", data)
        assert done.code == 78
        assert "is missing" in done.err
        assert done.out == ""
        assert files(tmp_path) == {"data"}


@pytest.mark.parametrize("fault", ["wrong key", "short key", "loose key", "loose directory", "linked key"])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_start_on_something_unsound_is_refused_with_advice(
    made, tmp_path: Path, fault: str, workers: str
) -> None:
    data, key = copy(made, tmp_path), tmp_path / "data.root.key"
    match fault:
        case "wrong key":
            key.write_bytes(os.urandom(32))
        case "short key":
            key.write_bytes(b"")
        case "loose key":
            key.chmod(0o644)
        case "loose directory":
            data.chmod(0o770)
        case "linked key":
            key.rename(tmp_path / "elsewhere")
            key.symlink_to(tmp_path / "elsewhere")
    before = files(tmp_path)
    done = qimem("serve", "--data-dir", data, "--bind", "127.0.0.1:0", "--workers", workers)
    assert (done.code, done.out) == (78, "")
    assert done.err.splitlines()[-1].startswith("hint: ")
    assert files(tmp_path) == before


def test_a_key_without_data_is_used_by_the_next_attempt(tmp_path: Path) -> None:
    (tmp_path / "data.root.key").write_bytes(bytes(range(32)))
    (tmp_path / "data.root.key").chmod(0o600)
    assert qimem("init", "--data-dir", tmp_path / "data").code == 0
    assert (tmp_path / "data.root.key").read_bytes() == bytes(range(32))


def test_of_many_inits_at_once_one_wins(tmp_path: Path) -> None:
    command = [*PROGRAM, "init", "--data-dir", str(tmp_path / "data"), "-o", "json"]
    racing = [
        subprocess.Popen(command, env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    outputs = [process.communicate(timeout=60) for process in racing]
    assert sorted(process.returncode for process in racing) == [0, 7, 7, 7], outputs
    assert files(tmp_path) == {"data", "data.root.key"}


def test_a_credential_of_the_service_manager_is_the_key(tmp_path: Path) -> None:
    (tmp_path / "creds").mkdir()
    (tmp_path / "creds" / "qimem-root-key").write_bytes(bytes(range(32)))
    (tmp_path / "creds" / "qimem-root-key").chmod(0o400)
    done = qimem("init", "--data-dir", tmp_path / "data", CREDENTIALS_DIRECTORY=str(tmp_path / "creds"))
    assert done.code == 0, done.err
    assert not (tmp_path / "data.root.key").exists()


def test_credentials_that_could_not_be_printed_are_handed_out_by_the_next_start(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*PROGRAM, "init", "--data-dir", str(data), "-o", "json"],
            stdout=full, stderr=subprocess.PIPE, env=clean_environment(), check=False,
        )  # fmt: skip
    assert done.returncode != 0
    file = CredentialsFile.beside(data)
    kept = file.prepared()
    assert kept is not None
    assert kept["client_secret"].startswith("qcs_")
    assert not file.exists()


def test_nothing_is_kept_of_credentials_that_were_printed(made) -> None:
    directory, _ = made
    assert files(directory) == {"data", "data.root.key"}
