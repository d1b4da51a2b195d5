"""`qimem backup`, `restore` and `migrate`: what they refuse, what they leave behind, what the next start makes of it."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from qimem.config.schema import SealSettings, ServerSettings, Settings
from qimem.errors import Conflict, Invalid
from qimem.kernel.refusal import Refused
from qimem.server.backups import create_backup, restore_backup, state_of_schema, verify_backup
from qimem.server.backups import upgrade as server_upgrade
from qimem.server.directories import UNFINISHED
from qimem.server.installation import recover_operator
from qimem.storage.database import DatabaseLocation
from qimem.storage.migrations.runner import HEAD, KNOWN, upgrade
from tests.contract.storage.test_migrations import connected
from tests.support.audit_log import logged
from tests.support.cli import Done, clean_environment, qimem
from tests.support.load import a_world, rows
from tests.support.server import Server, ok
from tests.support.volume import volume
from tests.upgrade.make_fixture import FIXTURES

OTHER_KEY = bytes(range(32))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with an installation `data` and its backup `a.backup`."""
    place = tmp_path_factory.mktemp("made")
    assert qimem("init", "--data-dir", place / "data").code == 0
    assert backup(place / "data", place / "a.backup").code == 0
    return place


def backup(data: Path, to: Path, *more: str | Path) -> Done:
    return qimem("backup", "create", "--data-dir", data, "--to", to, "-o", "json", *more)


def restore(made: Path, data: Path, *more: str | Path, file: str = "a.backup") -> Done:
    key = ("--root-key-file", made / "data.root.key")
    return qimem("restore", made / file, "--data-dir", data, *key, "-o", "json", *more)


def verify(made: Path, file: Path) -> Done:
    return qimem("backup", "verify", file, "--root-key-file", made / "data.root.key", "-o", "json")


def below(place: Path) -> set[str]:
    return {str(path.relative_to(place)) for path in place.rglob("*")}


def test_a_backup_is_private_and_tells_what_it_is(made: Path) -> None:
    assert stat.S_IMODE((made / "a.backup").stat().st_mode) == 0o600
    told = verify(made, made / "a.backup").json
    assert (told["schema"], told["realms"]) == (HEAD, 1)
    created = [record for record in logged(made / "data") if record.event == "backup.create"]
    assert told["backup_id"] in {record.target for record in created}
    assert (made / "data.root.key").read_bytes() not in (made / "a.backup").read_bytes()


def test_it_is_never_overwritten(made: Path) -> None:
    before = (made / "a.backup").read_bytes()
    done = backup(made / "data", made / "a.backup")
    assert (done.code, done.out) == (7, "")
    assert (made / "a.backup").read_bytes() == before


def test_one_that_cannot_be_written_leaves_nothing(made: Path, tmp_path: Path) -> None:
    here = place(made / "data", made / "data.root.key")
    for to in (tmp_path / "missing" / "a.backup", Path("/proc/a.backup")):
        with pytest.raises(Refused, match="cannot write"):
            create_backup(here, {}, to)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_root_puts_nothing_into_a_log_that_is_not_its_own(tmp_path: Path) -> None:
    # A stream that root had begun there kept the server from its own log, and so from starting.
    data = tmp_path / "data"
    assert qimem("init", "--data-dir", data).code == 0
    os.chown(data, 65534, 65534)
    before = below(tmp_path)
    done = backup(data, tmp_path / "a.backup")
    assert (done.code, "belongs to another user" in done.err) == (78, True)
    with pytest.raises(Refused, match="belongs to another user"):
        asyncio.run(recover_operator(place(data, tmp_path / "data.root.key"), "ada", {}))
    assert below(tmp_path) == before


def test_there_is_no_backup_of_nothing(tmp_path: Path) -> None:
    done = backup(tmp_path / "data", tmp_path / "a.backup")
    assert (done.code, done.out) == (78, "")
    assert not (tmp_path / "a.backup").exists()


def place(data: Path, key: Path) -> Settings:
    return Settings(server=ServerSettings(data_dir=data), seal=SealSettings(root_key_file=key))


def test_another_root_key_is_refused(made: Path, tmp_path: Path) -> None:
    key, file = tmp_path / "other.root.key", made / "a.backup"
    key.touch(0o600)
    key.write_bytes(OTHER_KEY)
    here, elsewhere = place(made / "data", key), place(tmp_path / "data", key)
    for work in (
        lambda: create_backup(here, {}, tmp_path / "b.backup"),
        lambda: verify_backup(here, {}, file),
        lambda: restore_backup(elsewhere, {}, file),
        lambda: server_upgrade(here, {}, to=None, keep=True),
    ):
        with pytest.raises(Refused, match="root key"):
            work()
    done = qimem("restore", file, "--data-dir", tmp_path / "data", "--root-key-file", key)
    assert (done.code, done.out) == (78, "")
    assert below(tmp_path) == {"other.root.key"}


