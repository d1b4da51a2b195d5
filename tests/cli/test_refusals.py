"""What is not started, end to end: exit 78, the reason, what to do, and nothing made or changed.

What `test_init.py` shows already (a random key, an empty key, a link) is not repeated here, nor is
every mode and length, which `tests/unit/kms/seal` goes through. Places: `test_refused_places.py`.
"""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import apsw
import psycopg
import pytest

from tests.support.cli import Done, qimem
from tests.support.postgres import Cluster
from tests.support.server import Server, ok

KEY = bytes(range(32))
SERVE = ("serve", "--bind", "127.0.0.1:0")
TWO_WORKERS = (*SERVE, "--workers", "2")
FUTURE = "UPDATE schema_version SET version_num = '9999'"

Tree = dict[str, tuple[int, str]]


def tree(directory: Path) -> Tree:
    """Everything below, with mode and a digest of its content.

    But for an empty log of the database and the memory beside it: of two workers that close it at once, neither is the
    last, and both may leave them.
    """
    found = {str(path.relative_to(directory)): _seen(path) for path in sorted(directory.rglob("*"))}
    log, memory = "data/qimem.db-wal", "data/qimem.db-shm"
    if found.get(log, ("", ""))[1] == hashlib.sha256(b"").hexdigest():
        found = {path: seen for path, seen in found.items() if path not in {log, memory}}
    return found


def _seen(path: Path) -> tuple[int, str]:
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        return status.st_mode, str(path.readlink())
    content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
    return status.st_mode, hashlib.sha256(content).hexdigest()


def judge(done: Done, reason: str, advice: str) -> None:
    """A refusal says why and what to do, on stderr alone."""
    assert (done.code, done.out) == (78, ""), f"{done.code}\n{done.err}"
    *_, error, hint = done.err.splitlines()
    assert error.startswith("error: "), done.err
    assert reason in error
    assert hint.startswith("hint: "), done.err
    assert advice in hint


@dataclass
class Installation:
    """An installation at rest, in a directory with nothing else in it."""

    directory: Path
    url: str | None = None

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def key(self) -> Path:
        return self.directory / "data.root.key"

    def run(self, *command: str | Path, **environment: str) -> Done:
        database = ("--database-url", self.url) if self.url else ()
        return qimem(*command, "--data-dir", self.data, *database, **environment)

    def refuses(self, command: tuple[str, ...], reason: str, advice: str, **environment: str) -> None:
        """The command is refused and leaves everything as it was."""
        before = tree(self.directory)
        judge(self.run(*command, **environment), reason, advice)
        assert tree(self.directory) == before

    def alter(self, statement: str) -> None:
        """Change the database from outside."""
        if self.url:
            with psycopg.connect(self.url, autocommit=True) as connection:
                connection.execute(statement.encode())
            return
        connection = apsw.Connection(str(self.data / "qimem.db"))
        connection.execute(statement)
        connection.close()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    made = Installation(tmp_path_factory.mktemp("original"))
    assert made.run("init").code == 0
    return made


@pytest.fixture
def made(original: Installation, tmp_path: Path) -> Installation:
    """A copy of an installation on SQLite."""
    subprocess.run(["cp", "-a", f"{original.directory}/.", tmp_path / "made"], check=True)
    return Installation(tmp_path / "made")


@pytest.fixture(scope="module")
def on_postgres(
    tmp_path_factory: pytest.TempPathFactory, postgres_cluster: Cluster
) -> Iterator[Installation]:
    """An installation on PostgreSQL; tests put back what they change."""
    made = Installation(tmp_path_factory.mktemp("node"), postgres_cluster.create(migrated=False))
    assert made.run("init").code == 0
    yield made
    postgres_cluster.drop(made.url)


# The root key of existing data.


def _replace(content: bytes) -> Callable[[Path], object]:
    return lambda key: key.write_bytes(content)


def _mode(bits: int) -> Callable[[Path], object]:
    return lambda key: key.chmod(bits)


