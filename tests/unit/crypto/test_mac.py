from __future__ import annotations

import pytest

from qimem.crypto.mac import digest, key_check_value, mac, mac_matches
from qimem.kernel.secret import SecretBytes

KEY = SecretBytes(bytes(range(32)))


def test_the_mac_of_rfc_4231_case_2():
    tag = mac(SecretBytes(b"Jefe"), b"what do ya want for nothing?")
    assert tag.hex() == "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"


def test_a_matching_tag_is_recognized():
    assert mac_matches(KEY, b"data", mac(KEY, b"data"))


@pytest.mark.parametrize(
    ("key", "data", "tag"),
    [
        (KEY, b"other", mac(KEY, b"data")),
        (SecretBytes(bytes(32)), b"data", mac(KEY, b"data")),
        (KEY, b"data", b""),
        (KEY, b"data", mac(KEY, b"data")[:31]),
        (KEY, b"data", mac(KEY, b"data")[:16]),
        (KEY, b"data", mac(KEY, b"data") + b"\0"),
        (KEY, b"data", bytes(32)),
    ],
)
def test_other_data_keys_and_shortened_tags_do_not_match(key, data, tag):
    assert not mac_matches(key, data, tag)


def test_every_flipped_bit_of_a_tag_is_noticed():
    tag = mac(KEY, b"data")
    for position in range(256):
        flipped = bytearray(tag)
        flipped[position // 8] ^= 1 << position % 8
        assert not mac_matches(KEY, b"data", bytes(flipped))


def test_the_digest_is_sha_256():
    assert digest(b"abc").hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_the_check_value_tells_keys_and_installations_apart():
    one = key_check_value(KEY, bytes(16))
    assert one == key_check_value(KEY, bytes(16))
    assert one != key_check_value(SecretBytes(bytes(32)), bytes(16))
    assert one != key_check_value(KEY, bytes(15) + b"\1")
    assert one not in (mac(KEY, bytes(16)), bytes(KEY.reveal()))