@pytest.mark.parametrize("fault", ["flipped", "cut", "longer", "something else", "header"])
def test_a_damaged_backup_is_refused_and_nothing_is_made(made: Path, tmp_path: Path, fault: str) -> None:
    data = bytearray((made / "a.backup").read_bytes())
    match fault:
        case "flipped":
            data[len(data) // 2] ^= 1
        case "cut":
            del data[-1]
        case "longer":
            data += b"\0"
        case "something else":
            data[:] = b"SQLite format 3\0" * 100
        case _:
            data[data.index(b'"taken_us":') + 12] ^= 1
    (tmp_path / "b.backup").write_bytes(data)
    elsewhere = place(tmp_path / "data", made / "data.root.key")
    for work in (verify_backup, restore_backup):
        with pytest.raises(Invalid, match="backup"):
            work(elsewhere, {}, tmp_path / "b.backup")
    assert below(tmp_path) == {"b.backup"}


def test_a_damaged_backup_ends_with_2(made: Path, tmp_path: Path) -> None:
    (tmp_path / "b.backup").write_bytes((made / "a.backup").read_bytes()[:-1])
    done = restore(made, tmp_path / "data", file=str(tmp_path / "b.backup"))
    assert (done.code, done.out) == (2, "")
    assert "error: the backup is damaged" in done.err or '"the backup is damaged' in done.err


def test_a_place_that_is_not_empty_is_left_alone(made: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir(mode=0o700)
    (other / "precious").write_text("kept")
    assert restore(made, other).code == 7
    assert below(other) == {"precious"}
    server = Server(tmp_path)
    there = place(server.data, made / "data.root.key")
    with a_world(server) as world:
        with pytest.raises(Conflict):
            restore_backup(there, {}, made / "a.backup")
        ok(world.operator.get("/v1/auth/me"))
    with pytest.raises(Conflict):
        restore_backup(there, {}, made / "a.backup")
    assert status(server.data)[1] == "current"


def killed(code: str, *arguments: str | Path) -> int:
    """Run the program with something changed in it; what it ended with."""
    program = f"{code}\nimport sys\nfrom qimem.cli.main import main\nsys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env=clean_environment(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode


KILL = "lambda *a, **k: os.kill(os.getpid(), 9)"
AT = {
    "commit": f"import os, qimem.bootstrap.backup as b; b._Settling._record = {KILL}",
    "mark": f"import os, qimem.server.backups as b; b.unmark = {KILL}",
    "record": f"import os, qimem.server.backups as b; b.append_what_is_pending = {KILL}",
}


KILLED = [("commit", "sqlite"), ("mark", "sqlite"), ("commit", "postgresql"), ("record", "sqlite")]


@pytest.mark.acceptance
@pytest.mark.parametrize(("moment", "kind"), KILLED[: volume(len(KILLED), least=2)])
def test_a_restore_that_is_killed_is_there_or_not(
    request: pytest.FixtureRequest, made: Path, tmp_path: Path, kind: str, moment: str
) -> None:
    url = request.getfixturevalue("postgres_url") if kind == "postgresql" else None
    database = ("--database-url", url) if url else ()
    key = made / "data.root.key"
    arguments = ("--data-dir", tmp_path / "data", "--root-key-file", key, *database)
    assert killed(AT[moment], "restore", made / "a.backup", *arguments) == -signal.SIGKILL
    server = Server(tmp_path, database_url=url, extra=("--root-key-file", str(key)))
    if moment == "commit":
        assert (tmp_path / "data" / UNFINISHED).exists()
        command = ("serve", "--bind", "127.0.0.1:0") if kind == "sqlite" else ("init",)
        done = qimem(*command, *arguments)
        assert (done.code, done.out) == (78, "")
        assert "restore" in done.err
    if moment == "record":
        assert not (tmp_path / "data" / UNFINISHED).exists()
    assert restore(made, tmp_path / "data", *database).code == (0 if moment == "commit" else 7)
    try:
        server.start()
    finally:
        server.stop()
    assert not (tmp_path / "data" / UNFINISHED).exists()
    events = [record.event for record in logged(tmp_path / "data")]
    assert events.count("backup.restore") == 1
    assert events[0] == "backup.restore"


def old(place: Path, schema: str) -> Path:
    """An installation of a released version, brought to a schema."""
    data = place / "data"
    data.mkdir(mode=0o700)
    fixture = FIXTURES / "0.1.0" / "sqlite"
    for path, content in (
        (data / "qimem.db", (fixture / "qimem.db").read_bytes()),
        (place / "data.root.key", bytes.fromhex((fixture / "root.key.hex").read_text())),
    ):
        path.touch(0o600)
        path.write_bytes(content)
    with connected(DatabaseLocation(data)) as connection:
        upgrade(connection, schema)
    return data


def status(data: Path) -> tuple[str | None, str]:
    return state_of_schema(place(data, Path("none")))


SIGNING = (
    "SELECT v.realm_id, sum(v.enabled) FROM kms_version v JOIN kms_key k ON k.realm_id = v.realm_id "
    "AND k.lineage_id = v.lineage_id WHERE k.purpose = 'token-signing' GROUP BY 1 ORDER BY 1"
)


def test_a_realm_whose_keys_are_damaged_holds_up_no_other(tmp_path: Path) -> None:
    here = place(old(tmp_path, HEAD), tmp_path / "data.root.key")
    server = Server(tmp_path)
    assert rows(server, SIGNING) == [("acme", 1), ("system", 1)]
    rows(server, "UPDATE realm_kek SET wrapped = zeroblob(61) WHERE realm_id = 'acme'")
    create_backup(here, {}, tmp_path / "b.backup")
    (tmp_path / "again").mkdir()
    there = place(tmp_path / "again" / "data", tmp_path / "data.root.key")
    assert restore_backup(there, {}, tmp_path / "b.backup").damaged == ("acme",)
    # What cannot sign must not vouch either, should somebody repair it.
    assert rows(Server(tmp_path / "again"), SIGNING) == [("acme", 0), ("system", 1)]


def test_what_is_to_be_done_is_told_and_done_once(tmp_path: Path) -> None:
    data = old(tmp_path, "0003")
    told = {"state": "old", "database": "0003", "program": HEAD, "pending": list(KNOWN[3:])}
    assert qimem("migrate", "status", "--data-dir", data, "-o", "json").json == told
    here = place(data, tmp_path / "data.root.key")
    with pytest.raises(Refused, match="has schema version 0003"):
        create_backup(here, {}, tmp_path / "b.backup")
    done = qimem("migrate", "apply", "--data-dir", data, "-o", "json").json
    kept = Path(done["backup"])
    assert (done["from"], done["to"], kept.parent) == ("0003", HEAD, tmp_path)
    assert kept.name.startswith("data.schema-0003-")
    assert verify_backup(here, {}, kept).header.schema == "0003"
    assert status(data) == (HEAD, "current")
    done = qimem("migrate", "apply", "--data-dir", data, "-o", "json").json
    assert done == {"from": HEAD, "to": HEAD, "backup": None}
    restore_backup(place(tmp_path / "again", tmp_path / "data.root.key"), {}, kept)
    assert status(tmp_path / "again")[1] == "current"


def test_a_backup_before_the_upgrade_can_be_named_or_forgone(tmp_path: Path) -> None:
    data = old(tmp_path, "0001")
    assert qimem("migrate", "apply", "--data-dir", data, "--to", tmp_path / "b", "--no-backup").code == 2
    (tmp_path / "taken").write_text("precious")
    with pytest.raises(Conflict):
        server_upgrade(place(data, tmp_path / "data.root.key"), {}, to=tmp_path / "taken", keep=True)
    assert status(data)[0] == "0001"
    assert qimem("migrate", "apply", "--data-dir", data, "--no-backup").code == 0
    assert below(tmp_path) >= {"taken", "data.root.key"}
    assert not list(tmp_path.glob("*.backup"))


def test_a_server_keeps_the_data_as_it_was_before_it_upgrades(tmp_path: Path) -> None:
    data = old(tmp_path, "0005")
    server = Server(tmp_path)
    try:
        server.start()
    finally:
        server.stop()
    (kept,) = tmp_path.glob("data.schema-0005-*.backup")
    here = place(data, tmp_path / "data.root.key")
    assert verify_backup(here, {}, kept).header.schema == "0005"
    assert str(kept) in server.log.read_text()
    server.start()
    assert server.stop() == 0
    assert list(tmp_path.glob("*.backup")) == [kept]
    assert status(data)[1] == "current"


def test_another_root_key_upgrades_nothing(tmp_path: Path) -> None:
    data = old(tmp_path, "0005")
    (tmp_path / "data.root.key").write_bytes(OTHER_KEY)
    done = qimem("serve", "--bind", "127.0.0.1:0", "--data-dir", data)
    assert (done.code, done.out) == (78, "")
    with pytest.raises(Refused, match="root key"):
        server_upgrade(place(data, tmp_path / "data.root.key"), {}, to=None, keep=True)
    assert status(data)[0] == "0005"


def test_a_newer_schema_is_told_and_left_alone(tmp_path: Path) -> None:
    data = old(tmp_path, HEAD)
    server = Server(tmp_path)
    rows(server, "UPDATE schema_version SET version_num = '9999'")
    assert status(data)[1] == "newer"
    assert qimem("migrate", "apply", "--data-dir", data).code == 78
    with pytest.raises(Refused):
        create_backup(place(data, tmp_path / "data.root.key"), {}, tmp_path / "b.backup")


def test_nothing_is_told_as_nothing(tmp_path: Path) -> None:
    assert status(tmp_path / "data")[1] == "empty"
    assert not (tmp_path / "data").exists()
    assert qimem("migrate", "apply", "--data-dir", tmp_path / "data").code == 78
    assert not os.listdir(tmp_path)
