"""Rows of any landed schema, of either database, become a database of today in the other or the same."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import apsw
import psycopg
import pytest
import sqlalchemy as sa

from qimem.errors import Conflict, Invalid, Unavailable
from qimem.kernel.transaction import Tx
from qimem.storage import postgres_connection
from qimem.storage.backup_file import Frame, Rows, TableHead
from qimem.storage.database import DatabaseLocation
from qimem.storage.migrations.runner import HEAD, KNOWN, SchemaTooNew, upgrade
from qimem.storage.restoring import restore
from qimem.storage.schema import METADATA
from qimem.storage.snapshot import snapshot
from tests.contract.storage.test_migrations import connected, differences
from tests.support.postgres import Cluster
from tests.upgrade.make_fixture import FIXTURES

KINDS = ("sqlite", "postgresql")
SAMPLE: dict[str, dict[str, Any]] = {
    "spent": {"realm_id": "acme", "kind": "totp_step", "key_digest": b"\x00\xff" * 16, "expires_us": 2**62},
    "login_attempt": {
        "realm_id": "acme", "kind": "user", "key_digest": bytes(32), "count": 3, "updated_us": 1, "expires_us": 2**40,
    },
    "job": {"name": "expired-rows", "holder": "somebody", "leased_until_us": 2**50, "last_run_us": 1},
    "audit_intent": {"stream": "s1", "record_id": "r", "segment": 1, "line": b"{}"},
    "idempotency": {
        "realm_id": "acme", "subject": "ü\x01\t\n\\N", "route": "POST /v1", "key": "k", "body_digest": b"\\x00",
        "answer_sealed": None, "object_id": "", "created_us": 0, "expires_us": -1,
    },
}  # fmt: skip
"""Rows that the fixture lacks: every kind of value, and text that means something to COPY."""
LEFT_BEHIND: dict[str, list[str]] = {"audit_intent": [], "job": []}
"""What belongs to nodes: a record must not be appended to another log, nor a lease hold up a job."""


def nothing(_: Tx) -> None:
    return None


@pytest.fixture
def places(tmp_path: Path, postgres_cluster: Cluster) -> Iterator[Callable[[str], DatabaseLocation]]:
    """Makes empty places of a kind."""
    urls: list[str] = []

    def make(kind: str) -> DatabaseLocation:
        directory = tmp_path / f"{kind}-{len(list(tmp_path.iterdir()))}"
        directory.mkdir()
        if kind == "sqlite":
            return DatabaseLocation(directory)
        urls.append(postgres_cluster.create(migrated=False))
        return DatabaseLocation(directory, urls[-1])

    yield make
    for url in urls:
        postgres_cluster.drop(url)


def filled(place: DatabaseLocation, schema: str) -> DatabaseLocation:
    """The released fixture, brought to a schema, with more rows."""
    if place.url is None:
        place.file.write_bytes((FIXTURES / "0.1.0/sqlite/qimem.db").read_bytes())
    else:
        with psycopg.connect(place.url, autocommit=True) as connection:
            connection.execute((FIXTURES / "0.1.0/postgresql/dump.sql").read_bytes())
    with connected(place) as connection:
        upgrade(connection, schema)
        there = sa.inspect(connection).get_table_names()
        for name, row in SAMPLE.items():
            if name not in there:
                continue
            connection.execute(sa.insert(METADATA.tables[name]).values(row))
    return place


def content(place: DatabaseLocation) -> dict[str, list[str]]:
    """Table → its rows, alike for both databases, whatever the order of rows and columns."""
    with snapshot(place) as found:
        return {
            name: sorted(
                repr(sorted(zip(columns, row, strict=True)))
                for rows in found.read(name, columns)
                for row in rows
            )
            for name, columns in found.tables.items()
        }


def copied(
    source: DatabaseLocation, target: DatabaseLocation, settle: Callable[[Tx], None] = nothing
) -> None:
    with snapshot(source) as found:
        restore(target, found.schema, found.frames(), settle)


@pytest.mark.parametrize("there", KINDS)
@pytest.mark.parametrize("here", KINDS)
def test_all_rows_arrive(places: Callable[[str], DatabaseLocation], here: str, there: str) -> None:
    source, target = filled(places(here), HEAD), places(there)
    copied(source, target)
    expected = content(source)
    assert sum(map(len, expected.values())) > 50
    assert {len(expected[name]) for name in SAMPLE} == {1}
    assert content(target) == expected | LEFT_BEHIND
    with connected(target) as connection:
        assert differences(connection) == []


@pytest.mark.parametrize(("schema", "there"), list(zip(KNOWN[:-1], itertools.cycle(KINDS), strict=False)))
def test_a_backup_of_every_landed_schema_becomes_one_of_today(
    places: Callable[[str], DatabaseLocation], schema: str, there: str
) -> None:
    source, target = filled(places("sqlite"), schema), places(there)
    copied(source, target)
    source.migrate()
    assert content(target) == content(source) | LEFT_BEHIND


def test_no_landed_schema_has_a_table_that_backups_do_not_know(
    places: Callable[[str], DatabaseLocation],
) -> None:
    with connected(filled(places("sqlite"), KNOWN[0])) as connection:
        for schema in KNOWN:
            upgrade(connection, schema)
            there = set(sa.inspect(connection).get_table_names())
            assert there <= METADATA.tables.keys() | {"schema_version"}, schema


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_stands_behind_all_that_it_refers_to(
    places: Callable[[str], DatabaseLocation], kind: str
) -> None:
    with snapshot(filled(places(kind), HEAD)) as found:
        order = list(found.tables)
    for table in METADATA.tables.values():
        for key in table.foreign_keys:
            assert order.index(key.column.table.name) <= order.index(table.name)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_one_moment(places: Callable[[str], DatabaseLocation], kind: str) -> None:
    source = filled(places(kind), HEAD)
    before = content(source)
    with snapshot(source) as found:
        with connected(source) as other:
            other.execute(sa.delete(METADATA.tables["spent"]))
            other.execute(sa.update(METADATA.tables["epoch"]).values(n=99))
        seen = {name: sum(map(len, found.read(name, columns))) for name, columns in found.tables.items()}
    assert seen == {name: len(rows) for name, rows in before.items()}
    assert content(source) != before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", ["settling", "rows"])
def test_one_that_fails_leaves_nothing(
    places: Callable[[str], DatabaseLocation], kind: str, end: str
) -> None:
    source, target = filled(places("sqlite"), HEAD), places(kind)

    def fail(_: object) -> None:
        raise RuntimeError("the power is gone")

    with snapshot(source) as found:
        frames: Iterable[Frame] = found.frames()
        if end == "rows":
            frames = (fail(frame) or frame if isinstance(frame, TableHead) and frame.name == "spent" else frame
                      for frame in frames)  # fmt: skip
        with pytest.raises(RuntimeError):
            restore(target, HEAD, frames, fail if end == "settling" else nothing)
    assert not target.exists()
    copied(source, target)
    assert target.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_there_is_not_touched(places: Callable[[str], DatabaseLocation], kind: str) -> None:
    source, target = filled(places("sqlite"), HEAD), filled(places(kind), "0003")
    before = content(target)
    with pytest.raises(Conflict):
        copied(source, target)
    assert content(target) == before


def test_a_database_that_somebody_else_uses_is_not_empty(
    places: Callable[[str], DatabaseLocation],
) -> None:
    source, target = filled(places("sqlite"), HEAD), places("postgresql")
    with connected(target) as connection:
        connection.exec_driver_sql("CREATE TABLE theirs (a int)")
    with pytest.raises(Conflict):
        copied(source, target)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "frame",
    [
        TableHead("theirs", ("a",)),
        TableHead("schema_version", ("version_num",)),
        TableHead("spent", ("realm_id",)),
        TableHead('spent" --', ("realm_id", "kind", "key_digest", "expires_us")),
        TableHead("spent", ("realm_id", "kind", "key_digest", "expires_us", "more")),
    ],
    ids=["unknown table", "version", "columns missing", "name", "columns more"],
)
def test_tables_that_are_none_of_the_schema_are_refused(
    places: Callable[[str], DatabaseLocation], kind: str, frame: TableHead
) -> None:
    target = places(kind)
    with pytest.raises(Invalid, match="damaged"):
        restore(target, HEAD, [frame], nothing)
    assert not target.exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("row", [("nobody", 1), ("acme", None)], ids=["refers to nothing", "null"])
def test_rows_that_break_a_rule_are_refused(
    places: Callable[[str], DatabaseLocation], kind: str, row: tuple[object, ...]
) -> None:
    target = places(kind)
    with pytest.raises(Invalid, match="damaged"):
        restore(target, HEAD, [TableHead("epoch", ("realm_id", "n")), Rows([row])], nothing)
    assert not target.exists()


def test_one_from_the_future_is_refused(places: Callable[[str], DatabaseLocation]) -> None:
    target = places("sqlite")
    with pytest.raises(SchemaTooNew):
        restore(target, "9999", [], nothing)
    assert not target.file.exists()


def test_a_restore_goes_to_the_primary_though_its_standby_is_named_first(
    places: Callable[[str], DatabaseLocation], postgres_cluster: Cluster
) -> None:
    source, target = filled(places("sqlite"), HEAD), places("postgresql")
    assert target.url is not None
    standby = Cluster(primary=postgres_cluster)
    try:
        hosts = ",".join(f"{one.host}:{one.port}" for one in (standby, postgres_cluster))
        named = DatabaseLocation(
            target.directory, f"postgresql://postgres@{hosts}/{target.url.rpartition('/')[2]}"
        )
        copied(source, named)
        assert content(target) == content(source) | LEFT_BEHIND
    finally:
        standby.stop()


def test_a_database_that_cannot_be_read_is_told(places: Callable[[str], DatabaseLocation]) -> None:
    nowhere = DatabaseLocation(Path("/nonexistent"), "postgresql://postgres@127.0.0.1:1/none")
    with pytest.raises(Unavailable), snapshot(nowhere):
        pass
    place = places("sqlite")
    place.file.write_bytes(os.urandom(8192))
    with pytest.raises(Exception, match="not a database"), snapshot(place):
        pass


def test_a_slow_disk_does_not_end_a_backup(
    places: Callable[[str], DatabaseLocation], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of requests PostgreSQL ends transactions that rest for seconds; a backup rests while its disk takes what it has.
    source = filled(places("postgresql"), HEAD)
    parameters = {**postgres_connection.PARAMETERS, "options": "-c idle_in_transaction_session_timeout=50"}
    monkeypatch.setattr(postgres_connection, "PARAMETERS", parameters)
    with snapshot(source) as found:
        frames = found.frames()
        next(frames)
        time.sleep(0.3)
        assert list(frames)


def test_a_snapshot_changes_nothing_on_the_disk(places: Callable[[str], DatabaseLocation]) -> None:
    source = filled(places("sqlite"), HEAD)
    with contextlib.closing(apsw.Connection(str(source.file))) as writer:
        writer.execute("UPDATE epoch SET n = n + 1")
        before = {path.name: path.read_bytes() for path in source.directory.glob("*.db")}
        with snapshot(source) as found:
            list(found.frames())
        assert {path.name: path.read_bytes() for path in source.directory.glob("*.db")} == before
