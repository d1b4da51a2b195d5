"""Rules that every statement of every repository keeps, read off the statements themselves."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator

import apsw
import pytest
from sqlalchemy.engine import Dialect

from qimem.storage import epochs, repositories
from qimem.storage.database import DatabaseLocation
from qimem.storage.postgres_connection import POSTGRESQL
from qimem.storage.schema import METADATA
from qimem.storage.statement import SQLITE, SQLStatement

WITHOUT_REALM = {
    "instance": "one row, of no realm",
    "audit": "a log is a node's; its records name their realm themselves",
    "root_keys": "a root key is of all realms",
    "kms_keys._ROOT_GENERATIONS": "a root key is of all realms",
    "restored": "a restore settles all realms before anybody is served",
    "jobs": "leases and sweeps are node-wide",
    "signing_keys._DUE": "what is due is looked for over all realms",
    "realms._PAGE": "the list of realms",
    "realm_remains._NEXT": "its question is which realm",
    "clients._FIND_REALM": "its question is which realm",
}


def statements() -> Iterator[tuple[str, SQLStatement]]:
    names = [name for _, name, _ in pkgutil.iter_modules(repositories.__path__)]
    modules = [importlib.import_module(f"{repositories.__name__}.{name}") for name in names]
    for module in [*modules, epochs]:
        short = module.__name__.rpartition(".")[2]
        for name, value in vars(module).items():
            for number, found in enumerate(value if isinstance(value, tuple) else (value,)):
                if isinstance(found, SQLStatement):
                    yield f"{short}.{name}" + (f"[{number}]" if isinstance(value, tuple) else ""), found


ALL = dict(statements())
SCOPED = [name for name in ALL if name not in WITHOUT_REALM and name.partition(".")[0] not in WITHOUT_REALM]


def test_the_rules_look_at_every_repository() -> None:
    modules = {name.partition(".")[0] for name in ALL}
    assert modules == {
        "attempts", "audit", "clients", "epochs", "grants", "idempotency", "instance", "jobs", "kms_keys", "realm_remains", "realms", "restored", "roles",
        "root_keys", "second_factors", "signing_keys", "single_use", "users",
    }  # fmt: skip
    assert len(ALL) > 45


@pytest.mark.parametrize("dialect", [SQLITE, POSTGRESQL], ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("name", SCOPED)
def test_every_statement_names_its_realm(name: str, dialect: Dialect) -> None:
    compiled = ALL[name].on(dialect)
    text = " ".join(compiled.text.split())
    if text.startswith("INSERT"):
        assert "realm_id" in text.partition("VALUES")[0]
        return
    condition = text.partition(" WHERE ")[2]
    assert re.search(r"\brealm_id = (\?|%s)", condition), text
    used = [table for table in METADATA.tables if re.search(rf"\b(FROM|JOIN|,) {table}\b", text)]
    # A further table is joined by realm too, or a row of one realm would meet one of another.
    for table in used[1:]:
        if table not in {"instance", "root_key"}:
            assert re.search(rf"{table}\.realm_id = |= {table}\.realm_id", text), text


def test_no_statement_reads_a_whole_table(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A thousandth realm must not make the others slower."""
    location = DatabaseLocation(tmp_path_factory.mktemp("plan"))
    location.migrate()
    connection = apsw.Connection(str(location.file))
    scanned = {}
    for name, statement in ALL.items():
        text = statement.on(SQLITE).text
        arguments = (None,) * text.count("?")
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {text}", arguments)]
        if any(step.startswith("SCAN") for step in plan):
            scanned[name] = plan
    connection.close()
    # One row each, and there are never two; of root keys never three.
    small = {
        "instance._FIND",
        "instance._SET_URL",
        "instance._SCHEMA",
        "epochs.READ",
        "kms_keys._ROOT_GENERATIONS",
        "root_keys._IN_FORCE",
    }
    # What a restore does to all rows it does once.
    seen = {name for name in scanned if not name.startswith("restored.")}
    assert seen <= small, scanned