def _other(make: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda key: (key.unlink(), make(key))


KEY_FAULTS = {
    "a byte short": (_replace(KEY[:31]), "does not hold 32 bytes", "backup"),
    "a byte long": (_replace(KEY + b"\n"), "does not hold 32 bytes", "backup"),
    "readable by the group": (_mode(0o640), "open to others (mode 0640)", "chmod 600"),
    "a pipe": (_other(lambda key: os.mkfifo(key, 0o600)), "not a plain file", "name the file"),
    "a dangling link": (_other(lambda key: key.symlink_to("nowhere")), "symbolic link", "name the file"),
}


@pytest.mark.parametrize("fault", KEY_FAULTS)
def test_an_unsound_key_is_refused(made: Installation, fault: str) -> None:
    spoil, reason, advice = KEY_FAULTS[fault]
    spoil(made.key)
    made.refuses(SERVE, reason, advice)


def test_the_key_of_another_installation_is_refused(made: Installation, on_postgres: Installation) -> None:
    made.key.write_bytes(on_postgres.key.read_bytes())
    made.refuses(TWO_WORKERS, "not the one this database was made with", "--root-key-file")


def test_a_named_key_that_is_missing_is_not_made(made: Installation, tmp_path: Path) -> None:
    named = ("--root-key-file", str(tmp_path / "keys" / "root"))
    made.refuses((*SERVE, *named), "is missing", "--root-key-file")
    assert not (tmp_path / "keys").exists()


def test_a_named_key_counts_and_not_the_one_beside_the_data(made: Installation, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(KEY)
    (tmp_path / "key").chmod(0o600)
    made.refuses((*SERVE, "--root-key-file", str(tmp_path / "key")), "not the one", "--root-key-file")


def test_init_gives_data_without_its_key_no_new_one(made: Installation) -> None:
    made.key.unlink()
    before = tree(made.directory)
    assert made.run("init").code == 7
    assert tree(made.directory) == before


# The same on PostgreSQL, where the data is elsewhere.


def test_data_on_postgresql_without_its_key_gets_no_new_one(
    on_postgres: Installation, tmp_path: Path
) -> None:
    key = on_postgres.key.rename(tmp_path / "away")
    try:
        on_postgres.refuses(TWO_WORKERS, "is missing", "--root-key-file")
        assert on_postgres.run("init").code == 7
        assert not on_postgres.key.exists()
    finally:
        key.rename(on_postgres.key)


def test_a_second_node_without_the_key_gets_no_key_of_its_own(
    on_postgres: Installation, tmp_path: Path
) -> None:
    node = Installation(tmp_path / "node", on_postgres.url)
    node.data.mkdir(mode=0o700, parents=True)
    node.refuses(SERVE, "is missing", "--root-key-file")
    assert node.run("init").code == 7
    assert list(tree(node.directory)) == ["data"]


def test_a_second_node_with_another_key_is_refused(on_postgres: Installation, tmp_path: Path) -> None:
    node = Installation(tmp_path / "node", on_postgres.url)
    node.data.mkdir(mode=0o700, parents=True)
    node.key.write_bytes(KEY)
    node.key.chmod(0o600)
    node.refuses(SERVE, "not the one this database was made with", "--root-key-file")


# The data.


@pytest.mark.parametrize("mode", [0o720, 0o705])
def test_a_data_directory_open_to_others_is_refused(made: Installation, mode: int) -> None:
    made.data.chmod(mode)
    made.refuses(SERVE, f"open to others (mode {mode:04o})", f"chmod 700 {made.data}")


@pytest.mark.parametrize("command", [SERVE, ("init",)], ids=["serve", "init"])
def test_something_else_than_a_database_is_refused(made: Installation, command: tuple[str, ...]) -> None:
    (made.data / "qimem.db").write_bytes(os.urandom(8192))
    made.refuses(command, "is not a database", "backup")


def test_garbage_without_a_key_is_given_no_key(made: Installation) -> None:
    (made.data / "qimem.db").write_bytes(b"no database at all\n" * 400)
    made.key.unlink()
    made.refuses(SERVE, "is not a database", "backup")


def test_data_of_a_newer_version_is_refused(made: Installation) -> None:
    made.alter(FUTURE)
    made.refuses(TWO_WORKERS, "newer version", "install that version or a later one")


def test_data_of_a_newer_version_on_postgresql_is_refused(on_postgres: Installation) -> None:
    on_postgres.alter(FUTURE)
    try:
        on_postgres.refuses(SERVE, "newer version", "install that version or a later one")
    finally:
        on_postgres.alter("UPDATE schema_version SET version_num = '0001'")


def test_a_malformed_database_url_is_refused(tmp_path: Path) -> None:
    new = Installation(tmp_path, "postgresql://u:%zz@127.0.0.1:1/d")
    judge(new.run(*SERVE), "database", "")
    assert set(tree(tmp_path)) <= {"data"}


# Credentials of the service manager.


def credential(directory: Path, content: bytes = KEY, mode: int = 0o400) -> dict[str, str]:
    """What systemd tells a service."""
    directory.mkdir()
    (directory / "qimem-root-key").write_bytes(content)
    (directory / "qimem-root-key").chmod(mode)
    return {"CREDENTIALS_DIRECTORY": str(directory)}


def test_a_server_starts_again_and_again_with_its_credential(tmp_path: Path) -> None:
    environ = credential(tmp_path / "creds")
    server = Server(tmp_path / "made", environment=environ)
    server.directory.mkdir()
    for _ in range(2):
        server.start()
        try:
            with server.client(server.token()) as operator:
                ok(operator.get("/v1/security/keys"))
        finally:
            assert server.stop() == 0
    assert not Path(f"{server.data}.root.key").exists()


def test_without_its_credential_the_data_gets_no_other_key(tmp_path: Path) -> None:
    made = Installation(tmp_path / "made")
    assert made.run("init", **credential(tmp_path / "creds")).code == 0
    made.refuses(SERVE, "is missing", "--root-key-file")


CREDENTIAL_FAULTS = {
    "writable by the group": (KEY, 0o460, "open to others", "chmod 600"),
    "short": (KEY[:16], 0o400, "does not hold 32 bytes", "backup"),
    "of another installation": (KEY, 0o400, "not the one this database was made with", "--root-key-file"),
}


@pytest.mark.parametrize("fault", CREDENTIAL_FAULTS)
def test_a_bad_credential_is_refused_and_nothing_else_tried(
    made: Installation, tmp_path: Path, fault: str
) -> None:
    content, mode, reason, advice = CREDENTIAL_FAULTS[fault]
    made.refuses(SERVE, reason, advice, **credential(tmp_path / "creds", content, mode))


@pytest.mark.parametrize("command", [SERVE, ("init",)], ids=["serve", "init"])
def test_a_wanted_credential_that_is_not_there_is_refused(tmp_path: Path, command: tuple[str, ...]) -> None:
    new = Installation(tmp_path / "new")
    new.data.mkdir(mode=0o700, parents=True)
    (tmp_path / "creds").mkdir()
    new.refuses(
        command,
        "is missing",
        "",
        QIMEM_SEAL__SOURCE="credential",
        CREDENTIALS_DIRECTORY=str(tmp_path / "creds"),
    )


def test_a_wanted_credential_without_a_service_manager_is_refused(made: Installation) -> None:
    made.refuses(SERVE, "no CREDENTIALS_DIRECTORY", "LoadCredential=", QIMEM_SEAL__SOURCE="credential")
