"""`/v1/security`: keys, encrypt, decrypt, rotate."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from qimem.wire.common import ErrorBody, Request, Response

KeyName = Annotated[str, Meta(max_length=63, description="Unique in the realm, `[a-z0-9][a-z0-9._-]{0,62}`")]


class CreateKeyRequest(Request, frozen=True, kw_only=True):
    """POST /v1/security/keys."""

    algorithm: str | None = None
    name: KeyName | None = None
    realm_id: str | None = None


class KeyMetadata(Response, frozen=True, kw_only=True):
    """One key version."""

    key_id: UUID
    lineage_id: UUID
    version: int
    active: bool
    enabled: bool
    algorithm: str
    name: str | None
    created_at: str


class KeyDetails(KeyMetadata, frozen=True, kw_only=True):
    """One key version and all versions of its lineage, oldest first."""

    versions: list[KeyMetadata]


class EncryptItem(Request, frozen=True, kw_only=True):
    """One plaintext. Exactly one of `input` and `input_b64`; exactly one of the key fields."""

    input: str | None = None
    input_b64: str | None = None
    key_id: UUID | None = None
    lineage_id: UUID | None = None
    name: str | None = None


class EncryptRequest(EncryptItem, frozen=True, kw_only=True):
    """POST /v1/security/encrypt: one plaintext, or `items` with the key fields optionally outside."""

    items: list[EncryptItem] | None = None
    realm_id: str | None = None


class Encrypted(Response, frozen=True, kw_only=True):
    """The envelope in base64, and the version that made it."""

    envelope: str
    key_id: UUID
    version: int


class DecryptItem(Request, frozen=True, kw_only=True):
    """One envelope: exactly one of `input` and `envelope`. A key field pins the expected key."""

    input: str | None = None
    envelope: str | None = None
    encoding: Literal["text", "base64"] | None = None
    key_id: UUID | None = None
    lineage_id: UUID | None = None
    name: str | None = None


class DecryptRequest(DecryptItem, frozen=True, kw_only=True):
    """POST /v1/security/decrypt: one envelope, or `items`."""

    items: list[DecryptItem] | None = None
    realm_id: str | None = None


class Decrypted(Response, frozen=True, kw_only=True):
    """Plaintext that is UTF-8 text."""

    plaintext: str
    key_id: UUID
    version: int


class DecryptedBytes(Response, frozen=True, kw_only=True):
    """Plaintext as standard base64, for any bytes."""

    plaintext_b64: str
    key_id: UUID
    version: int


class EncryptedItems(Response, frozen=True, kw_only=True):
    """Results and errors in the order of the request."""

    items: list[Encrypted | ErrorBody]


class DecryptedItems(Response, frozen=True, kw_only=True):
    """Results and errors in the order of the request."""

    items: list[Decrypted | DecryptedBytes | ErrorBody]


class RotateRequest(Request, frozen=True, kw_only=True):
    """POST /v1/security/rotate: exactly one of the key fields."""

    key_id: UUID | None = None
    lineage_id: UUID | None = None
    name: str | None = None
    realm_id: str | None = None


class KeyStateRequest(Request, frozen=True, kw_only=True):
    """POST …/disable and …/enable."""

    scope: Literal["version", "lineage"] | None = None
    realm_id: str | None = None


class ListKeysQuery(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Query of GET /v1/security/keys."""

    limit: int | None = None
    cursor: str | None = None
    realm_id: str | None = None
