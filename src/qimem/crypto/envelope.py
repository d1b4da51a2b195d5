"""Envelope v1: our self-describing ciphertext.

    version u8 = 1 · algorithm u8 · key id 16 · nonce length u16 = 12 · nonce ·
    ciphertext length u32 · ciphertext · tag length u8 = 16 · tag

Big-endian, no padding, 53 bytes more than the plaintext; in requests as standard base64. Whatever
was sealed under version 1 opens for as long as its key exists. Parsing is strict: one byte string
has one spelling, and the first fault, in the order of the layout, is the one reported.
"""

from __future__ import annotations

import binascii
import json
import struct
from typing import Final, NamedTuple
from uuid import UUID

from qimem.crypto.aead import NONCE_BYTES, TAG_BYTES
from qimem.crypto.algorithms import BY_ENVELOPE_ID, ENVELOPE_IDS, JSON_NAMES, Algorithm
from qimem.errors import Invalid
from qimem.kernel.ids import parse_uuid

VERSION: Final = 1
_HEAD = struct.Struct(">BB16sH12sI")
_HEAD_BYTES: Final = _HEAD.size
_OVERHEAD: Final = _HEAD_BYTES + 1 + TAG_BYTES
_LENGTH = struct.Struct(">I")
_TAG_LENGTH: Final = bytes((TAG_BYTES,))


_JSON_MEMBERS: Final = frozenset({"version", "algorithm", "key_id", "nonce", "ciphertext", "tag"})
_BY_JSON_NAME: Final = {name: algorithm for algorithm, name in JSON_NAMES.items()}


class Envelope(NamedTuple):
    """A parsed envelope. `sealed` is ciphertext followed by the tag, as ciphers take it.

    A tuple because one is made per decrypt: 0.16 µs, a frozen dataclass takes 0.36; and the key id as its
    16 bytes, because making a UUID takes another 0.9 µs and finding a known key does not need one.
    """

    algorithm: Algorithm
    key_bytes: bytes
    nonce: bytes
    sealed: bytes

    @property
    def key_id(self) -> UUID:
        """The key version that sealed it."""
        return UUID(bytes=self.key_bytes)

    @property
    def ciphertext(self) -> bytes:
        """Ciphertext without the tag."""
        return self.sealed[:-TAG_BYTES]

    @property
    def tag(self) -> bytes:
        """The 16-byte tag."""
        return self.sealed[-TAG_BYTES:]


class EnvelopeWriter:
    """Writes envelopes of one key version; the constant first 20 bytes are rendered once."""

    __slots__ = ("_prefix",)

    def __init__(self, key_id: UUID, algorithm: Algorithm) -> None:
        self._prefix = struct.pack(">BB16sH", VERSION, ENVELOPE_IDS[algorithm], key_id.bytes, NONCE_BYTES)

    def encode(self, nonce: bytes, sealed: bytes) -> str:
        """Base64 of the envelope around a nonce and ciphertext-with-tag."""
        length = len(sealed) - TAG_BYTES
        envelope = b"".join(
            (self._prefix, nonce, _LENGTH.pack(length), sealed[:length], _TAG_LENGTH, sealed[length:])
        )
        return binascii.b2a_base64(envelope, newline=False).decode("ascii")


def decode_base64(text: str) -> bytes | None:
    """Standard base64 with padding in its one canonical spelling; None for anything else."""
    try:
        data = binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, ValueError):
        return None
    # Unused low bits are ignored by the decoder; two spellings of one envelope must not exist.
    if (
        text.endswith("=")
        and binascii.b2a_base64(data[-(len(data) % 3) :], newline=False) != text[-4:].encode()
    ):
        return None
    return data


def parse_envelope(text: str) -> Envelope:
    """Read an envelope from base64.

    Raises:
        Invalid: `invalid_envelope`, `unsupported_version` or `unsupported_algorithm`.
    """
    data = decode_base64(text)
    if data is None:
        raise _invalid("invalid base64")
    return parse_bytes(data)


