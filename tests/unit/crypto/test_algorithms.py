from __future__ import annotations

import pytest

from qimem.crypto.algorithms import ENVELOPE_IDS, JSON_NAMES, Algorithm, parse_algorithm
from qimem.errors import InvalidFields


@pytest.mark.parametrize(
    ("name", "algorithm"),
    [
        ("aes256_gcm", Algorithm.AES256_GCM),
        ("AES-256-GCM", Algorithm.AES256_GCM),
        ("chacha20_poly1305", Algorithm.CHACHA20_POLY1305),
        ("ChaCha20-Poly1305", Algorithm.CHACHA20_POLY1305),
    ],
)
def test_both_spellings_of_an_encryption_algorithm_are_read(name, algorithm):
    assert parse_algorithm(name) is algorithm


@pytest.mark.parametrize(
    "name", ["", "AES256_GCM", "aes-256-gcm", "aes128_gcm", "es256", "ES256", "hmac_sha256", " aes256_gcm"]
)
def test_other_names_and_algorithms_that_do_not_encrypt_are_refused(name):
    with pytest.raises(InvalidFields) as refusal:
        parse_algorithm(name)
    assert list(refusal.value.fields) == ["/algorithm"]


def test_exactly_the_encryption_algorithms_have_a_number_and_a_name_in_envelopes():
    assert ENVELOPE_IDS == {Algorithm.AES256_GCM: 1, Algorithm.CHACHA20_POLY1305: 2}
    assert JSON_NAMES.keys() == ENVELOPE_IDS.keys()
