"""Algorithms by name: as keys store them, as requests spell them, as envelopes number them."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from qimem.errors import InvalidFields


class Algorithm(StrEnum):
    """What a key is used with."""

    AES256_GCM = "aes256_gcm"
    CHACHA20_POLY1305 = "chacha20_poly1305"
    ES256 = "es256"
    ED25519 = "ed25519"
    HMAC_SHA256 = "hmac_sha256"


ENVELOPE_IDS: Final = {Algorithm.AES256_GCM: 1, Algorithm.CHACHA20_POLY1305: 2}
"""Algorithm → its byte in an envelope."""

BY_ENVELOPE_ID: Final = {number: algorithm for algorithm, number in ENVELOPE_IDS.items()}

JSON_NAMES: Final = {
    Algorithm.AES256_GCM: "aes256_gcm",
    Algorithm.CHACHA20_POLY1305: "cha_cha20_poly1305",
}
"""Algorithm → its name in the JSON form of an envelope."""

_SPELLINGS: Final = {
    "aes256_gcm": Algorithm.AES256_GCM,
    "AES-256-GCM": Algorithm.AES256_GCM,
    "chacha20_poly1305": Algorithm.CHACHA20_POLY1305,
    "ChaCha20-Poly1305": Algorithm.CHACHA20_POLY1305,
}


def parse_algorithm(name: str) -> Algorithm:
    """The encryption algorithm that a request names.

    Raises:
        InvalidFields: not one that encrypts.
    """
    algorithm = _SPELLINGS.get(name)
    if algorithm is None:
        raise InvalidFields({"/algorithm": "one of aes256_gcm, chacha20_poly1305"})
    return algorithm
