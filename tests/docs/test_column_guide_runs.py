"""The columns of the guide hide what they hold, open what is theirs, and say clearly why they do not.

Every test runs with SQLAlchemy and with Django, through the programs that the page shows.
"""

from __future__ import annotations

import importlib
import os
import re
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, Protocol

import django
import pytest
import sqlalchemy as sa
from django.conf import settings
from sqlalchemy.orm import Session

from tests.architecture.sources import ROOT
from tests.support.api import World
from tests.support.server import Server, ok

DIRECTORY = ROOT / "docs/examples/encrypt-a-column"
EMAIL, CARD = "ada@shop.example", "4111 1111 1111 1111"
KEYS = ("customers.email", "customers.card")


@dataclass
class Realm:
    """A realm with a key for each column, and the client that the columns use."""

    world: World
    realm_id: str
    keys: dict[str, dict[str, Any]]
    client: dict[str, Any]

    @classmethod
    def of(cls, world: World) -> Realm:
        realm_id = world.realm()
        keys = {
            name: ok(world.operator.post("/v1/security/keys", json={"realm_id": realm_id, "name": name}))
            for name in KEYS
        }
        permissions = [
            f"keys:{deed}:{key['lineage_id']}" for deed in ("encrypt", "decrypt") for key in keys.values()
        ]
        role = world.role(realm_id, permissions)
        return cls(world, realm_id, keys, world.client(realm_id, roles=[role]))

    @property
    def access(self) -> dict[str, str]:
        return {
            "url": self.world.server.url,
            "client_id": self.client["client_id"],
            "client_secret": self.client["client_secret"],
        }

    def change(self, deed: str, name: str) -> None:
        """`disable` or `enable` the key of a column, with all of its versions."""
        body = {"realm_id": self.realm_id, "scope": "lineage"}
        ok(self.world.operator.post(f"/v1/security/keys/{self.keys[name]['key_id']}/{deed}", json=body))

    def rotate(self, name: str) -> None:
        body = {"realm_id": self.realm_id, "name": name}
        assert ok(self.world.operator.post("/v1/security/rotate", json=body))["version"] == 2


class Table(Protocol):
    """What both programs do, in one vocabulary."""

    def insert(self, **values: Any) -> None: ...
    def get(self, id: str, name: str) -> Any: ...
    def change(self, id: str, **values: Any) -> None: ...
    def with_null(self, name: str) -> list[str]: ...
    def add_all(self, cards: dict[str, str]) -> None: ...
    def all_cards(self) -> dict[str, str]: ...
    def search(self, value: str) -> Any: ...
    def close(self) -> None: ...


class SqlalchemyTable:
    def __init__(self, program: Any, file: Path, *, hide_parameters: bool = True) -> None:
        self.program, self.customer = program, program.Customer
        self.engine = sa.create_engine(f"sqlite:///{file}", hide_parameters=hide_parameters)
        program.Base.metadata.create_all(self.engine)

    def insert(self, **values: Any) -> None:
        with Session(self.engine) as session, session.begin():
            session.add(self.customer(**values))

    def get(self, id: str, name: str) -> Any:
        with Session(self.engine) as session:
            return getattr(session.get_one(self.customer, id), name)

    def change(self, id: str, **values: Any) -> None:
        with Session(self.engine) as session, session.begin():
            session.execute(sa.update(self.customer).where(self.customer.id == id).values(**values))

    def with_null(self, name: str) -> list[str]:
        with Session(self.engine) as session:
            found = getattr(self.customer, name).is_(None)
            return list(session.scalars(sa.select(self.customer.id).where(found)))

    def add_all(self, cards: dict[str, str]) -> None:
        with Session(self.engine) as session, session.begin():
            self.program.add_all(session, cards)

    def all_cards(self) -> dict[str, str]:
        with Session(self.engine) as session:
            found: dict[str, str] = self.program.all_cards(session)
            return found

    def search(self, value: str) -> Any:
        return self.customer.email == value

    def close(self) -> None:
        self.engine.dispose()


