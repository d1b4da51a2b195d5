"""Whoever reads the disk, the logs or the process list learns no secret, in no spelling.

A server lives through days full of mistakes, at `log.level=debug`: one ends with SIGTERM, one with
kill -9, one with SIGABRT. After each, everything it wrote is searched for every secret that
passed through it and for every key it held.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import secrets
import signal
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from urllib.parse import urlencode

import apsw
import psutil
import psycopg
import pytest

from qimem.kernel.ids import RealmId
from qimem.kernel.secret import SecretBytes
from qimem.kms.keyring import Keyring
from qimem.kms.models import Purpose
from qimem.kms.root_keys import RootKeys
from qimem.storage.database import DatabaseLocation
from qimem.storage.repositories.instance import InstanceRepository
from qimem.storage.repositories.kms_keys import KeyRepository
from tests.canaries.exposed_day import Day, Plants
from tests.support.canaries import ENCODINGS, Canary, Hit, Search, files_below
from tests.support.cli import qimem
from tests.support.postgres import Cluster
from tests.support.processes import alive, eventually
from tests.support.server import Server

ENDS = (signal.SIGTERM, signal.SIGKILL, signal.SIGABRT)
INTERNAL = (Purpose.TOKEN_SIGNING, Purpose.REFRESH_MAC, Purpose.PASSWORD_PEPPER)
DIGESTS = ("SHA-256 of the password", "SHA-256 of the body with the password")
PATIENCE_SECONDS = 30
BACKUP, CREDENTIALS, ROOT_KEY = "a.backup", "data.credentials.json", "data.root.key"


@dataclass
class Evidence:
    """What a thief of everything has, and what he must not find."""

    server: Server
    plants: Plants = field(default_factory=Plants)
    days: list[Day] = field(default_factory=list)
    places: dict[str, bytes] = field(default_factory=dict)
    processes: dict[str, bytes] = field(default_factory=dict)
    open_files: set[Path] = field(default_factory=set)
    elsewhere: list[Path] = field(default_factory=list)
    database_url: str | None = None

    @property
    def ends(self) -> tuple[signal.Signals, ...]:
        return ENDS

    @property
    def names(self) -> list[Canary]:
        """What is no secret, and is kept."""
        return [
            Canary(f"{word} {number}", getattr(day, word).encode())
            for number, day in enumerate(self.days)
            for word in ("username", "email")
        ]

    @cached_property
    def hits(self) -> list[Hit]:
        """Secrets, and what is none, in all places. One search for all tests: it takes long."""
        return Search([*self.plants.canaries, *self.names]).hits(self.places)


class Thief:
    """Runs the server on one kind of database and takes whatever it leaves."""

    def __init__(self, directory: Path, cluster: Cluster | None) -> None:
        self._cluster = cluster
        self._url = cluster.create(migrated=False) if cluster else None
        self._password = secrets.token_urlsafe(24)
        self._root = directory / "root"
        # Whatever it writes by the way would land in one of these.
        self._elsewhere = [directory / name for name in ("cwd", "home", "tmp")]
        for place in (self._root, *self._elsewhere):
            place.mkdir()
        home, tmp = map(str, self._elsewhere[1:])
        environment = {
            "QIMEM_LOG__LEVEL": "debug",
            "HOME": home,
            "TMPDIR": tmp,
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        if self._url:
            environment["DATABASE_URL"] = self._url.replace("postgres@", f"postgres:{self._password}@")
        server = Server(self._root, workers=2 if cluster else 1, environment=environment)
        self.evidence = Evidence(server, database_url=self._url)

    async def run(self) -> Evidence:
        """Every day to its end."""
        if self._url:
            self.evidence.plants.keep("password of the database", self._password)
        with _working_in(self._elsewhere[0]):
            for number, end in enumerate(self.evidence.ends):
                try:
                    await self._day(f"acme{number}", end)
                finally:
                    self.evidence.server.stop()
            self._back_up()
        credentials = self.evidence.server.credentials
        self.evidence.plants.keep("operator's password", credentials["password"])
        self.evidence.plants.keep("operator's client secret", credentials["client_secret"])
        self.evidence.plants.keep("root key", Path(f"{self.evidence.server.data}.root.key").read_bytes())
        self.evidence.elsewhere = [path for place in self._elsewhere for path in place.rglob("*")]
        return self.evidence

    async def _day(self, realm_id: str, end: signal.Signals) -> None:
        evidence, server = self.evidence, self.evidence.server.start()
        day = Day(server, evidence.plants, realm_id, self._execute)
        evidence.days.append(day)
        day.run()
        self._look_at_processes(end.name)
        self._end(end)
        for name, content in files_below(self._root).items():
            evidence.places[f"{end.name}: {name}"] = content
        evidence.places[f"{end.name}: stdout"] = "\n".join(server.lines).encode()
        if self._cluster and self._url:
            evidence.places[f"{end.name}: tables"] = _tables(self._url)
            evidence.places[f"{end.name}: log of PostgreSQL"] = (self._cluster.directory / "log").read_bytes()
        async for name, key in self._keys(realm_id):
            evidence.plants.keep(name, key)

    def _back_up(self) -> None:
        data, file, environment = (
            self.evidence.server.data,
            self._root / BACKUP,
            self.evidence.server.environment,
        )
        done = qimem("backup", "create", "--data-dir", data, "--to", file, **environment)
        assert done.code == 0, done.err
        self.evidence.places |= {BACKUP: file.read_bytes(), "printed": (done.out + done.err).encode()}

    def _look_at_processes(self, day: str) -> None:
        for number, pid in enumerate(_family(self.evidence.server)):
            name = f"worker {number}" if number else "server"
            for file in ("environ", "cmdline"):
                self.evidence.processes[f"{day}: {name} {file}"] = Path(f"/proc/{pid}/{file}").read_bytes()
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                if descriptor.exists() and descriptor.is_file():
                    self.evidence.open_files.add(descriptor.readlink())

    def _end(self, end: signal.Signals) -> None:
        server, family = self.evidence.server, _family(self.evidence.server)
        if end is signal.SIGABRT and server.workers > 1:
            os.kill(family[-1], end)
            eventually(
                lambda: "worker died" in server.log.read_text() and len(_family(server)) == len(family)
            )
            end = signal.SIGTERM
        server.process.send_signal(end)
        assert server.process.wait(PATIENCE_SECONDS) == (0 if end is signal.SIGTERM else -end)
        server._forget()
        eventually(lambda: not any(map(alive, family)), seconds=PATIENCE_SECONDS)

    def _execute(self, statement: str, *values: str | bytes) -> None:
        if self._url:
            with psycopg.connect(self._url, autocommit=True) as connection:
                connection.execute(statement.replace("?", "%s").encode(), values)
            return
        connection = apsw.Connection(str(self.evidence.server.data / "qimem.db"))
        connection.set_busy_timeout(5000)
        bound = [bytes.fromhex(value.replace("-", "")) if _is_uuid(value) else value for value in values]
        connection.execute(statement, bound)
        assert connection.changes()
        connection.close()

    async def _keys(self, realm_id: str) -> AsyncIterator[tuple[str, bytes]]:
        """Every key of the hierarchy as the server holds it in memory."""
        server, store = self.evidence.server, KeyRepository()
        root = SecretBytes(Path(f"{server.data}.root.key").read_bytes())
        database = DatabaseLocation(server.data, self._url).open()
        instance = await database.read(InstanceRepository().find)
        ring = Keyring(RootKeys(instance.instance_id, root), database, store)
        for realm in (RealmId("system"), RealmId(realm_id)):
            yield f"KEK of {realm}", bytes((await ring.kek(realm, 1)).key.reveal())
            versions = []
            for purpose in INTERNAL:
                versions += await database.read(lambda tx, p=purpose, r=realm: store.find_internal(tx, r, p))
            keys = await database.read(
                lambda tx, r=realm: store.list_keys(tx, r, after=None, limit=9, lineages=None)
            )
            for key in keys:
                if key.name != "damaged":
                    versions += await database.read(
                        lambda tx, r=realm, k=key: store.versions(tx, r, k.lineage_id)
                    )
            for version in versions:
                material = await ring.handle(version, lambda secret: bytes(secret.reveal()))
                yield f"{version.purpose} {version.name or ''} {version.version} of {realm}", material
        await database.close()


def _family(server: Server) -> list[int]:
    main = psutil.Process(server.process.pid)
    return [main.pid, *(child.pid for child in main.children())]


def _is_uuid(value: str | bytes) -> bool:
    return isinstance(value, str) and len(value) == 36 and value.count("-") == 4


def _tables(url: str) -> bytes:
    """Every value of every table, as the driver gives it."""
    names = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
    parts: list[bytes] = []
    with psycopg.connect(url) as connection:
        for (table,) in connection.execute(names.encode()).fetchall():
            for row in connection.execute(f'SELECT * FROM "{table}"'.encode()).fetchall():
                parts += [value if isinstance(value, bytes) else str(value).encode() for value in row]
    return b"\n".join(parts)


@contextmanager
def _working_in(directory: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(directory)
    try:
        yield
    finally:
        os.chdir(before)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
async def evidence(request, tmp_path_factory: pytest.TempPathFactory, anyio_backend: object) -> Evidence:
    cluster = request.getfixturevalue("postgres_cluster") if request.param == "postgresql" else None
    return await Thief(tmp_path_factory.mktemp("thief"), cluster).run()


pytestmark = pytest.mark.anyio


async def test_more_than_forty_secrets_passed_through(evidence: Evidence) -> None:
    assert len({canary.name for canary in evidence.plants.canaries}) > 40


async def test_every_kind_of_mistake_was_made(evidence: Evidence) -> None:
    for day in evidence.days:
        assert day.statuses >= {200, 400, 401, 404, 405, 409, 413, 414, 415, 422, 431, 500}
    log = evidence.places["SIGABRT: log.txt"]
    assert log.count(b'"unexpected error"') >= 2 * len(evidence.ends)


async def test_no_file_or_table_holds_a_secret(evidence: Evidence) -> None:
    kept_on_purpose = {
        (secret, f"{end.name}: {file}")
        for end in evidence.ends
        for secret, file in (
            ("operator's password", CREDENTIALS),
            ("operator's client secret", CREDENTIALS),
            ("root key", ROOT_KEY),
        )
    }
    others = {*DIGESTS, *(name.name for name in evidence.names)}
    hits = [hit for hit in evidence.hits if hit.canary not in others]
    # What was kept on purpose is found there: the search works on these very bytes.
    assert {(hit.canary, hit.place) for hit in hits} >= kept_on_purpose
    assert not [hit for hit in hits if (hit.canary, hit.place) not in kept_on_purpose]


async def test_no_fast_digest_of_a_password_is_kept(evidence: Evidence) -> None:
    # One SHA-256 of a known body with the password in it is guessed billions of times a second: it
    # would undo Argon2id and pepper for every user that was made with an Idempotency-Key.
    assert {canary.name for canary in evidence.plants.canaries} >= set(DIGESTS)
    assert not [hit for hit in evidence.hits if hit.canary in DIGESTS]


async def test_what_is_no_secret_is_found_where_it_is_kept(evidence: Evidence) -> None:
    wanted = {name.name for name in evidence.names}
    assert {hit.canary for hit in evidence.hits if hit.canary in wanted} == wanted


async def test_a_backup_tells_nothing_at_all(evidence: Evidence) -> None:
    # Neither secrets nor names: who finds one on a disk learns which installation it is of.
    assert len(evidence.places[BACKUP]) > 20_000
    assert not [hit for hit in evidence.hits if hit.place == BACKUP]


async def test_the_database_itself_was_searched(evidence: Evidence) -> None:
    if evidence.database_url is None:
        assert len(evidence.places["SIGKILL: data/qimem.db-wal"]) > 4096
        assert "SIGKILL: data/qimem.db-shm" in evidence.places
    else:
        assert b"acme1" in evidence.places["SIGABRT: tables"]


async def test_no_environment_or_argument_holds_a_secret(evidence: Evidence) -> None:
    assert len(evidence.processes) == len(evidence.ends) * 2 * (2 if evidence.database_url is None else 3)
    # The operator handed the database's password to the server in its environment: read, it is erased there.
    if evidence.database_url is not None:
        assert all(
            b"DATABASE_URL=" in evidence.processes[f"{end.name}: server environ"] for end in evidence.ends
        )
    assert not Search(evidence.plants.canaries).hits(evidence.processes)


async def test_nothing_is_written_outside_the_data_directory(evidence: Evidence) -> None:
    assert not evidence.elsewhere
    below = evidence.server.directory
    # Memory that workers share, in which they count requests: it has a name and no place.
    counts = {Path(f"/memfd:qimem-{name} (deleted)") for name in ("windows", "metrics")}
    assert not [path for path in evidence.open_files if path not in counts and not path.is_relative_to(below)]


async def test_a_chosen_password_is_nowhere(tmp_path: Path) -> None:
    plants = Plants()
    given = tmp_path / "given"
    given.write_text(plants.text("chosen password"))
    made = tmp_path / "made"
    made.mkdir()
    done = qimem("init", "--data-dir", made / "data", "--admin-password-file", given, "-o", "json")
    assert done.code == 0
    printed = {"stdout": done.out.encode(), "stderr": done.err.encode()}
    assert not Search(plants.canaries).hits(files_below(made) | printed)


@pytest.mark.parametrize("command", ["serve --bind 127.0.0.1:0", "init", "doctor"])
async def test_a_malformed_database_url_is_not_repeated(tmp_path: Path, command: str) -> None:
    plants = Plants()
    # The driver's error repeats everything from the percent sign on.
    given = f"postgresql://u:%zz{plants.text('password')}@127.0.0.1:1/d"
    (tmp_path / "data").mkdir(mode=0o700)
    done = qimem(*command.split(), "--data-dir", tmp_path / "data", DATABASE_URL=given)
    assert done.code != 0
    printed = {"stdout": done.out.encode(), "stderr": done.err.encode()}
    assert not Search(plants.canaries).hits(printed | files_below(tmp_path))


# The search itself: what it would miss, the tests above would miss.

SECRETS = {"key": secrets.token_bytes(32), "text": f"Pä55 wörd 🔑 {secrets.token_hex(8)}".encode()}


def _noise() -> bytes:
    return secrets.token_bytes(700) + b"log line " * 80


def _found(secret: bytes, data: bytes) -> set[str]:
    return {
        hit.encoding for hit in Search([Canary("it", secret)]).hits({"place": _noise() + data + _noise()})
    }


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("kind", SECRETS)
def test_a_planted_secret_is_found_in_every_spelling(kind: str, encoding: str) -> None:
    secret = SECRETS[kind]
    spelled = ENCODINGS[encoding](secret)
    assert _found(secret, spelled)


SPELLINGS = {
    "base64 of a sentence": lambda secret: base64.b64encode(b"pass: " + secret + b"!"),
    "base64 one byte later": lambda secret: base64.b64encode(b"pass:  " + secret + b"!"),
    "base64 two bytes later": lambda secret: base64.b64encode(b"pass:   " + secret + b"!"),
    "base64url of JSON": lambda secret: base64.urlsafe_b64encode(b'{"p":"' + secret + b'"}'),
    "form": lambda secret: urlencode({"password": secret}).encode(),
    "UTF-16": lambda secret: secret.decode("latin-1").encode("utf-16"),
    "zlib": lambda secret: zlib.compress(b"x" * 99 + secret, 9),
    "fast zlib": lambda secret: zlib.compress(b"x" * 99 + secret, 1),
    "gzip of hex": lambda secret: gzip.compress(b"key=" + secret.hex().encode()),
    "gzip in zlib": lambda secret: zlib.compress(gzip.compress(secret)),
    "damaged zlib": lambda secret: zlib.compress(secret + secrets.token_bytes(9_000))[:5_000],
    "list": lambda secret: json.dumps(list(secret)).encode(),
    "repr": lambda secret: f"Secret({secret!r})".encode(),
    "first half": lambda secret: secret[: len(secret) // 2 + 8],
    "second half": lambda secret: secret[-(len(secret) // 2 + 8) :],
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_secret_spelled_by_others_is_found(spelling: str) -> None:
    secret = secrets.token_bytes(32)
    assert _found(secret, SPELLINGS[spelling](secret))


def test_another_secret_is_not_found() -> None:
    assert not any(_found(secrets.token_bytes(32), b"".join(ENCODINGS[name](secrets.token_bytes(32)) for name in ENCODINGS))
                   for _ in range(20))  # fmt: skip


@pytest.mark.parametrize("secret", [b"", b"fifteen bytes..", b"a" * 40, b"abab" * 10])
def test_what_chance_could_find_is_no_canary(secret: bytes) -> None:
    with pytest.raises(ValueError, match="told from chance"):
        Canary("it", secret)


def test_names_of_files_and_links_are_searched(tmp_path: Path) -> None:
    secret = secrets.token_hex(16)
    (tmp_path / secret).touch()
    (tmp_path / "link").symlink_to(secret)
    hits = Search([Canary("it", secret.encode())]).hits(files_below(tmp_path))
    assert {hit.place for hit in hits} == {"(names)", "link"}
