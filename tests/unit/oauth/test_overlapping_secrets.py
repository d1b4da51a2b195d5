"""While two secrets of a client overlap, a token of its own ends with the secret that it was got with."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qimem.crypto.mac import digest
from qimem.errors import Unauthenticated
from qimem.kernel.clock import MICROSECONDS
from qimem.kernel.secret import SecretText
from qimem.oauth.bearer import BearerAuthenticator
from qimem.oauth.client_auth import ClientAuthenticator
from qimem.oauth.client_secret import secret_id
from qimem.oauth.issuer import Authorization, Issuer
from qimem.oauth.models import GrantType
from tests.support.audit import a_draft
from tests.support.metering import FakeMeter
from tests.support.oauth import taken_apart
from tests.unit.oauth.fakes import ACME, APP, SECRET, Setting

pytestmark = pytest.mark.anyio

NEW = "qcs_new"
OVERLAP_SECONDS = 10


class Rotated(Setting):
    """A client whose secret is replaced while the old one is good for ten seconds more."""

    def __init__(self) -> None:
        super().__init__()
        self.door = ClientAuthenticator(self.database, self.caches, self.clients, self.standing, self.clock)
        self.issuer = Issuer(self.caches, self.work, self.standing, self.access_tokens, self.keys, self.clock)
        self.bearer = self.a_worker()

    def a_worker(self) -> BearerAuthenticator:
        """One that remembers nothing yet."""
        return BearerAuthenticator(
            self.caches, self.access_tokens, self.keys, self.standing, self.grants, self.clock
        )

    def rotate(self) -> None:
        self.change(
            self.clients,
            (ACME, APP),
            secret_digest=digest(NEW.encode()),
            previous_digest=digest(SECRET.encode()),
            previous_until_us=self.clock.now_us() + OVERLAP_SECONDS * MICROSECONDS,
        )

    async def token_for(self, secret: str) -> str:
        client = await self.door.authenticate(APP, SecretText(secret), None, FakeMeter())
        asked = Authorization(
            GrantType.CLIENT_CREDENTIALS, ACME, client.client_id, None, None, None, a_draft(), client
        )
        return (await self.issuer.issue(asked)).access_token

    async def opens(self, token: str) -> bool:
        try:
            await self.bearer.authenticate(f"Bearer {token}".encode())
        except Unauthenticated:
            return False
        return True


@pytest.fixture
async def rotated() -> Rotated:
    return Rotated()


async def test_a_token_names_the_secret_that_was_shown(rotated: Rotated) -> None:
    rotated.rotate()
    for secret in (SECRET, NEW):
        claims = taken_apart(await rotated.token_for(secret))[1]
        assert claims["secret_id"] == secret_id(digest(secret.encode()))


@pytest.mark.parametrize("got", ["before the rotation", "while they overlap"])
@pytest.mark.parametrize("remembered", [True, False])
async def test_a_token_got_with_the_old_secret_ends_with_the_overlap(
    rotated: Rotated, got: str, remembered: bool
) -> None:
    token = await rotated.token_for(SECRET) if got == "before the rotation" else ""
    rotated.rotate()
    token = token or await rotated.token_for(SECRET)
    rotated.clock.advance(OVERLAP_SECONDS - 0.000_001)
    if remembered:
        assert await rotated.opens(token)
    else:
        rotated.epochs.bump(None, ACME)  # type: ignore[arg-type]  # it needs no transaction
    rotated.clock.advance(0.000_001)
    assert not await rotated.opens(token)


async def test_a_token_got_with_the_new_secret_goes_on(rotated: Rotated) -> None:
    rotated.rotate()
    token = await rotated.token_for(NEW)
    assert await rotated.opens(token)
    rotated.clock.advance(OVERLAP_SECONDS + 1)
    assert await rotated.opens(token)


async def test_a_second_rotation_within_the_overlap_ends_the_first_secret(rotated: Rotated) -> None:
    rotated.rotate()
    first, second = await rotated.token_for(SECRET), await rotated.token_for(NEW)
    client = rotated.clients.rows[ACME, APP]
    rotated.change(
        rotated.clients, (ACME, APP), secret_digest=digest(b"third"), previous_digest=client.secret_digest
    )
    assert [await rotated.opens(first), await rotated.opens(second)] == [False, True]


async def test_a_secret_that_was_taken_away_after_it_was_shown_gets_no_token(rotated: Rotated) -> None:
    rotated.rotate()
    client = await rotated.door.authenticate(APP, SecretText(SECRET), None, FakeMeter())
    rotated.clock.advance(OVERLAP_SECONDS)
    asked = Authorization(
        GrantType.CLIENT_CREDENTIALS, ACME, client.client_id, None, None, None, a_draft(), client
    )
    with pytest.raises(Exception, match="invalid credentials"):
        await rotated.issuer.issue(asked)
    rotated.clients.rows[ACME, APP] = replace(
        rotated.clients.rows[ACME, APP], previous_digest=None, previous_until_us=None
    )
    with pytest.raises(Exception, match="invalid credentials"):
        await rotated.issuer.issue(asked)