class DjangoTable:
    def __init__(self, program: Any, file: Path) -> None:
        from django.db import connections

        self.program, self.customer = program, program.Customer
        connections.settings["default"]["NAME"] = str(file)
        self.connections = connections
        with connections["default"].schema_editor() as editor:
            editor.create_model(self.customer)

    def insert(self, **values: Any) -> None:
        self.customer.objects.create(**values)

    def get(self, id: str, name: str) -> Any:
        return getattr(self.customer.objects.get(id=id), name)

    def change(self, id: str, **values: Any) -> None:
        self.customer.objects.filter(id=id).update(**values)

    def with_null(self, name: str) -> list[str]:
        return list(self.customer.objects.filter(**{f"{name}__isnull": True}).values_list("id", flat=True))

    def add_all(self, cards: dict[str, str]) -> None:
        self.program.add_all(cards)

    def all_cards(self) -> dict[str, str]:
        found: dict[str, str] = self.program.all_cards()
        return found

    def search(self, value: str) -> Any:
        return self.customer.objects.filter(email=value)

    def close(self) -> None:
        self.connections["default"].close()
        # The next test has another file.
        del self.connections["default"]


@dataclass
class Shop:
    """One of the two programs, with a database of its own and the realm's keys."""

    table: Table
    realm: Realm
    file: Path
    use: Callable[[Any], None]
    vault: Any

    def raw(self, id: str, column: str) -> str:
        """What the file holds in a cell."""
        return str(self._sql(f"SELECT {column} FROM {self.name} WHERE id = ?", id)[0][0])

    def overwrite(self, id: str, column: str, envelope: str) -> None:
        """What somebody does who can write into the database, and has no key."""
        self._sql(f"UPDATE {self.name} SET {column} = ? WHERE id = ?", envelope, id)

    @property
    def name(self) -> str:
        return "customers" if isinstance(self.table, SqlalchemyTable) else "customers_customer"

    def ids(self) -> list[str]:
        return [row[0] for row in self._sql(f"SELECT id FROM {self.name}")]

    def _sql(self, statement: str, *values: str) -> list[Any]:
        connection = sqlite3.connect(self.file)
        try:
            with connection:
                return connection.execute(statement, values).fetchall()
        finally:
            connection.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    server = Server(tmp_path_factory.mktemp("columns")).start()
    made = World(server)
    yield made
    made.close()
    server.stop()


@pytest.fixture(scope="module")
def programs() -> Iterator[dict[str, Any]]:
    """The programs of the page, imported as an application imports them."""
    sys.path.insert(0, str(DIRECTORY))
    given = {"QIMEM_URL": "http://127.0.0.1:1", "QIMEM_CLIENT_ID": "none", "QIMEM_CLIENT_SECRET": "none"}
    os.environ.update(given)
    settings.configure(
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        QIMEM={name.removeprefix("QIMEM_").lower(): value for name, value in given.items()},
        LOGGING_CONFIG=None,
    )
    django.setup()
    names = ("qimem_client", "sqlalchemy_column", "django_column")
    imported = {name: importlib.import_module(name) for name in names}
    yield imported
    imported["sqlalchemy_column"].vault.close()
    sys.path.remove(str(DIRECTORY))
    for name in given:
        del os.environ[name]


@pytest.fixture(params=["sqlalchemy", "django"])
def shop(
    request: pytest.FixtureRequest,
    world: World,
    programs: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Shop]:
    program = programs[f"{request.param}_column"]

    def use(vault: Any) -> None:
        replaced = vault if request.param == "sqlalchemy" else lambda: vault
        monkeypatch.setattr(program, "vault", replaced)

    realm, file = Realm.of(world), tmp_path / "customers.db"
    vault = programs["qimem_client"].Vault(**realm.access)
    use(vault)
    made = SqlalchemyTable(program, file) if request.param == "sqlalchemy" else DjangoTable(program, file)
    yield Shop(made, realm, file, use, vault)
    made.close()
    vault.close()


