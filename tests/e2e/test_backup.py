"""A backup that is taken under load lives elsewhere: every key decrypts, and nothing that was revoked is good again."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from qimem.kernel.limits import RESTORE_MESSAGES_RESERVED
from tests.support.api import Person, World
from tests.support.audit_log import logged
from tests.support.cli import Done, qimem
from tests.support.load import Reply, Wire, a_world, new_server, rows, spread, tireless
from tests.support.processes import eventually
from tests.support.server import Server, ok, refused
from tests.support.volume import volume

LATE_SECONDS = 0.1
PATIENCE_SECONDS = 60
WAL_BYTES_MAX = 64 * 1024 * 1024
PAIRS = [
    ("sqlite", "postgresql"),
    ("postgresql", "sqlite"),
    ("sqlite", "sqlite"),
    ("postgresql", "postgresql"),
]


def database(server: Server) -> tuple[str, ...]:
    return ("--database-url", server.database_url) if server.database_url else ()


def taken(server: Server, file: Path) -> Done:
    done = qimem("backup", "create", "--data-dir", server.data, *database(server), "--to", file, "-o", "json")
    assert done.code == 0, done.err
    return done


def restored(server: Server, file: Path, root_key: Path) -> Done:
    key = Path(f"{server.data}.root.key")
    key.touch(0o600)
    key.write_bytes(root_key.read_bytes())
    return qimem("restore", file, "--data-dir", server.data, *database(server), "-o", "json")


@dataclass
class Load:
    """Encrypts, rotates and makes keys on all workers until the end of the block."""

    server: Server
    person: Person
    envelopes: list[tuple[str, str]] = field(default_factory=list)
    """Acknowledged, with what they hold."""
    failures: list[object] = field(default_factory=list)
    late: int = 0

    @contextlib.contextmanager
    def going_on(self) -> Iterator[None]:
        stop = threading.Event()
        with spread(self.server, self.person.access_token) as wires:
            threads = [
                threading.Thread(target=self._work, args=(number, wire, stop))
                for number, wire in enumerate(wires)
            ]
            for thread in threads:
                thread.start()
            try:
                yield
            finally:
                stop.set()
                for thread in threads:
                    thread.join()
        assert not self.failures, self.failures[:3]

    def _work(self, number: int, wire: Wire, stop: threading.Event) -> None:
        try:
            turn = 0
            while not stop.is_set():
                turn += 1
                late = self.late
                self._use(wire, f"key-{number}-{turn}")
                if self.late > late:
                    # Where a write waits too long, asking at once again helps nobody.
                    stop.wait(LATE_SECONDS)
        except BaseException as error:
            self.failures.append(error)

    def _use(self, wire: Wire, name: str) -> None:
        """A new key, two versions of it, an envelope of each; a busy machine may keep a write waiting too long."""
        if not self._done(wire.post("/v1/security/keys", {"name": name})):
            return
        for version in range(2):
            text = f"{name} {version}"
            sealed = wire.post("/v1/security/encrypt", {"name": name, "input": text})
            if self._done(sealed):
                self.envelopes.append((sealed.body["envelope"], text))
            if not self._done(wire.post("/v1/security/rotate", {"name": name})):
                return

    def _done(self, reply: Reply) -> bool:
        assert reply.status in {200, 503}, reply
        self.late += reply.status == 503
        return reply.status == 200


@dataclass
class Sessions:
    """Tokens of all kinds, from before a backup and after it."""

    access: dict[str, str] = field(default_factory=dict)
    refresh: dict[str, str] = field(default_factory=dict)

    def sign_in(self, world: World, person: Person, when: str) -> None:
        machine = {"client_id": person.client_id, "client_secret": person.client_secret,
                   "grant_type": "client_credentials"}  # fmt: skip
        for name, body in (
            ("kept", person.credentials()),
            ("revoked", person.credentials()),
            ("machine", machine),
        ):
            pair = ok(world.anonymous().post("/v1/auth/token", json=body))
            self.access[f"{name} {when}"] = pair["access_token"]
            if "refresh_token" in pair:
                self.refresh[f"{name} {when}"] = pair["refresh_token"]

    def revoke(self, world: World, when: str) -> None:
        for token in (self.refresh[f"revoked {when}"], self.access[f"machine {when}"]):
            ok(world.anonymous().post("/v1/auth/token/revoke", json={"token": token}))


def all_refused(world: World, person: Person, sessions: Sessions) -> None:
    anybody = world.anonymous()
    asking = {"client_id": person.client_id, "client_secret": person.client_secret}
    assert len(sessions.access) == 6
    assert len(sessions.refresh) == 4
    for name, token in sessions.access.items():
        assert world.bearer(token).get("/v1/security/keys").status_code == 401, name
        refused(world.bearer(token).get("/v1/auth/me"), 401, "invalid_token")
    for token in (*sessions.access.values(), *sessions.refresh.values()):
        answer = ok(anybody.post("/v1/auth/token/introspect", json={"token": token, **asking}))
        assert answer == {"active": False}
    for token in sessions.refresh.values():
        refused(anybody.post("/v1/auth/token/refresh", json={"refresh_token": token}), 400, "invalid_grant")


@pytest.mark.acceptance
@pytest.mark.parametrize(("here", "there"), PAIRS[: volume(4, least=1)])
def test_it_lives_elsewhere(request: pytest.FixtureRequest, tmp_path: Path, here: str, there: str) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    server, other = (
        new_server(request, tmp_path / "here", here),
        new_server(request, tmp_path / "there", there),
    )
    file, sessions = tmp_path / "a.backup", Sessions()
    with a_world(server) as world:
        person = tireless(world)
        load = Load(server, person)
        sessions.sign_in(world, person, "before")
        old_kids = kids(world, person)
        with load.going_on():
            time.sleep(volume(20, share=0.05))
            eventually(lambda: len(load.envelopes) > 10, seconds=PATIENCE_SECONDS)
            before = list(load.envelopes)
            told = taken(server, file).json
            eventually(lambda: len(load.envelopes) > len(before), seconds=PATIENCE_SECONDS)
        sessions.sign_in(world, person, "after")
        # Before the backup and after it: the revocation itself is in none.
        sessions.revoke(world, "before")
        sessions.revoke(world, "after")
        assert restored(server, file, Path(f"{server.data}.root.key")).code == 7
        for token in (sessions.access["kept before"], sessions.access["kept after"]):
            ok(world.bearer(token).get("/v1/auth/me"))
    done = restored(other, file, Path(f"{server.data}.root.key"))
    assert done.code == 0, done.err
    assert done.json["backup_id"] == told["backup_id"]
    # Those of the operator, the person when they were made, and the two logins.
    assert done.json["grants_revoked"] >= 4
    with a_world_of(other, server) as world:
        all_refused(world, person, sessions)
        again = world.bearer(
            ok(world.anonymous().post("/v1/auth/token", json=person.credentials()))["access_token"]
        )
        for start in range(0, len(before), 200):
            items = [{"input": envelope} for envelope, _ in before[start : start + 200]]
            answers = ok(again.post("/v1/security/decrypt", json={"items": items}))["items"]
            assert [answer["plaintext"] for answer in answers] == [
                text for _, text in before[start : start + 200]
            ]
        assert not old_kids & kids(world, person)
        ok(again.post("/v1/security/keys", json={"name": "new"}))
        all_refused(world, person, sessions)
    assert min(count for (count,) in rows(other, LEASED)) >= RESTORE_MESSAGES_RESERVED
    records = [record for record in logged(other.data) if record.event.startswith("backup.")]
    assert [(record.event, record.target) for record in records] == [("backup.restore", told["backup_id"])]
    # Each worker has a stream of its own.
    assert min(logged(other.data), key=lambda record: record.at).event == "backup.restore"
    for data in (server.data, other.data):
        assert qimem("audit", "verify", "--data-dir", data).code == 0
    created = [record.target for record in logged(server.data) if record.event == "backup.create"]
    assert created == [told["backup_id"]]


LEASED = (
    "SELECT v.messages_leased FROM kms_version v JOIN kms_key k ON k.realm_id = v.realm_id "
    "AND k.lineage_id = v.lineage_id WHERE k.purpose = 'encryption' AND k.name <> 'new'"
)


def kids(world: World, person: Person) -> set[str]:
    """Of the keys whose tokens verify."""
    return {
        key["kid"]
        for realm in ("system", person.realm_id)
        for key in ok(world.anonymous().get(f"/realms/{realm}/jwks"))["keys"]
    }


@contextlib.contextmanager
def a_world_of(server: Server, first: Server) -> Iterator[World]:
    """A server on restored data; its operator is that of the first one."""
    Path(f"{server.data}.credentials.json").write_text(Path(f"{first.data}.credentials.json").read_text())
    with a_world(server) as world:
        yield world


_NUMBERED = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < ?) INSERT INTO "
_ID = "unhex(printf('%032x', n))"
MANY_KEYS = (
    f"{_NUMBERED} kms_key SELECT ?, {_ID}, 'encryption', 'aes256_gcm', NULL, {_ID}, n FROM c",
    (
        f"{_NUMBERED} kms_version (realm_id, key_id, lineage_id, version, enabled, wrapped, kek_version, messages_leased, "
        f"created_us) SELECT ?, {_ID}, {_ID}, 1, 1, randomblob(61), 1, 0, n FROM c"
    ),
)


@pytest.mark.acceptance
def test_the_log_stays_small_while_a_large_backup_is_taken(tmp_path: Path) -> None:
    server = Server(tmp_path, workers=2)
    count, largest, stop = volume(100_000), 0, threading.Event()

    def watch() -> None:
        nonlocal largest
        while not stop.wait(0.005):
            largest = max(largest, (server.data / "qimem.db-wal").stat().st_size)

    with a_world(server) as world:
        person = tireless(world)
        for statement in MANY_KEYS:
            rows(server, statement, count, person.realm_id)
        # What was put in here is in the log, and not what is measured.
        rows(server, "PRAGMA wal_checkpoint(TRUNCATE)")
        load, watching = Load(server, person), threading.Thread(target=watch)
        with load.going_on():
            time.sleep(volume(1_000, least=200) / 1_000)
            watching.start()
            started = time.monotonic()
            told = taken(server, tmp_path / "a.backup").json
            seconds = time.monotonic() - started
            time.sleep(volume(500, least=100) / 1_000)
            stop.set()
            watching.join()
        assert told["keys"] > count
        print(f"{told['rows']} rows in {seconds:.1f} s, log {largest / 2**20:.1f} MiB, late {load.late}")
        assert largest <= WAL_BYTES_MAX
    verified = qimem("backup", "verify", tmp_path / "a.backup", "--data-dir", server.data, "-o", "json")
    assert verified.json["rows"] == told["rows"]
