"""`/v1/security`: keys, encrypt, decrypt."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeVar
from uuid import UUID

import msgspec

from qimem.client.answers import reading
from qimem.client.errors import ItemsRefused, Unreachable
from qimem.client.pages import Part, every
from qimem.client.session import Operation, Session
from qimem.wire.common import ErrorBody, Page, RealmQuery
from qimem.wire.security import (
    CreateKeyRequest,
    DecryptedBytes,
    DecryptItem,
    DecryptRequest,
    Encrypted,
    EncryptItem,
    EncryptRequest,
    KeyDetails,
    KeyMetadata,
    KeyStateRequest,
    ListKeysQuery,
    RotateRequest,
)

S = TypeVar("S", bound=msgspec.Struct)


class _Items(msgspec.Struct, frozen=True):
    # Results and errors are told apart by their fields, which a type cannot say.
    items: list[dict[str, Any]]


_KEYS = "/v1/security/keys"
_CREATE: Final = Operation("POST", _KEYS, KeyMetadata, idempotent=True)
_LIST: Final = Operation("GET", _KEYS, Page[KeyMetadata])
_GET: Final = Operation("GET", f"{_KEYS}/{{}}", KeyDetails)
_DISABLE: Final = Operation("POST", f"{_KEYS}/{{}}/disable", KeyMetadata, repeatable=True)
_ENABLE: Final = Operation("POST", f"{_KEYS}/{{}}/enable", KeyMetadata, repeatable=True)
_ROTATE: Final = Operation("POST", "/v1/security/rotate", KeyMetadata, idempotent=True)
_ENCRYPT: Final = Operation("POST", "/v1/security/encrypt", Encrypted, repeatable=True)
_ENCRYPT_ITEMS: Final = Operation("POST", "/v1/security/encrypt", _Items, repeatable=True)
_DECRYPT: Final = Operation("POST", "/v1/security/decrypt", DecryptedBytes, repeatable=True)
_DECRYPT_ITEMS: Final = Operation("POST", "/v1/security/decrypt", _Items, repeatable=True)


class Keys(Part):
    """Keys and their versions. Every method raises `ApiError` where the server refuses.

    `idempotency_key`: see `qimem.client.management`.
    """

    def create(self, request: CreateKeyRequest, *, idempotency_key: str | None = None) -> KeyMetadata:
        """Make a key."""
        return self._call(_CREATE, body=request, idempotency_key=idempotency_key)

    def list(self, query: ListKeysQuery | None = None) -> Iterator[KeyMetadata]:
        """The active version of every key."""
        return every(self._session, _LIST, query or ListKeysQuery())

    def get(self, key_id: UUID, query: RealmQuery | None = None) -> KeyDetails:
        """One version, and all versions of its lineage."""
        return self._call(_GET, key_id, query=query)

    def rotate(self, request: RotateRequest, *, idempotency_key: str | None = None) -> KeyMetadata:
        """Make the next version, which encrypts from now on."""
        return self._call(_ROTATE, body=request, idempotency_key=idempotency_key)

    def disable(self, key_id: UUID, request: KeyStateRequest | None = None) -> KeyMetadata:
        """Have a version do nothing until it is enabled."""
        return self._call(_DISABLE, key_id, body=request or KeyStateRequest())

    def enable(self, key_id: UUID, request: KeyStateRequest | None = None) -> KeyMetadata:
        """Undo disable."""
        return self._call(_ENABLE, key_id, body=request or KeyStateRequest())


class Crypto:
    """Encrypts and decrypts bytes. Every method raises `ApiError` where the server refuses."""

    def __init__(self, session: Session) -> None:
        self._call = session.call

    def encrypt(self, plaintext: bytes, *, name: str | None = None, key_id: UUID | None = None) -> str:
        """An envelope, in base64: 53 bytes and those of the plaintext.

        Args:
            plaintext: Any bytes.
            name: Of the key; either this or `key_id`.
            key_id: Of a version of the key.
        """
        body = EncryptRequest(input_b64=_base64(plaintext), name=name, key_id=key_id)
        return self._call(_ENCRYPT, body=body).envelope

    def decrypt(self, envelope: str, *, name: str | None = None, key_id: UUID | None = None) -> bytes:
        """The plaintext. Where a key is named, an envelope of another one is refused."""
        body = DecryptRequest(envelope=envelope, encoding="base64", name=name, key_id=key_id)
        return _bytes(self._call(_DECRYPT, body=body))

    def encrypt_many(
        self, plaintexts: Sequence[bytes], *, name: str | None = None, key_id: UUID | None = None
    ) -> list[str]:
        """Envelopes in the order of the plaintexts, in one request.

        Raises:
            ItemsRefused: some were refused; it holds the others.
        """
        items = [EncryptItem(input_b64=_base64(plaintext)) for plaintext in plaintexts]
        answer = self._call(_ENCRYPT_ITEMS, body=EncryptRequest(items=items, name=name, key_id=key_id))
        return [item.envelope for item in _whole(answer, Encrypted, len(items))]

    def decrypt_many(self, envelopes: Sequence[str]) -> list[bytes]:
        """Plaintexts in the order of the envelopes, in one request.

        Raises:
            ItemsRefused: some were refused; it holds the others.
        """
        items = [DecryptItem(envelope=envelope, encoding="base64") for envelope in envelopes]
        answer = self._call(_DECRYPT_ITEMS, body=DecryptRequest(items=items))
        return [_bytes(item) for item in _whole(answer, DecryptedBytes, len(items))]


def _whole(answer: _Items, kind: type[S], asked: int) -> list[S]:
    with reading():
        results = [msgspec.convert(item, ErrorBody if "error" in item else kind) for item in answer.items]
    if len(results) != asked:
        raise Unreachable("the answer is of another batch")
    whole = [result for result in results if isinstance(result, kind)]
    if len(whole) < len(results):
        raise ItemsRefused(results)
    return whole


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(decrypted: DecryptedBytes) -> bytes:
    with reading():
        return base64.b64decode(decrypted.plaintext_b64, validate=True)
