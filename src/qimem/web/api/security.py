"""`/v1/security`: the HTTP face of the key service."""

from __future__ import annotations

import binascii
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

from qimem.audit.schema import COUNTED, recorded
from qimem.authz.permissions import Permission
from qimem.crypto.algorithms import Algorithm, parse_algorithm
from qimem.crypto.envelope import decode_base64
from qimem.crypto.wrap import UnwrapFailed
from qimem.errors import Internal, Invalid, InvalidFields, QimemError
from qimem.kernel import patience
from qimem.kernel.limits import BATCH_ITEMS_MAX, DECRYPT_BODY_BYTES_MAX
from qimem.kms.cipher import Opened, Sealed
from qimem.kms.models import KeyRef, key_not_found
from qimem.observability.logging import report_unexpected
from qimem.web.kit.endpoint import Call, Endpoint
from qimem.web.kit.errors import item_error
from qimem.web.kit.pages import next_cursor, page_limit, position
from qimem.wire.common import ErrorBody, Page, RealmQuery
from qimem.wire.security import (
    CreateKeyRequest,
    Decrypted,
    DecryptedBytes,
    DecryptedItems,
    DecryptItem,
    DecryptRequest,
    Encrypted,
    EncryptedItems,
    EncryptItem,
    EncryptRequest,
    KeyDetails,
    KeyMetadata,
    KeyStateRequest,
    ListKeysQuery,
    RotateRequest,
)

_KEY_FIELDS = "exactly one of key_id, lineage_id, name"
_EXAMPLE_KEY = {"name": "orders"}


async def create_key(call: Call[CreateKeyRequest, None]) -> KeyMetadata:
    """Make a key."""
    algorithm = Algorithm.AES256_GCM
    if call.body.algorithm is not None:
        algorithm = parse_algorithm(call.body.algorithm)
    return await call.services.keys.create(call.context, algorithm, call.body.name)


async def rotate_key(call: Call[RotateRequest, None]) -> KeyMetadata:
    """Make a new active version."""
    return await call.services.keys.rotate(call.context, _required_key(call.body))


async def get_key(call: Call[None, RealmQuery]) -> KeyDetails:
    """One version with its lineage."""
    return await call.services.keys.get(call.context, _path_key(call))


async def list_keys(call: Call[None, ListKeysQuery]) -> Page[KeyMetadata]:
    """The realm's keys, active versions only."""
    after = position(call.query.cursor, (int, UUID))
    items, last = await call.services.keys.list(call.context, after, page_limit(call.query.limit))
    return Page(items=items, next_cursor=next_cursor(last))


async def disable_key(call: Call[KeyStateRequest, None]) -> KeyMetadata:
    """Stop a version, or all of its lineage, from encrypting and decrypting."""
    scope = call.body.scope or "version"
    return await call.services.keys.set_enabled(call.context, _path_key(call), enabled=False, scope=scope)


async def enable_key(call: Call[KeyStateRequest, None]) -> KeyMetadata:
    """Undo disable."""
    scope = call.body.scope or "version"
    return await call.services.keys.set_enabled(call.context, _path_key(call), enabled=True, scope=scope)


async def encrypt(call: Call[EncryptRequest, None]) -> Encrypted | EncryptedItems:
    """Encrypt one plaintext, or up to 1,000."""
    body = call.body
    if body.items is None:
        ref = _required_key(body)
        return _encrypted(await call.services.cipher.encrypt(call.context, ref, _plaintext(body)))
    _check_batch(body, ("input", "input_b64"))
    call.draft.items = len(body.items)
    outer = _key(body)
    results: list[Encrypted | ErrorBody] = []
    ends = patience.begin_items()
    for item in body.items:
        patience.begin_item(ends)
        try:
            ref = _key(item) or outer or _required_key(item)
            sealed = await call.services.cipher.encrypt(call.context, ref, _plaintext(item))
            results.append(_encrypted(sealed))
        except QimemError as error:
            results.append(item_error(error))
        except UnwrapFailed as error:
            results.append(_damaged(call.context.request_id, error))
        call.draft.end_item(failed=isinstance(results[-1], ErrorBody))
    return EncryptedItems(items=results)


async def decrypt(call: Call[DecryptRequest, None]) -> Decrypted | DecryptedBytes | DecryptedItems:
    """Decrypt one envelope, or up to 1,000."""
    body = call.body
    if body.items is None:
        pin = _key(body)
        return _decrypted(
            await call.services.cipher.decrypt(call.context, _envelope(body), pin), body.encoding
        )
    _check_batch(body, ("input", "envelope"))
    call.draft.items = len(body.items)
    outer = _key(body)
    results: list[Decrypted | DecryptedBytes | ErrorBody] = []
    ends = patience.begin_items()
    for item in body.items:
        patience.begin_item(ends)
        try:
            pin = _key(item) or outer
            opened = await call.services.cipher.decrypt(call.context, _envelope(item), pin)
            results.append(_decrypted(opened, item.encoding or body.encoding))
        except QimemError as error:
            results.append(item_error(error))
        except UnwrapFailed as error:
            results.append(_damaged(call.context.request_id, error))
        call.draft.end_item(failed=isinstance(results[-1], ErrorBody))
    return DecryptedItems(items=results)


def _encrypted(sealed: Sealed) -> Encrypted:
    return Encrypted(envelope=sealed.envelope, key_id=sealed.version.key_id, version=sealed.version.version)


def _envelope(item: DecryptItem) -> str:
    if (item.input is None) == (item.envelope is None):
        raise InvalidFields({"/input": "exactly one of input and envelope"})
    envelope = item.input if item.input is not None else item.envelope
    assert envelope is not None
    return envelope


