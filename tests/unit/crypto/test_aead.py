from __future__ import annotations

import pytest

from qimem.crypto.aead import Aead
from qimem.crypto.algorithms import ENVELOPE_IDS, Algorithm
from qimem.errors import Invalid
from qimem.kernel.secret import SecretBytes

KEY = bytes(range(32))
NONCE = bytes(12)

encrypting = pytest.mark.parametrize("algorithm", list(ENVELOPE_IDS))


def aead(algorithm: Algorithm, key: bytes = KEY) -> Aead:
    return Aead(algorithm, SecretBytes(key))


def assert_refused(cipher: Aead, nonce: bytes, sealed: bytes, associated_data: bytes | None) -> None:
    with pytest.raises(Invalid) as refusal:
        cipher.open(nonce, sealed, associated_data)
    assert (refusal.value.message, refusal.value.code) == ("decryption failed", "decryption_failed")
    assert refusal.value.__cause__ is None
    assert refusal.value.__context__ is None or refusal.value.__suppress_context__


@encrypting
@pytest.mark.parametrize("plaintext", [b"", b"hello", bytes(100_000)])
@pytest.mark.parametrize("associated_data", [None, b"", b"context"])
def test_what_was_sealed_opens_and_is_sixteen_bytes_longer(algorithm, plaintext, associated_data):
    sealed = aead(algorithm).seal(NONCE, plaintext, associated_data)
    assert len(sealed) == len(plaintext) + 16
    assert aead(algorithm).open(NONCE, sealed, associated_data) == plaintext


@encrypting
def test_another_key_nonce_or_associated_data_is_refused_with_one_text(algorithm):
    sealed = aead(algorithm).seal(NONCE, b"hello", b"context")
    assert_refused(aead(algorithm, bytes(32)), NONCE, sealed, b"context")
    assert_refused(aead(algorithm), b"\1" + NONCE[1:], sealed, b"context")
    assert_refused(aead(algorithm), NONCE, sealed, b"other")
    assert_refused(aead(algorithm), NONCE, sealed, None)


@encrypting
def test_every_flipped_bit_is_refused(algorithm):
    cipher = aead(algorithm)
    sealed = cipher.seal(NONCE, b"hello", None)
    for position in range(8 * len(sealed)):
        flipped = bytearray(sealed)
        flipped[position // 8] ^= 1 << position % 8
        assert_refused(cipher, NONCE, bytes(flipped), None)


@encrypting
def test_every_truncation_is_refused(algorithm):
    cipher = aead(algorithm)
    sealed = cipher.seal(NONCE, b"hello", None)
    for length in range(len(sealed)):
        assert_refused(cipher, NONCE, sealed[:length], None)


def test_one_cipher_does_not_open_what_the_other_sealed():
    sealed = aead(Algorithm.AES256_GCM).seal(NONCE, b"hello", None)
    assert_refused(aead(Algorithm.CHACHA20_POLY1305), NONCE, sealed, None)


@encrypting
@pytest.mark.parametrize("length", [0, 1, 16, 24, 31, 33, 64])
def test_keys_of_another_length_than_32_bytes_are_refused(algorithm, length):
    with pytest.raises(ValueError, match="32 bytes"):
        aead(algorithm, bytes(length))


@encrypting
@pytest.mark.parametrize("length", [0, 8, 11, 13, 16])
def test_nonces_of_another_length_than_12_bytes_are_refused_both_ways(algorithm, length):
    with pytest.raises(ValueError, match="12 bytes"):
        aead(algorithm).seal(bytes(length), b"hello", None)
    sealed = aead(algorithm).seal(NONCE, b"hello", None)
    assert_refused(aead(algorithm), bytes(length), sealed, None)


@pytest.mark.parametrize("algorithm", [Algorithm.ES256, Algorithm.HMAC_SHA256])
def test_algorithms_that_do_not_encrypt_make_no_cipher(algorithm):
    with pytest.raises(ValueError, match="does not encrypt"):
        aead(algorithm)


def test_the_cipher_still_works_after_the_key_bytes_were_wiped():
    key = SecretBytes(KEY)
    cipher = Aead(Algorithm.AES256_GCM, key)
    sealed = cipher.seal(NONCE, b"hello", None)
    key.wipe()
    assert cipher.seal(NONCE, b"hello", None) == sealed
    assert cipher.open(NONCE, sealed, None) == b"hello"
