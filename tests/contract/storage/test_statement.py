"""Statements mean the same on both databases."""

from __future__ import annotations

import os
from uuid import UUID

import pytest
import sqlalchemy as sa

from qimem.kernel.transaction import Tx
from qimem.storage.database import OpenDatabase
from qimem.storage.postgres_connection import POSTGRESQL
from qimem.storage.schema import app_user, client, instance, realm, spent
from qimem.storage.statement import SQLITE, sql
from tests.contract.storage.rows import CLAIM, INSERT_INSTANCE, INSERT_REALM, add_realm, claim

pytestmark = pytest.mark.anyio

IDENTIFIER = UUID("00112233-4455-6677-8899-aabbccddeeff")


async def test_identifiers_and_bytes_come_back_as_they_went(database: OpenDatabase) -> None:
    every_byte = bytes(range(256))
    values = (1, IDENTIFIER, every_byte, b"", None, 2**62)
    names = [column.name for column in instance.c]
    await database.write(lambda tx: tx.run(INSERT_INSTANCE, **dict(zip(names, values, strict=True))))
    row = await database.read(lambda tx: tx.one(sql(sa.select(*instance.c))))
    assert row == values
    assert type(row) is tuple
    assert [type(value) for value in row] == [int, UUID, bytes, bytes, type(None), int]


async def test_booleans_are_booleans(database: OpenDatabase) -> None:
    values = {"realm_id": "acme", "name": "A", "created_us": 0}
    await database.write(
        lambda tx: tx.run(
            INSERT_REALM,
            **values,
            enabled=False,
            deleted_us=None,
            password_min_length=8,
            allow_password_grant=None,
            refresh_grace_seconds=None,
        )
    )
    [row] = await database.read(lambda tx: tx.all(sql(sa.select(realm.c.enabled, realm.c.name))))
    assert row[0] is False


@pytest.mark.parametrize("text", ["", "a'b\"c", "%s ? :x \\ %(a)s", "é\U0001f511", "a\nb"])
async def test_text_is_data_and_never_sql(database: OpenDatabase, text: str) -> None:
    await database.write(
        lambda tx: tx.run(
            INSERT_REALM,
            realm_id="r",
            name=text,
            enabled=True,
            created_us=0,
            deleted_us=None,
            password_min_length=8,
            allow_password_grant=None,
            refresh_grace_seconds=None,
        )
    )
    found = sql(sa.select(realm.c.name).where(realm.c.name == sa.bindparam("name")))
    assert await database.read(lambda tx: tx.one(found, name=text)) == (text,)


async def test_an_identifier_is_found_by_its_value(database: OpenDatabase) -> None:
    find = sql(sa.select(app_user.c.username).where(app_user.c.user_id == sa.bindparam("user_id")))
    add = sql(sa.insert(app_user).values({column.name: sa.bindparam(column.name) for column in app_user.c}))

    def work(tx: Tx) -> None:
        add_realm(tx)
        tx.run(add, realm_id="acme", user_id=IDENTIFIER, username="Ada", username_key="ada", email=None,
               enabled=True, created_us=1)  # fmt: skip

    await database.write(work)
    assert await database.read(lambda tx: tx.one(find, user_id=IDENTIFIER)) == ("Ada",)
    assert await database.read(lambda tx: tx.one(find, user_id=UUID(int=1))) is None


async def test_of_two_inserts_of_one_key_the_second_returns_nothing(database: OpenDatabase) -> None:
    def twice(tx: Tx) -> tuple[bool, bool]:
        add_realm(tx)
        return claim(tx, b"key"), claim(tx, b"key")

    assert await database.write(twice) == (True, False)


async def test_changed_rows_are_counted(database: OpenDatabase) -> None:
    late = sql(
        sa.update(spent).where(spent.c.expires_us >= sa.bindparam("from_us")).values(expires_us=sa.literal(9))
    )

    def work(tx: Tx) -> tuple[int, int, int]:
        add_realm(tx)
        for number in range(5):
            claim(tx, b"%d" % number, expires_us=number)
        ignored = tx.run(CLAIM, realm_id="acme", kind="code", key_digest=b"1", expires_us=1)
        return tx.run(late, from_us=3), tx.run(late, from_us=10), ignored

    assert await database.write(work) == (2, 0, 0)