@pytest.fixture
def client(programs: dict[str, Any]) -> Any:
    return programs["qimem_client"]


def told(error: BaseException) -> Any:
    """The client's error; SQLAlchemy wraps it on the way into the database."""
    return getattr(error, "orig", error)


def refused(client: Any, code: str, deed: Callable[[], Any]) -> str:
    """The whole text of an expected refusal."""
    with pytest.raises(Exception) as caught:
        deed()
    assert isinstance(told(caught.value), client.Refused), caught.value
    assert told(caught.value).code == code
    return str(caught.value)


def test_the_program_sees_what_it_stored(shop: Shop) -> None:
    shop.table.insert(id="1", email=EMAIL, card=CARD)
    assert (shop.table.get("1", "email"), shop.table.get("1", "card")) == (EMAIL, CARD)


@pytest.mark.parametrize("value", ["", "ä€😀", "a\0b", "x" * 8000])
def test_any_text_comes_back_as_it_was(shop: Shop, value: str) -> None:
    shop.table.insert(id="1", email=value, card=value)
    assert (shop.table.get("1", "email"), shop.table.get("1", "card")) == (value, value)


def test_the_file_holds_no_plaintext(shop: Shop) -> None:
    shop.table.insert(id="1", email=EMAIL, card=CARD)
    shop.table.change("1", email="new@shop.example")
    content = shop.file.read_bytes()
    assert shop.raw("1", "email").encode() in content
    for word in (EMAIL, "new@shop.example", "shop.example", CARD, "4111"):
        assert word.encode() not in content


def test_two_equal_values_are_two_envelopes(shop: Shop) -> None:
    shop.table.insert(id="1", email=EMAIL)
    shop.table.insert(id="2", email=EMAIL)
    assert shop.raw("1", "email") != shop.raw("2", "email")


