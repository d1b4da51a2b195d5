"""Tokens taken apart and forged, and the installation behind a running server.

A test that says "disabled" or "expired" must not wait for the endpoint that does it or for the clock:
it changes the row as one more worker of the same installation would, epoch included. A forged token
is signed with the realm's genuine key, so that exactly one thing about it is wrong.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import httpx
import sqlalchemy as sa
import uvloop

from qimem.crypto.signatures import ES256Signer
from qimem.kernel.ids import RealmId
from qimem.kernel.transaction import Tx
from qimem.kms.keyring import Keyring
from qimem.kms.models import Purpose
from qimem.kms.root_keys import RootKeys
from qimem.kms.seal.keyfile import KeyFileSeal
from qimem.storage.database import DatabaseLocation, OpenDatabase
from qimem.storage.repositories.instance import InstanceRepository
from qimem.storage.repositories.kms_keys import KeyRepository
from qimem.storage.statement import sql
from tests.support.api import World
from tests.support.server import Server, refused

T = TypeVar("T")
Json = dict[str, Any]

PROTECTED = "/v1/security/keys"
"""Wants `keys:read`, and changes nothing."""


@cache
def nobody(world: World) -> httpx.Client:
    """A caller without a token, the same one for every test: a new one costs as much as a login."""
    return world.anonymous()


def protected(world: World, token: str) -> httpx.Response:
    """The answer of an endpoint that wants a bearer, to this token."""
    return nobody(world).get(PROTECTED, headers={"Authorization": f"Bearer {token}"})


def b64(data: bytes) -> str:
    """base64url without padding (RFC 7515 §2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def taken_apart(token: str) -> tuple[Json, Json, bytes]:
    """Header, claims and signature of a compact JWS, unverified."""
    header, claims, signature = token.split(".")
    return json.loads(unb64(header)), json.loads(unb64(claims)), unb64(signature)


def signing_input(header: object, claims: object) -> str:
    return ".".join(b64(json.dumps(part, separators=(",", ":")).encode()) for part in (header, claims))


CHANGING = {"x-request-id", "date", "x-ratelimit-remaining", "x-ratelimit-reset"}
"""Headers that differ from one answer to the next, whatever is asked."""


def without(answer: httpx.Response) -> tuple[int, Json, Json]:
    """Status, body and headers of an answer, without what differs between any two requests."""
    body = {name: value for name, value in answer.json().items() if name != "request_id"}
    headers = {name: value for name, value in answer.headers.items() if name not in CHANGING}
    return answer.status_code, body, headers


def at_once(calls: list[Callable[[], T]]) -> list[T]:
    """What the calls return, all of them made at the same time."""
    with ThreadPoolExecutor(len(calls)) as threads:
        return [future.result() for future in [threads.submit(call) for call in calls]]


def unwelcome(answer: httpx.Response) -> None:
    """The one answer for everything that is no good token."""
    body = refused(answer, 401, "invalid_token")
    assert body["error"] == "invalid access token"
    assert body.keys() == {"error", "code", "request_id"}
    assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    assert answer.headers["cache-control"] == "no-store"


@dataclass
class Behind:
    """The installation as one more worker has it open."""

    database: OpenDatabase
    keyring: Keyring


def behind(server: Server, work: Callable[[Behind], Awaitable[T]]) -> T:
    """Run `work` on the installation of a running server."""

    async def run() -> T:
        database = DatabaseLocation(server.data, server.database_url).open()
        try:
            instance = await database.read(InstanceRepository().find)
            assert instance is not None
            root_key = KeyFileSeal(Path(f"{server.data}.root.key")).load()
            keyring = Keyring(RootKeys(instance.instance_id, root_key), database, KeyRepository())
            return await work(Behind(database, keyring))
        finally:
            await database.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())


def change(server: Server, table: sa.Table, values: Mapping[str, Any], *, realm_id: str, **where: Any) -> int:
    """Update rows of a realm and bump its epoch, in one transaction; how many rows."""
    statement = sql(sa.update(table).where(*_rows(table, realm_id, where)).values(**values))
    return _write(server, realm_id, statement)


def remove(server: Server, table: sa.Table, *, realm_id: str, **where: Any) -> int:
    """Delete rows of a realm and bump its epoch, in one transaction; how many rows."""
    return _write(server, realm_id, sql(sa.delete(table).where(*_rows(table, realm_id, where))))


def add(server: Server, table: sa.Table, *, realm_id: str, **values: Any) -> int:
    """Insert a row into a realm and bump its epoch, in one transaction."""
    return _write(server, realm_id, sql(sa.insert(table).values(realm_id=realm_id, **values)))


def rows(server: Server, table: sa.Table, *, realm_id: str, **where: Any) -> list[Json]:
    """Rows of a realm as dictionaries."""
    statement = sql(sa.select(*table.c).where(*_rows(table, realm_id, where)))

    async def read(here: Behind) -> list[Json]:
        found = await here.database.read(lambda tx: tx.all(statement))
        return [dict(zip(table.c.keys(), row, strict=True)) for row in found]

    return behind(server, read)


@dataclass
class Forger:
    """Makes variants of one genuine access token, signed by the same key.

    Args:
        signer: Signs for the realm; see `forger`.
    """

    header: Json
    claims: Json
    signer: Callable[[bytes], bytes]

    def forge(self, header: Mapping[str, Any] | None = None, **claims: Any) -> str:
        """A signed token: the genuine one with these header members and claims; None removes one."""
        head = _merged(self.header, header or {})
        body = _merged(self.claims, {"jti": f"forged-{time.monotonic_ns()}"} | claims)
        return self.compact(head, body)

    def compact(self, header: object, claims: object) -> str:
        """A signed token of exactly this header and these claims."""
        text = signing_input(header, claims)
        return f"{text}.{b64(self.signer(text.encode()))}"


def forger(server: Server, token: str) -> Forger:
    """A forger who has stolen the signing key of the realm that issued the token."""
    header, claims, _ = taken_apart(token)
    realm_id = RealmId(claims["realm"])

    async def steal(here: Behind) -> ES256Signer:
        find = KeyRepository().find_internal
        versions = await here.database.read(lambda tx: find(tx, realm_id, Purpose.TOKEN_SIGNING))
        return await here.keyring.handle(next(one for one in versions if one.active), ES256Signer)

    return Forger(header, claims, behind(server, steal).sign)


def _merged(genuine: Json, changed: Mapping[str, Any]) -> Json:
    return {name: value for name, value in (genuine | dict(changed)).items() if value is not None}


def _rows(table: sa.Table, realm_id: str, where: Mapping[str, Any]) -> list[Any]:
    return [table.c.realm_id == realm_id, *(table.c[name] == value for name, value in where.items())]


def _write(server: Server, realm_id: str, statement: Any) -> int:
    async def write(here: Behind) -> int:
        def both(tx: Tx) -> int:
            changed = tx.run(statement)
            here.database.bump(tx, RealmId(realm_id))
            return changed

        return await here.database.write(both)

    return behind(server, write)
