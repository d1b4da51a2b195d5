"""HMAC-SHA256, digests and the check value that recognizes a root key."""

from __future__ import annotations

import hashlib
import hmac

from qimem.kernel.secret import SecretBytes

_CHECK_LABEL = b"qimem key check v1\0"


def mac(key: SecretBytes, data: bytes) -> bytes:
    """32-byte HMAC-SHA256 tag (RFC 2104)."""
    return hmac.digest(key.reveal(), data, "sha256")


def mac_matches(key: SecretBytes, data: bytes, tag: bytes) -> bool:
    """Whether the tag is the data's, in constant time."""
    return hmac.compare_digest(mac(key, data), tag)


def digest(data: bytes) -> bytes:
    """32-byte SHA-256. For secrets of at least 128 random bits; passwords have their own module."""
    return hashlib.sha256(data).digest()


def key_check_value(key: SecretBytes, instance_id: bytes) -> bytes:
    """Recognizes the root key of an installation without telling anything about it."""
    return mac(key, _CHECK_LABEL + instance_id)
