"""JWS, the little of it that we issue and accept: compact, ES256, one strict verify function.

The key decides the algorithm; the header may only agree. Whatever else a header can ask for (other
keys, critical extensions, unencoded payloads, encryption) is refused rather than ignored: each of
them has been a forged token in some product (RFC 8725 lists the classes).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

from qimem.crypto.signatures import ES256Verifier, SignatureInvalid
from qimem.kernel.limits import BEARER_CHARS_MAX, CACHED_REALMS_MAX

_HEADER_MEMBERS: Final = frozenset({"alg", "typ", "kid"})


class TokenInvalid(Exception):
    """Not a token that one of these keys signed."""


def thumbprint(jwk: Mapping[str, str]) -> str:
    """RFC 7638 thumbprint of an EC key, SHA-256, base64url."""
    # In the lexicographic order that RFC 7638 §3.3 asks for.
    members = {name: jwk[name] for name in ("crv", "kty", "x", "y")}
    canonical = json.dumps(members, separators=(",", ":")).encode()
    return _encode(hashlib.sha256(canonical).digest())


class CompactWriter:
    """Writes compact JWS of one key; the header is rendered once."""

    __slots__ = ("_header",)

    def __init__(self, kid: str, token_type: str) -> None:
        header = {"alg": "ES256", "typ": token_type, "kid": kid}
        self._header = _encode(json.dumps(header, separators=(",", ":")).encode()) + "."

    def signing_input(self, payload: bytes) -> bytes:
        """The bytes to sign (RFC 7515 §5.1)."""
        return (self._header + _encode(payload)).encode("ascii")

    def finish(self, signing_input: bytes, signature: bytes) -> str:
        """The compact serialization."""
        return f"{signing_input.decode('ascii')}.{_encode(signature)}"


def verify_compact(token: str, keys: Mapping[str, Mapping[str, str]], token_type: str) -> tuple[bytes, str]:
    """The payload of a token that one of the keys signed, and the kid of that key.

    Args:
        token: Compact serialization, at most `BEARER_CHARS_MAX` characters.
        keys: kid → public JWK; a kid is only ever looked up here.
        token_type: The exact `typ` the header must have.

    Raises:
        TokenInvalid: anything else.
    """
    header_text, payload_text, signature_text = _split(token)
    header = _object(_decode(header_text))
    if header.keys() != _HEADER_MEMBERS or header["alg"] != "ES256" or header["typ"] != token_type:
        raise TokenInvalid
    kid = header["kid"]
    jwk = keys.get(kid) if isinstance(kid, str) else None
    if jwk is None:
        raise TokenInvalid
    payload = _decode(payload_text)
    try:
        _verifier(jwk).verify(_decode(signature_text), f"{header_text}.{payload_text}".encode("ascii"))
    except SignatureInvalid:
        raise TokenInvalid from None
    return payload, str(kid)


def unverified_payload(token: str) -> bytes:
    """The payload of what may be a token; good for choosing keys to try and for nothing else.

    Raises:
        TokenInvalid: not three parts of base64url.
    """
    return _decode(_split(token)[1])


_verifiers: OrderedDict[tuple[str, str], ES256Verifier] = OrderedDict()


def _verifier(jwk: Mapping[str, str]) -> ES256Verifier:
    point = (jwk["x"], jwk["y"])
    verifier = _verifiers.get(point)
    if verifier is None:
        verifier = _verifiers[point] = ES256Verifier(jwk)
        if len(_verifiers) > CACHED_REALMS_MAX:
            _verifiers.popitem(last=False)
    return verifier


def _split(token: str) -> tuple[str, str, str]:
    if len(token) > BEARER_CHARS_MAX:
        raise TokenInvalid
    parts = token.split(".")
    if len(parts) != 3 or not token.isascii():
        raise TokenInvalid
    return parts[0], parts[1], parts[2]


def _object(data: bytes) -> dict[str, object]:
    try:
        # Decoded here because json.loads would also take UTF-16 and UTF-32 (RFC 8259 §8.1: UTF-8 only).
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise TokenInvalid from None
    if not isinstance(value, dict):
        raise TokenInvalid
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise TokenInvalid
    return members


def _decode(text: str) -> bytes:
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise TokenInvalid from None
    # One token, one spelling: unused bits and stray padding are refused.
    if _encode(data) != text:
        raise TokenInvalid
    return data


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