def parse_bytes(data: bytes) -> Envelope:
    """Read an envelope from its binary form.

    Raises:
        Invalid: `invalid_envelope`, `unsupported_version` or `unsupported_algorithm`.
    """
    if len(data) < _OVERHEAD:
        raise _diagnose(data)
    version, number, key_id, nonce_length, nonce, length = _HEAD.unpack_from(data)
    algorithm = BY_ENVELOPE_ID.get(number)
    end = _HEAD_BYTES + length
    if (
        version != VERSION
        or algorithm is None
        or nonce_length != NONCE_BYTES
        or len(data) != length + _OVERHEAD
        or data[end] != TAG_BYTES
    ):
        raise _diagnose(data)
    return Envelope(algorithm, key_id, nonce, data[_HEAD_BYTES:end] + data[end + 1 :])


def _diagnose(data: bytes) -> Invalid:
    """The first fault in the order of the layout."""
    if not data:
        return _invalid("missing version")
    if data[0] != VERSION:
        return Invalid(f"unsupported envelope version: {data[0]}", code="unsupported_version")
    if len(data) < 2:
        return _invalid("missing algorithm")
    if data[1] not in BY_ENVELOPE_ID:
        return Invalid(f"unsupported algorithm id: {data[1]}", code="unsupported_algorithm")
    if len(data) < 18:
        return _invalid("missing key id")
    if len(data) < 20:
        return _invalid("missing nonce length")
    nonce_length = int.from_bytes(data[18:20])
    if nonce_length != NONCE_BYTES or len(data) < 20 + nonce_length:
        return _invalid("invalid nonce")
    if len(data) < _HEAD_BYTES:
        return _invalid("missing ciphertext length")
    return _diagnose_ciphertext(data)


def _diagnose_ciphertext(data: bytes) -> Invalid:
    end = _HEAD_BYTES + int.from_bytes(data[_HEAD_BYTES - 4 : _HEAD_BYTES])
    if len(data) < end:
        return _invalid("invalid ciphertext")
    if len(data) < end + 1:
        return _invalid("missing tag length")
    if data[end] != TAG_BYTES or len(data) < end + 1 + TAG_BYTES:
        return _invalid("invalid tag")
    return _invalid("trailing bytes")


def _invalid(reason: str) -> Invalid:
    return Invalid(f"invalid envelope: {reason}", code="invalid_envelope")


def to_json(envelope: Envelope) -> str:
    """The JSON form: byte fields as arrays of integers, for people and for other programs."""
    return json.dumps(
        {
            "version": VERSION,
            "algorithm": JSON_NAMES[envelope.algorithm],
            "key_id": str(envelope.key_id),
            "nonce": list(envelope.nonce),
            "ciphertext": list(envelope.ciphertext),
            "tag": list(envelope.tag),
        },
        separators=(",", ":"),
    )


def from_json(text: str) -> Envelope:
    """Read the JSON form: exactly the members that `to_json` writes, each once, in any order.

    Raises:
        Invalid: `invalid_envelope` or `unsupported_version`.
    """
    try:
        members = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise _not_json_form() from None
    if not isinstance(members, dict) or members.keys() != _JSON_MEMBERS:
        raise _not_json_form()
    version = members["version"]
    if type(version) is not int:
        raise _not_json_form()
    if version != VERSION:
        raise Invalid(f"unsupported envelope version: {version}", code="unsupported_version")
    name, key_id = members["algorithm"], members["key_id"]
    algorithm = _BY_JSON_NAME.get(name) if isinstance(name, str) else None
    identifier = parse_uuid(key_id) if isinstance(key_id, str) else None
    if algorithm is None or identifier is None:
        raise _not_json_form()
    nonce, ciphertext, tag = (_octets(members[name]) for name in ("nonce", "ciphertext", "tag"))
    if len(nonce) != NONCE_BYTES:
        raise _invalid("invalid nonce")
    if len(tag) != TAG_BYTES:
        raise _invalid("invalid tag")
    return Envelope(algorithm, identifier.bytes, nonce, ciphertext + tag)


def _octets(value: object) -> bytes:
    # bytes(5) is five zeros and bytes([True]) a one: only a list of plain integers is a byte string.
    if not isinstance(value, list) or not all(type(octet) is int and 0 <= octet <= 255 for octet in value):
        raise _not_json_form()
    return bytes(value)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _not_json_form()
    return members


def _not_json_form() -> Invalid:
    return _invalid("not the JSON form of an envelope")