@pytest.mark.parametrize("length", [0, 1, 19, 100, 1000])
def test_an_envelope_is_as_long_as_the_page_says(shop: Shop, length: int) -> None:
    shop.table.insert(id="1", email="x" * length)
    assert len(shop.raw("1", "email")) == -(-(53 + length) // 3) * 4


def test_null_stays_null_and_can_be_asked_for(shop: Shop) -> None:
    shop.table.insert(id="1", email=EMAIL, card=None)
    shop.table.insert(id="2", email=None, card=CARD)
    assert shop.table.get("1", "card") is None
    assert shop.table.with_null("email") == ["2"]


def test_a_comparison_says_that_it_cannot_work(shop: Shop) -> None:
    with pytest.raises(Exception, match=r"encrypted"):
        shop.table.search(EMAIL)


def test_a_tampered_envelope_does_not_open(shop: Shop, client: Any) -> None:
    shop.table.insert(id="1", email=EMAIL)
    envelope = shop.raw("1", "email")
    # The 60th character lies in the ciphertext: 53 bytes of frame, 36 of them in front of it.
    changed = envelope[:59] + ("A" if envelope[59] != "A" else "B") + envelope[60:]
    shop.overwrite("1", "email", changed)
    refused(client, "decryption_failed", lambda: shop.table.get("1", "email"))


def test_what_is_no_envelope_does_not_open(shop: Shop, client: Any) -> None:
    shop.table.insert(id="1", email=EMAIL)
    shop.overwrite("1", "email", EMAIL)
    refused(client, "invalid_envelope", lambda: shop.table.get("1", "email"))


def test_an_envelope_of_another_column_does_not_open(shop: Shop, client: Any) -> None:
    shop.table.insert(id="1", email=EMAIL, card=CARD)
    shop.overwrite("1", "email", shop.raw("1", "card"))
    refused(client, "key_mismatch", lambda: shop.table.get("1", "email"))


def test_an_envelope_of_another_realm_does_not_open(shop: Shop, client: Any) -> None:
    stranger = client.Vault(**Realm.of(shop.realm.world).access)
    shop.table.insert(id="1", email=EMAIL)
    shop.overwrite("1", "email", stranger.encrypt("customers.email", EMAIL))
    stranger.close()
    refused(client, "key_not_found", lambda: shop.table.get("1", "email"))


def test_a_bound_value_of_another_row_does_not_open(shop: Shop, client: Any) -> None:
    shop.table.insert(id="1", card=CARD)
    shop.table.insert(id="11", card="4000 0000 0000 0002")
    shop.overwrite("11", "card", shop.raw("1", "card"))
    refused(client, "moved", lambda: shop.table.get("11", "card"))


def test_a_value_that_is_not_bound_opens_in_another_row_as_the_page_says(shop: Shop) -> None:
    shop.table.insert(id="1", email=EMAIL)
    shop.table.insert(id="2", email="eve@shop.example")
    shop.overwrite("2", "email", shop.raw("1", "email"))
    assert shop.table.get("2", "email") == EMAIL


def test_a_value_cannot_be_bound_to_a_row_without_id(client: Any) -> None:
    with pytest.raises(ValueError, match=r"no id yet"):
        client.bound(None, CARD)


def test_rotation_keeps_old_rows_readable_and_encrypts_new_ones_anew(shop: Shop) -> None:
    shop.table.insert(id="1", email=EMAIL, card=CARD)
    before = shop.raw("1", "email")
    for name in KEYS:
        shop.realm.rotate(name)
    shop.table.insert(id="2", email=EMAIL, card=CARD)
    assert [shop.table.get(row, "card") for row in ("1", "2")] == [CARD, CARD]
    assert shop.table.get("1", "email") == EMAIL
    assert shop.raw("1", "email") == before
    # The key id stands in bytes 2 to 17: characters 4 to 23 are of it alone.
    assert shop.raw("2", "email")[4:23] != before[4:23]


def test_a_disabled_key_says_so_on_both_ways_and_works_again_once_enabled(shop: Shop, client: Any) -> None:
    shop.table.insert(id="1", email=EMAIL)
    shop.realm.change("disable", "customers.email")
    read = refused(client, "key_disabled", lambda: shop.table.get("1", "email"))
    written = refused(client, "key_disabled", lambda: shop.table.insert(id="2", email="eve@shop.example"))
    for text in (read, written):
        assert "key is disabled" in text
        assert "shop.example" not in text
    shop.realm.change("enable", "customers.email")
    assert shop.table.get("1", "email") == EMAIL


def test_a_client_without_permission_is_told_so(shop: Shop, client: Any) -> None:
    bare = shop.realm.world.client(shop.realm.realm_id)
    names = {name: bare[name] for name in ("client_id", "client_secret")}
    vault = client.Vault(**(shop.realm.access | names))
    shop.use(vault)
    refused(client, "permission_denied", lambda: shop.table.insert(id="1", email=EMAIL))
    vault.close()


def test_a_wrong_client_secret_is_told_so_and_nothing_is_stored(shop: Shop, client: Any) -> None:
    vault = client.Vault(**(shop.realm.access | {"client_secret": "wrong"}))
    shop.use(vault)
    text = refused(client, "invalid_client", lambda: shop.table.insert(id="1", email=EMAIL))
    assert EMAIL not in text
    assert shop.ids() == []
    vault.close()


def test_one_token_serves_many_calls_and_a_dead_one_is_replaced(shop: Shop) -> None:
    shop.table.insert(id="1", email=EMAIL)
    first = shop.vault._token
    assert shop.table.get("1", "email") == EMAIL
    assert shop.vault._token == first
    ok(shop.realm.world.anonymous().post("/v1/auth/token/revoke", json={"token": first}))
    assert shop.table.get("1", "email") == EMAIL
    assert shop.vault._token != first


def test_a_token_is_replaced_before_it_expires(shop: Shop, client: Any, monkeypatch: Any) -> None:
    shop.table.insert(id="1", email=EMAIL)
    first, now = shop.vault._token, client.time.monotonic()
    monkeypatch.setattr(client.time, "monotonic", lambda: now + 900 - client.TOKEN_MARGIN_SECONDS + 1)
    assert shop.table.get("1", "email") == EMAIL
    assert shop.vault._token != first


def test_many_are_written_and_read_in_a_few_requests(shop: Shop, client: Any, monkeypatch: Any) -> None:
    paths: list[str] = []
    send = shop.vault._send
    monkeypatch.setattr(shop.vault, "_send", lambda path, *rest: (paths.append(path), send(path, *rest))[1])
    cards = {f"{number:04}": f"card {number}" for number in range(client.BATCH_ITEMS + 1)}
    shop.table.add_all(cards)
    shop.table.insert(id="nobody")
    assert shop.table.all_cards() == cards
    assert [path.rpartition("/")[2] for path in paths] == ["token", *["encrypt"] * 2, *["decrypt"] * 2]


def test_one_bad_item_of_many_is_named(shop: Shop, client: Any) -> None:
    good = shop.vault.encrypt("customers.email", EMAIL)
    text = refused(
        client, "invalid_envelope", lambda: shop.vault.decrypt_all("customers.email", [good, "AA"])
    )
    assert "item 1" in text


@dataclass
class Stub:
    """Stands in for a QIMEM that answers everything with one status."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)

    def __enter__(self) -> str:
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(stub.status)
                for name, value in (stub.headers | {"Content-Length": "2"}).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *arguments: object) -> None:
                """Tests read no log."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()
        return f"http://127.0.0.1:{self.server.server_port}"

    def __exit__(self, *arguments: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.mark.parametrize(
    ("status", "headers", "seconds"),
    [
        (503, {"Retry-After": "7"}, 7),
        (429, {"Retry-After": "30"}, 30),
        (503, {}, 1),
        (502, {}, 1),
        (504, {}, 1),
    ],
)
def test_a_qimem_that_cannot_now_says_when_to_come_back(
    shop: Shop, client: Any, status: int, headers: dict[str, str], seconds: int
) -> None:
    shop.table.insert(id="1", email=EMAIL)
    with Stub(status, headers) as url:
        vault = client.Vault(**(shop.realm.access | {"url": url}))
        shop.use(vault)
        for deed in (
            lambda: shop.table.get("1", "email"),
            lambda: shop.table.insert(id="2", email="eve@shop.example"),
        ):
            with pytest.raises(Exception) as caught:
                deed()
            assert isinstance(told(caught.value), client.Unavailable)
            assert told(caught.value).retry_after == seconds
            assert "shop.example" not in str(caught.value)
        vault.close()
    assert shop.ids() == ["1"]


def test_a_qimem_that_is_not_there_is_unavailable(shop: Shop, client: Any) -> None:
    vault = client.Vault(**(shop.realm.access | {"url": "http://127.0.0.1:1"}))
    shop.use(vault)
    with pytest.raises(Exception) as caught:
        shop.table.insert(id="1", email=EMAIL)
    assert isinstance(told(caught.value), client.Unavailable)
    vault.close()


@pytest.mark.parametrize("code", ["storage_unavailable", "overloaded", "outcome_unknown"])
def test_a_passing_failure_of_one_item_is_worth_repeating(client: Any, code: str) -> None:
    assert isinstance(client.failure(code, "x"), client.Unavailable)


@pytest.mark.parametrize("way", ["bulk_create", "bulk_update", "update_or_create", "get_or_create"])
def test_no_way_of_django_writes_plaintext(
    world: World, programs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    vault = programs["qimem_client"].Vault(**Realm.of(world).access)
    monkeypatch.setattr(programs["django_column"], "vault", lambda: vault)
    file, customer = tmp_path / "customers.db", programs["django_column"].Customer
    table = DjangoTable(programs["django_column"], file)
    one = customer(id="1", email=EMAIL)
    if way == "bulk_create":
        customer.objects.bulk_create([one])
    elif way == "bulk_update":
        customer.objects.create(id="1")
        customer.objects.bulk_update([one], ["email"])
    else:
        getattr(customer.objects, way)(id="1", defaults={"email": EMAIL})
    assert table.get("1", "email") == EMAIL
    assert EMAIL.encode() not in file.read_bytes()
    table.close()
    vault.close()


def test_a_migration_of_django_names_the_key(programs: dict[str, Any]) -> None:
    from django.db.migrations.writer import MigrationWriter

    written, _ = MigrationWriter.serialize(programs["django_column"].Customer._meta.get_field("email"))
    assert "key='customers.email'" in written
    assert "null=True" in written


@pytest.mark.parametrize(
    "asked",
    [
        lambda column: column == EMAIL,
        lambda column: column != EMAIL,
        lambda column: column < EMAIL,
        lambda column: column.in_([EMAIL]),
        lambda column: column.like("ada%"),
        lambda column: column.contains("ada"),
        lambda column: column.between("a", "b"),
        lambda column: column.desc(),
        lambda column: column == sa.bindparam("email"),
    ],
)
def test_no_comparison_of_sqlalchemy_goes_through(programs: dict[str, Any], asked: Any) -> None:
    with pytest.raises(TypeError, match=r"encrypted"):
        asked(programs["sqlalchemy_column"].Customer.email)


@pytest.mark.parametrize("lookup", ["exact", "in", "contains", "startswith", "gt", "iexact", "regex"])
def test_no_lookup_of_django_goes_through(programs: dict[str, Any], lookup: str) -> None:
    from django.core.exceptions import FieldError

    with pytest.raises(FieldError, match=r"email is encrypted"):
        programs["django_column"].Customer.objects.filter(**{f"email__{lookup}": EMAIL})


def test_a_failure_of_the_database_tells_no_plaintext(shop: Shop) -> None:
    shop.table.insert(id="1", email=EMAIL)
    with pytest.raises(Exception) as caught:
        shop.table.insert(id="1", email="eve@shop.example")
    assert "shop.example" not in str(caught.value)


def test_without_hidden_parameters_sqlalchemy_tells_them_as_the_page_says(
    programs: dict[str, Any], tmp_path: Path
) -> None:
    table = SqlalchemyTable(programs["sqlalchemy_column"], tmp_path / "customers.db", hide_parameters=False)
    with pytest.raises(sa.exc.StatementError, match=re.escape(EMAIL)):
        table.insert(id="1", email=EMAIL)
    table.close()


def test_a_dump_of_django_is_in_the_clear_as_the_page_says(programs: dict[str, Any]) -> None:
    from django.core import serializers

    assert EMAIL in serializers.serialize("json", [programs["django_column"].Customer(id="1", email=EMAIL)])


def test_a_deferred_card_is_opened_only_when_it_is_looked_at(
    world: World, programs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, opened = programs["sqlalchemy_column"], list[str]()
    vault = programs["qimem_client"].Vault(**Realm.of(world).access)
    decrypt = vault.decrypt
    monkeypatch.setattr(vault, "decrypt", lambda key, text: (opened.append(key), decrypt(key, text))[1])
    monkeypatch.setattr(program, "vault", vault)
    table = SqlalchemyTable(program, tmp_path / "customers.db")
    table.insert(id="1", email=EMAIL, card=CARD)
    with Session(table.engine) as session:
        customer = session.get_one(program.Customer, "1")
        assert opened == ["customers.email"]
        assert customer.card == CARD
        assert opened == ["customers.email", "customers.card"]
    table.close()
    vault.close()
