"""Refresh tokens: opaque, never stored, one live one per grant.

    qrt_ + base64url( realm length u8 ‖ realm ‖ grant id 16 ‖ generation u32 ‖ HMAC-SHA256 32 )

The tag covers realm, grant, generation and client under the realm's refresh key. The database holds
only the generation: a stolen copy has no token in it, a refresh writes one row, and the successor of
a spent token can be derived again for a client that lost the answer.
"""

from __future__ import annotations

import base64
import binascii
import struct
from dataclasses import dataclass
from uuid import UUID

from qimem.kernel.ids import ClientId, RealmId, is_realm_id
from qimem.kernel.transaction import Database
from qimem.oauth.models import GrantRecord
from qimem.oauth.ports import GrantStore, RefreshMac

PREFIX = "qrt_"
_TAIL = struct.Struct(">16sI")
_TAG_BYTES = 32
_CHARS_MAX = 256


@dataclass(frozen=True, slots=True)
class PresentedRefreshToken:
    """A refresh token as parsed; worth nothing until its tag was verified."""

    realm_id: RealmId
    grant_id: UUID
    generation: int
    tag: bytes


def parse_refresh_token(token: str) -> PresentedRefreshToken | None:
    """Read a refresh token; None when it cannot be one of ours, in exactly one spelling."""
    if len(token) > _CHARS_MAX or not token.startswith(PREFIX) or not token.isascii():
        return None
    text = token[len(PREFIX) :]
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        return None
    if _encode(data) != token or len(data) < 1 + _TAIL.size + _TAG_BYTES:
        return None
    end = 1 + data[0]
    if len(data) != end + _TAIL.size + _TAG_BYTES:
        return None
    realm = data[1:end].decode("latin-1")
    if not is_realm_id(realm):
        return None
    grant_id, generation = _TAIL.unpack_from(data, end)
    return PresentedRefreshToken(RealmId(realm), UUID(bytes=grant_id), generation, data[-_TAG_BYTES:])


class RefreshTokens:
    """Finds the grant behind a refresh token; every path that takes one comes through here."""

    def __init__(self, database: Database, grants: GrantStore, macs: RefreshMac) -> None:
        self._database = database
        self._grants = grants
        self._macs = macs

    async def find(self, text: str) -> tuple[PresentedRefreshToken, GrantRecord] | None:
        """The token and its grant as it stands, dead or alive; None unless the token is ours.

        Raises:
            Unavailable: storage cannot answer.
        """
        token = parse_refresh_token(text)
        if token is None:
            return None
        grant = await self._database.read(lambda tx: self._grants.find(tx, token.realm_id, token.grant_id))
        if grant is None or not await is_genuine(self._macs, token, grant.client_id):
            return None
        return token, grant


async def make_refresh_token(
    macs: RefreshMac, realm_id: RealmId, grant_id: UUID, generation: int, client_id: ClientId
) -> str:
    """The refresh token of one generation; always the same for the same arguments."""
    tag = await macs.tag(realm_id, _covered(realm_id, grant_id, generation, client_id))
    realm = realm_id.encode()
    return _encode(bytes((len(realm),)) + realm + _TAIL.pack(grant_id.bytes, generation) + tag)


async def is_genuine(macs: RefreshMac, token: PresentedRefreshToken, client_id: ClientId) -> bool:
    """Whether the tag is ours for this client."""
    covered = _covered(token.realm_id, token.grant_id, token.generation, client_id)
    return await macs.verify(token.realm_id, covered, token.tag)


def _covered(realm_id: RealmId, grant_id: UUID, generation: int, client_id: ClientId) -> bytes:
    realm, client = realm_id.encode(), client_id.encode()
    # Lengths first, so that realm and client cannot lend each other characters.
    return b"".join(
        (
            b"qimem refresh token v1\0",
            struct.pack(">H", len(realm)),
            realm,
            struct.pack(">H", len(client)),
            client,
            _TAIL.pack(grant_id.bytes, generation),
        )
    )


def _encode(data: bytes) -> str:
    return PREFIX + base64.urlsafe_b64encode(data).rstrip(b"=").decode()