def _decrypted(opened: Opened, encoding: str | None) -> Decrypted | DecryptedBytes:
    version = opened.version
    if encoding == "base64":
        text = binascii.b2a_base64(opened.plaintext, newline=False).decode("ascii")
        return DecryptedBytes(plaintext_b64=text, key_id=version.key_id, version=version.version)
    try:
        plaintext = opened.plaintext.decode()
    except UnicodeDecodeError:
        raise Invalid("plaintext is not UTF-8", code="not_text", hint='"encoding":"base64"') from None
    return Decrypted(plaintext=plaintext, key_id=version.key_id, version=version.version)


def _damaged(request_id: str, error: UnwrapFailed) -> ErrorBody:
    # One damaged row must not take the rest of a batch along.
    report_unexpected(request_id, error)
    return item_error(Internal())


def _plaintext(item: EncryptItem) -> bytes:
    if (item.input is None) == (item.input_b64 is None):
        raise InvalidFields({"/input": "exactly one of input and input_b64"})
    if item.input is not None:
        return item.input.encode()
    assert item.input_b64 is not None
    data = decode_base64(item.input_b64)
    if data is None:
        raise InvalidFields({"/input_b64": "not standard base64 with padding"})
    return data


def _key(body: EncryptItem | DecryptItem | RotateRequest) -> KeyRef | None:
    key_id, lineage_id, name = body.key_id, body.lineage_id, body.name
    if key_id is not None and lineage_id is None and name is None:
        return KeyRef(key_id=key_id)
    given = (key_id is not None) + (lineage_id is not None) + (name is not None)
    if given > 1:
        raise InvalidFields({"/key_id": _KEY_FIELDS})
    return KeyRef(lineage_id=lineage_id, name=name) if given else None


def _required_key(body: EncryptItem | RotateRequest) -> KeyRef:
    ref = _key(body)
    if ref is None:
        raise InvalidFields({"/key_id": _KEY_FIELDS})
    return ref


def _path_key(call: Call[Any, Any]) -> UUID:
    key_id = call.path_uuid("key_id")
    if key_id is None:
        raise key_not_found(call.path["key_id"])
    return key_id


def _check_batch(body: EncryptRequest | DecryptRequest, single: tuple[str, str]) -> None:
    assert body.items is not None
    if not 1 <= len(body.items) <= BATCH_ITEMS_MAX:
        raise InvalidFields({"/items": f"1 to {BATCH_ITEMS_MAX} items"})
    for field in single:
        if getattr(body, field) is not None:
            raise InvalidFields({f"/{field}": "not beside items"})


def _state_endpoint(verb: str, handler: Callable[..., Awaitable[KeyMetadata]], summary: str) -> Endpoint:
    return Endpoint(
        method="POST",
        path=f"/v1/security/keys/{{key_id}}/{verb}",
        name=f"keys.{verb}",
        audit=recorded("key", "version", "target"),
        handler=handler,
        request=KeyStateRequest,
        response=KeyMetadata,
        permission=Permission.KEYS_MANAGE,
        optional_body=True,
        summary=summary,
        example={"scope": "version"},
    )


ENDPOINTS = (
    Endpoint(
        method="POST",
        path="/v1/security/keys",
        name="keys.create",
        audit=recorded("key", "version"),
        handler=create_key,
        request=CreateKeyRequest,
        response=KeyMetadata,
        permission=Permission.KEYS_CREATE,
        optional_body=True,
        idempotent=True,
        summary="Create a key",
        example=_EXAMPLE_KEY,
    ),
    Endpoint(
        method="GET",
        path="/v1/security/keys",
        name="keys.list",
        audit=COUNTED,
        handler=list_keys,
        query=ListKeysQuery,
        response=Page[KeyMetadata],
        permission=Permission.KEYS_READ,
        summary="List keys",
    ),
    Endpoint(
        method="GET",
        path="/v1/security/keys/{key_id}",
        name="keys.get",
        audit=COUNTED,
        handler=get_key,
        query=RealmQuery,
        response=KeyDetails,
        permission=Permission.KEYS_READ,
        summary="Get a key version and its lineage",
    ),
    _state_endpoint("disable", disable_key, "Disable a key version or its lineage"),
    _state_endpoint("enable", enable_key, "Enable a key version or its lineage"),
    Endpoint(
        method="POST",
        path="/v1/security/encrypt",
        name="keys.encrypt",
        audit=recorded("key", "version"),
        handler=encrypt,
        request=EncryptRequest,
        response=Encrypted | EncryptedItems,
        permission=Permission.KEYS_ENCRYPT,
        conflicts=True,
        only_uses=True,
        summary="Encrypt",
        example={"name": "orders", "input": "4111 1111 1111 1111"},
    ),
    Endpoint(
        method="POST",
        path="/v1/security/decrypt",
        name="keys.decrypt",
        audit=recorded("key", "version"),
        handler=decrypt,
        request=DecryptRequest,
        response=Decrypted | DecryptedBytes | DecryptedItems,
        permission=Permission.KEYS_DECRYPT,
        body_bytes_max=DECRYPT_BODY_BYTES_MAX,
        only_uses=True,
        summary="Decrypt",
        example={"input": "{envelope}", "name": "orders"},
    ),
    Endpoint(
        method="POST",
        path="/v1/security/rotate",
        name="keys.rotate",
        audit=recorded("key", "version", "target"),
        handler=rotate_key,
        request=RotateRequest,
        response=KeyMetadata,
        permission=Permission.KEYS_ROTATE,
        idempotent=True,
        summary="Rotate a key",
        example=_EXAMPLE_KEY,
    ),
)
"""Every operation of this resource."""
