"""A write-ahead log that is cut short or changed anywhere near its end: what opens is a prefix of history.

Which prefix it has to be follows from the format of the file alone: all transactions that are whole before
the damage, and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import apsw
import pytest

from qimem.storage import sqlite_connection
from tests.support.api import PASSWORD, Person, World
from tests.support.load import Chance, a_world, tireless
from tests.support.server import Server, ok
from tests.support.volume import volume
from tests.support.write_ahead_log import WriteAheadLog

TAIL_BYTES = 64 * 1024
SECTOR_BYTES = 512
DEEDS = 40
DATABASE = "qimem.db"


def digest(connection: apsw.Connection) -> str:
    """Of every row of every table."""
    tables = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")
    found = hashlib.sha256()
    for (name,) in tables.fetchall():
        rows = connection.execute(f'SELECT * FROM "{name}"').fetchall()
        found.update(repr((name, sorted(map(repr, rows)))).encode())
    return found.hexdigest()


@dataclass
class History:
    """A database and its log as a killed server left them.

    Args:
        states: Digest of the content after each number of commits; filled as they are asked for.
    """

    place: Path
    scratch: Path
    log: WriteAheadLog
    states: dict[int, str] = field(default_factory=dict)

    @classmethod
    def of(cls, server: Server, place: Path) -> History:
        """Copy what a server left; it does not run."""
        place.mkdir()
        for name in (DATABASE, f"{DATABASE}-wal"):
            shutil.copyfile(server.data / name, place / name)
        return cls(place, place / "scratch", WriteAheadLog((place / f"{DATABASE}-wal").read_bytes()))

    @property
    def commits(self) -> int:
        """How many transactions the log holds."""
        return self.log.commits_before(self.log.end)

    @property
    def tail(self) -> range:
        """The bytes that are damaged."""
        return range(max(0, self.log.end - TAIL_BYTES), self.log.end)

    def lay_out(self, log: bytes) -> Path:
        """A data directory with this log."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir(mode=0o700)
        shutil.copyfile(self.place / DATABASE, self.scratch / DATABASE)
        (self.scratch / f"{DATABASE}-wal").write_bytes(log)
        return self.scratch / DATABASE

    def opened(self, log: bytes) -> tuple[str, str]:
        """What the engine says of a database with this log, opened as a server does; and its content."""
        with contextlib.closing(sqlite_connection.open_writer(self.lay_out(log), durable=True)) as connection:
            return str(connection.pragma("integrity_check")), digest(connection)

    def after(self, commits: int) -> str:
        """The content after so many commits."""
        if commits not in self.states:
            ends = [0, *self.log.commit_ends]
            self.states[commits] = self.opened(self.log.data[: ends[commits]])[1]
        return self.states[commits]

    def findings(self, log: bytes, whole: int, what: str) -> list[str]:
        """What is wrong with a damaged log, of which so many transactions are whole."""
        said, content = self.opened(log)
        findings = [] if said == "ok" else [f"{what}: {said}"]
        return findings if content == self.after(whole) else [*findings, f"{what}: not the first {whole}"]


def act(world: World, person: Person, number: int) -> None:
    """One change after the other."""
    key = ok(person.post("/v1/security/keys", {"name": f"history-{number}"}))
    if number % 3 == 0:
        ok(person.post("/v1/security/rotate", {"lineage_id": key["lineage_id"]}))
    if number % 10 == 0:
        body = {"realm_id": person.realm_id, "username": f"u{number}", "password": PASSWORD, "roles": []}
        ok(world.operator.post("/v1/auth/users", json=body))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that was killed when it had made some history."""
    server = Server(tmp_path_factory.mktemp("torn"))
    with a_world(server) as world:
        person = tireless(world)
        for number in range(DEEDS):
            act(world, person, number)
        server.kill()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def history(server: Server, tmp_path_factory: pytest.TempPathFactory) -> History:
    return History.of(server, tmp_path_factory.mktemp("history") / "copy")


def flipped(data: bytes, offset: int, bit: int) -> bytes:
    damaged = bytearray(data)
    damaged[offset] ^= 1 << bit
    return bytes(damaged)


def test_history_is_long_enough_to_be_torn(history: History) -> None:
    assert len({history.after(history.commits - back) for back in range(5)}) == 5
    assert len(history.tail) == TAIL_BYTES
    with contextlib.closing(
        sqlite_connection.open_writer(history.lay_out(history.log.data), durable=True)
    ) as all_:
        names = all_.execute("SELECT DISTINCT name FROM kms_key WHERE name LIKE 'history-%'").fetchall()
    assert len(names) == DEEDS


@pytest.mark.acceptance
def test_a_log_that_ends_early_holds_a_prefix_of_history(history: History) -> None:
    findings = []
    first = -(-history.tail.start // SECTOR_BYTES) * SECTOR_BYTES
    for offset in range(first, history.tail.stop, SECTOR_BYTES * volume(1, share=16)):
        log = history.log.data[:offset]
        findings += history.findings(log, history.log.commits_before(offset), f"cut at {offset}")
    assert findings == []


@pytest.mark.acceptance
def test_a_log_with_a_flipped_bit_holds_a_prefix_of_history(history: History) -> None:
    chance, findings = Chance().source("bits"), []
    for offset in chance.sample(history.tail, volume(1_000)):
        log = flipped(history.log.data, offset, chance.randrange(8))
        findings += history.findings(log, history.log.commits_before(offset), f"flipped at {offset}")
    assert findings == []


@pytest.mark.acceptance
def test_a_log_whose_header_is_damaged_is_no_log(history: History) -> None:
    findings = []
    for offset in range(0, 32, volume(1, share=8)):
        findings += history.findings(flipped(history.log.data, offset, 0), 0, f"header flipped at {offset}")
    assert findings == []


def test_a_forged_log_is_found_out(history: History) -> None:
    """Checksums that fit: whoever believes in them would find a key that nobody made."""
    name, forged = b"history-%d" % (DEEDS - 1), b"history-XX"
    offset = history.log.data.rindex(name, 0, history.log.end)
    log = history.log.forged(offset, forged)
    assert history.findings(log, history.commits, "forged") != []
    assert history.opened(history.log.forged(offset, name))[1] == history.after(history.commits)


def torn_anyhow(history: History, chance: random.Random) -> bytes:
    offset = chance.choice(history.tail)
    cut = chance.random() < 0.5
    return history.log.data[:offset] if cut else flipped(history.log.data, offset, chance.randrange(8))


@pytest.mark.acceptance
def test_a_server_starts_on_a_torn_log(server: Server, history: History) -> None:
    chance = Chance().source("torn")
    for _ in range(volume(40, share=0.05)):
        database = history.lay_out(torn_anyhow(history, chance))
        for file in server.data.glob(f"{DATABASE}*"):
            file.unlink()
        for file in (database, database.with_name(f"{DATABASE}-wal")):
            shutil.copyfile(file, server.data / file.name)
        server.start()
        with contextlib.closing(World(server)) as world:
            assert ok(world.operator.post("/v1/security/keys"))["version"] == 1
        server.kill()
