"""What the doors of bearers and clients keep in memory: the right things, under the right name, and not too many."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest

from qimem.crypto.mac import digest
from qimem.kernel.context import Actor
from qimem.kernel.limits import RECENT_BEARER_CHARS_MAX
from qimem.kernel.secret import SecretText
from qimem.oauth import access_token, bearer, client_auth
from qimem.oauth.bearer import BearerAuthenticator
from qimem.oauth.client_auth import ClientAuthenticator
from tests.support.metering import FakeMeter
from tests.unit.oauth.fakes import ACME, ADA, APP, SECRET, Setting, a_client

pytestmark = pytest.mark.anyio

BOB = UUID(int=2)


class Doors(Setting):
    """Both doors in front of acme, and how often a signature was verified."""

    def __init__(self) -> None:
        super().__init__()
        bob = replace(self.users.rows[ACME, ADA][0], user_id=BOB, username_key="bob", roles=())
        self.users.rows[ACME, BOB] = (bob, "hash")
        self.bearer = BearerAuthenticator(
            self.caches, self.access_tokens, self.keys, self.standing, self.grants, self.clock
        )
        self.clients_door = ClientAuthenticator(
            self.database, self.caches, self.clients, self.standing, self.clock
        )
        self.verified = 0
        verify = self.access_tokens.verify

        async def counted(token: str) -> object:
            self.verified += 1
            return await verify(token)

        self.access_tokens.verify = counted  # type: ignore[method-assign, assignment]

    async def enter(self, token: str) -> Actor:
        return (await self.bearer.authenticate(f"Bearer {token}".encode()))[0]

    async def token_of(self, user_id: UUID, number: int = 0) -> str:
        standing = await self.database.read(lambda tx: self.standing.load(tx, ACME, APP, user_id))
        assert standing is not None
        return await self.access_tokens.write(ACME, standing, None, None, 900, f"{user_id}-{number}")


@pytest.fixture
async def doors() -> Doors:
    return Doors()


async def test_each_token_is_remembered_for_its_own_holder(doors: Doors) -> None:
    of_ada, of_bob = await doors.token_of(ADA), await doors.token_of(BOB)
    for _ in range(3):
        assert (await doors.enter(of_ada)).subject == str(ADA)
        assert (await doors.enter(of_bob)).subject == str(BOB)
        assert not (await doors.enter(of_bob)).permissions.names


async def test_a_signature_is_verified_once_whatever_changes_in_the_realm(doors: Doors) -> None:
    token = await doors.token_of(ADA)
    for _ in range(3):
        await doors.enter(token)
        doors.change(doors.users, (ACME, BOB), roles=("clerk",))
    assert doors.verified == 1


async def test_a_verified_token_in_another_header_is_not_verified_again(doors: Doors) -> None:
    token = await doors.token_of(ADA)
    for scheme in (b"Bearer ", b"bearer ", b"BEARER "):
        await doors.bearer.authenticate(scheme + token.encode())
    assert doors.verified == 1


async def test_a_header_that_is_recognized_needs_no_digest(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await doors.token_of(ADA)
    actor = await doors.enter(token)

    def never(_: bytes) -> bytes:
        raise AssertionError

    monkeypatch.setattr(bearer, "digest", never)
    assert await doors.enter(token) is actor


async def test_what_is_known_of_an_actor_is_found_under_the_token_alone(doors: Doors) -> None:
    token = await doors.token_of(ADA)
    actor = await doors.enter(token)
    cache = await doors.caches.fresh(ACME)
    assert cache is not None
    assert cache.find("actor", digest(token.encode()))[0] is actor
    assert list(cache._entries) == [("actor", digest(token.encode()))]
    doors.database.reads = 0
    await doors.enter(token)
    assert doors.database.reads == 0


async def test_a_header_of_just_the_length_is_recognized(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await doors.token_of(ADA)
    header = f"Bearer {token}".encode()
    assert len(header) < RECENT_BEARER_CHARS_MAX
    monkeypatch.setattr(bearer, "RECENT_BEARER_CHARS_MAX", len(header))
    await doors.enter(token)
    assert doors.bearer._recent.keys() == {header}


async def test_so_many_signatures_are_remembered_and_the_oldest_goes(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bearer, "VERIFIED_TOKENS_MAX", 2)
    tokens = [await doors.token_of(ADA, number) for number in range(3)]
    for token in tokens:
        await doors.enter(token)
    assert list(doors.bearer._verified) == [digest(token.encode()) for token in tokens[1:]]


async def test_a_clients_record_is_found_under_its_id_alone(doors: Doors) -> None:
    doors.clients.rows[ACME, "second"] = a_client("second", name="second")
    for client_id in (APP, "second", APP, "second"):
        found = await doors.clients_door.authenticate(client_id, SecretText(SECRET), None, FakeMeter())
        assert found.client_id == client_id
    cache = await doors.caches.fresh(ACME)
    assert cache is not None
    assert list(cache._entries) == [("client", APP), ("client", "second")]


async def test_so_many_realms_of_clients_are_remembered_and_the_oldest_goes(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_auth, "CACHED_REALMS_MAX", 2)
    for name in ("one", "two", "three"):
        doors.clients.rows[ACME, name] = a_client(name)
        await doors.clients_door.authenticate(name, SecretText(SECRET), None, FakeMeter())
    assert list(doors.clients_door._realm_of) == ["two", "three"]


async def test_headers_of_tokens_are_made_once_for_each_key_and_for_so_many(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access_token, "CACHED_REALMS_MAX", 2)
    seen = []
    for _ in range(3):
        kid = doors.keys.rotate(ACME)
        await doors.token_of(ADA)
        made = doors.access_tokens._writers[kid]
        await doors.token_of(ADA)
        assert doors.access_tokens._writers[kid] is made
        seen.append(kid)
    assert list(doors.access_tokens._writers) == seen[2:]