async def test_update_and_delete_return_rows(database: OpenDatabase) -> None:
    spend = sql(
        sa.update(spent)
        .where(spent.c.key_digest == sa.bindparam("of_key"), spent.c.expires_us == 1)
        .values(expires_us=2)
        .returning(spent.c.kind, spent.c.expires_us)
    )
    remove = sql(sa.delete(spent).where(spent.c.expires_us == 2).returning(spent.c.key_digest))

    def work(tx: Tx) -> list[object]:
        add_realm(tx)
        claim(tx, b"key")
        return [tx.one(spend, of_key=b"key"), tx.one(spend, of_key=b"key"), tx.all(remove), tx.all(remove)]

    assert await database.write(work) == [("code", 2), None, [(b"key",)], []]


async def test_one_has_its_effect_on_every_row(database: OpenDatabase) -> None:
    remove = sql(sa.delete(spent).returning(spent.c.key_digest))

    def work(tx: Tx) -> object:
        add_realm(tx)
        for number in range(5):
            claim(tx, b"%d" % number)
        tx.one(remove)
        return tx.all(remove)

    assert await database.write(work) == []


async def test_pages_continue_after_a_pair_of_columns(database: OpenDatabase) -> None:
    page = sql(
        sa.select(spent.c.expires_us, spent.c.key_digest)
        .where(
            sa.tuple_(spent.c.expires_us, spent.c.key_digest)
            > sa.tuple_(
                sa.bindparam("after_us", type_=sa.BigInteger), sa.bindparam("after", type_=sa.LargeBinary)
            )
        )
        .order_by(spent.c.expires_us, spent.c.key_digest)
        .limit(sa.bindparam("count"))
    )

    def work(tx: Tx) -> list[object]:
        add_realm(tx)
        for number in range(7):
            claim(tx, b"%d" % number, expires_us=number // 3)
        found, position = [], (-1, b"")
        while rows := tx.all(page, after_us=position[0], after=position[1], count=2):
            found += rows
            position = rows[-1]
        return found

    assert await database.write(work) == [(number // 3, b"%d" % number) for number in range(7)]


async def test_a_column_left_out_is_null(database: OpenDatabase) -> None:
    given = [column for column in client.c if not column.nullable or column.name == "secret_digest"]
    add = sql(sa.insert(client).values({column.name: sa.bindparam(column.name) for column in given}))
    values = {column.name: "x" for column in given} | {
        "realm_id": "acme", "enabled": True, "created_us": 1, "secret_digest": b"d",
    }  # fmt: skip

    def work(tx: Tx) -> object:
        add_realm(tx)
        tx.run(add, **values)
        return tx.one(sql(sa.select(client.c.name, client.c.scope, client.c.secret_digest)))

    assert await database.write(work) == (None, None, b"d")


async def test_null_may_be_fixed_in_the_statement(database: OpenDatabase) -> None:
    clear = sql(sa.update(realm).values(name=None).where(sa.literal(value=False)))
    assert await database.write(lambda tx: tx.run(clear)) == 0


async def test_one_statement_runs_for_many_rows(database: OpenDatabase) -> None:
    rows = [
        {
            "realm_id": f"r{n}",
            "name": "x",
            "enabled": True,
            "created_us": n,
            "deleted_us": None,
            "password_min_length": 8,
            "allow_password_grant": None,
            "refresh_grace_seconds": None,
        }
        for n in range(5)
    ]
    await database.write(lambda tx: tx.run_each(INSERT_REALM, rows))
    count = sql(sa.select(sa.func.count()).select_from(realm))
    assert await database.read(lambda tx: tx.one(count)) == (5,)


async def test_a_missing_parameter_is_an_error_before_anything_is_sent(database: OpenDatabase) -> None:
    with pytest.raises(KeyError, match="created_us"):
        await database.write(
            lambda tx: tx.run(
                INSERT_REALM,
                realm_id="acme",
                name="A",
                enabled=True,
                deleted_us=None,
                password_min_length=8,
                allow_password_grant=None,
                refresh_grace_seconds=None,
            )
        )


@pytest.mark.parametrize("dialect", [SQLITE, POSTGRESQL], ids=lambda dialect: dialect.name)
def test_a_statement_is_compiled_once(dialect) -> None:
    statement = sql(
        sa.select(spent.c.kind).where(spent.c.realm_id == sa.bindparam("r"), spent.c.kind == "code")
    )
    assert statement.on(dialect) is statement.on(dialect)
    assert statement.on(dialect).arguments({"r": "acme"}) == ("acme", "code")


def test_random_bytes_survive_being_bound() -> None:
    compiled = sql(sa.select(instance.c.key_check).where(instance.c.key_check == sa.bindparam("k"))).on(
        SQLITE
    )
    value = os.urandom(64)
    assert compiled.arguments({"k": value}) == (value,)
