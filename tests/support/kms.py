"""Keys for tests: made and used over HTTP, and their rows as another worker of the installation sees them."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

import httpx
import sqlalchemy as sa

from qimem.crypto.algorithms import Algorithm
from qimem.kernel.ids import RealmId
from qimem.kernel.secret import SecretBytes
from qimem.kernel.transaction import Tx
from qimem.kms.hierarchy import RealmKek
from qimem.kms.keyring import Keyring
from qimem.kms.models import KeyVersion, Purpose, WrappedMaterial
from qimem.kms.root_keys import RootKeys
from qimem.kms.seal.custody import beside
from qimem.kms.seal.keyfile import KeyFileSeal
from qimem.storage.database import DatabaseLocation, OpenDatabase
from qimem.storage.repositories.instance import InstanceRepository
from qimem.storage.repositories.kms_keys import KeyRepository
from qimem.storage.schema import kms_key, kms_version
from qimem.storage.statement import sql
from tests.support.api import Person
from tests.support.server import Server, ok

T = TypeVar("T")
Where = dict[str, object]

KEYS = "/v1/security/keys"
ENCRYPT = "/v1/security/encrypt"
DECRYPT = "/v1/security/decrypt"
ROTATE = "/v1/security/rotate"

ABSENT = "3fa85f64-5717-4562-b3fc-2c963f66afa6"
"""A key id that no server gave out."""

_KEYS = KeyRepository()
_INTERNAL = sql(
    sa.select(kms_version.c.key_id)
    .join(
        kms_key,
        sa.and_(
            kms_key.c.realm_id == kms_version.c.realm_id, kms_key.c.lineage_id == kms_version.c.lineage_id
        ),
    )
    .where(kms_key.c.realm_id == sa.bindparam("realm_id"), kms_key.c.purpose != Purpose.ENCRYPTION.value)
)


def new_key(person: Person, **fields: Any) -> dict[str, Any]:
    """A new key's metadata."""
    return ok(person.post(KEYS, fields))


def rotate(person: Person, **key: Any) -> dict[str, Any]:
    """The new version's metadata."""
    return ok(person.post(ROTATE, key))


def seal(person: Person, text: str = "a secret", **key: Any) -> str:
    """An envelope in base64."""
    return ok(person.post(ENCRYPT, {"input": text, **key}))["envelope"]


def unsealed(person: Person, envelope: str, **more: Any) -> str:
    """The text in an envelope."""
    return ok(person.post(DECRYPT, {"input": envelope, **more}))["plaintext"]


def without_id(answer: httpx.Response) -> dict[str, Any]:
    """An error's body but for its request id."""
    body = answer.json()
    assert body.pop("request_id") == answer.headers["x-request-id"]
    return body


def alike(first: tuple[httpx.Response, str], second: tuple[httpx.Response, str]) -> None:
    """Two refusals that tell nothing apart but the name that each was asked with."""
    seen = []
    for answer, name in (first, second):
        text = json.dumps(without_id(answer)).replace(name, "<asked>")
        headers = sorted(header for header, _ in answer.headers.multi_items())
        seen.append((answer.status_code, text, headers))
    assert seen[0] == seen[1]


def at_once(calls: list[Callable[[], T]]) -> list[T]:
    """The results of calls that all run at the same time."""
    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(lambda call: call(), calls))


def patched(data: bytes, at: int, value: bytes) -> bytes:
    """The bytes with some of them replaced."""
    return data[:at] + value + data[at + len(value) :]


def repacked(envelope: str, change: Callable[[bytes], bytes]) -> str:
    """The base64 of what `change` makes of an envelope's bytes."""
    return base64.b64encode(change(base64.b64decode(envelope))).decode()


def naming(envelope: str, key_id: str) -> str:
    """The envelope with another key's id in it."""
    return repacked(envelope, lambda data: patched(data, 2, UUID(key_id).bytes))


def tampered(envelope: str) -> str:
    """The envelope with the last bit of its tag flipped."""
    return repacked(envelope, lambda data: data[:-1] + bytes((data[-1] ^ 1,)))


def fetch(tx: Tx, table: sa.Table, column: str, where: Where) -> Any:
    """One column of the one row."""
    chosen = [table.c[name] == sa.bindparam(name) for name in where]
    row = tx.one(sql(sa.select(table.c[column]).where(*chosen)), **where)
    assert row is not None
    return row[0]


def put(tx: Tx, table: sa.Table, where: Where, **values: object) -> None:
    """Overwrite columns of the one row."""
    chosen = [table.c[name] == sa.bindparam(f"of_{name}") for name in where]
    statement = sa.update(table).where(*chosen).values({name: sa.bindparam(f"to_{name}") for name in values})
    given = {f"of_{name}": value for name, value in where.items()}
    assert tx.run(sql(statement), **given, **{f"to_{name}": value for name, value in values.items()}) == 1


def swap(tx: Tx, table: sa.Table, column: str, first: Where, second: Where) -> None:
    """Exchange one column of two rows."""
    values = [fetch(tx, table, column, where) for where in (first, second)]
    put(tx, table, first, **{column: values[1]})
    put(tx, table, second, **{column: values[0]})


@dataclass(frozen=True)
class Rows:
    """The rows under a running server, through a connection of our own, as a second worker has one."""

    server: Server

    def write(self, work: Callable[[Tx], T]) -> T:
        return self._with(lambda database: database.write(work))

    def read(self, work: Callable[[Tx], T]) -> T:
        return self._with(lambda database: database.read(work))

    def set_messages_leased(self, realm_id: str, key_id: str, count: int) -> None:
        """Pretend that so many messages were handed out."""
        where = {"realm_id": realm_id, "key_id": UUID(key_id)}
        self.write(lambda tx: put(tx, kms_version, where, messages_leased=count))

    def internal_keys(self, realm_id: str) -> list[str]:
        """Ids of the keys that the realm has for itself."""
        rows = self.read(lambda tx: tx.all(_INTERNAL, realm_id=realm_id))
        assert len(rows) == 3
        return [str(row[0]) for row in rows]

    def kek(self, realm_id: str) -> RealmKek:
        """The realm's key-encryption key, unwrapped with the installation's root key."""

        async def unwrap(database: OpenDatabase) -> RealmKek:
            instance = await database.read(InstanceRepository().find)
            assert instance is not None
            root_keys = RootKeys(instance.instance_id, KeyFileSeal(beside(self.server.data)).load())
            return await Keyring(root_keys, database, _KEYS).record_sealer(RealmId(realm_id))

        return self._with(unwrap)

    def plant(
        self, realm_id: str, key_id: str, material: bytes, algorithm: Algorithm = Algorithm.AES256_GCM
    ) -> KeyVersion:
        """A key with known material, wrapped and stored as the installation's own are."""
        version = KeyVersion(
            realm_id=RealmId(realm_id),
            key_id=UUID(key_id),
            lineage_id=UUID(key_id),
            version=1,
            active=True,
            enabled=True,
            purpose=Purpose.ENCRYPTION,
            algorithm=algorithm,
            name=None,
            created_us=1_700_000_000_000_000,
        )
        kek = self.kek(realm_id)
        stored = WrappedMaterial(kek.wrap_material(version, SecretBytes(material)), kek.version)
        assert self.write(lambda tx: _KEYS.insert_key(tx, version, stored))
        return version

    def _with(self, work: Callable[[OpenDatabase], Awaitable[T]]) -> T:
        async def run() -> T:
            database = DatabaseLocation(self.server.data, self.server.database_url).open()
            try:
                return await work(database)
            finally:
                await database.close()

        return asyncio.run(run())
