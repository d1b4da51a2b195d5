from __future__ import annotations

from dataclasses import fields, replace

import pytest

from qimem.crypto import wrap as wrapping
from qimem.crypto.wrap import UnwrapFailed, WrapContext, open_record, seal_record, unwrap, wrap
from qimem.kernel.secret import SecretBytes

CONTEXT = WrapContext(
    instance_id=bytes(range(16)),
    table="kms_version",
    realm_id="acme",
    object_id=bytes(range(16, 32)),
    version=1,
    purpose="encryption/aes256_gcm",
)
OTHER = {
    "instance_id": bytes(16),
    "table": "realm_kek",
    "realm_id": "acme2",
    "object_id": bytes(16),
    "version": 2,
    "purpose": "token-signing/es256",
}
MATERIAL = bytes(range(100, 132))


def key(fill: int = 7) -> SecretBytes:
    return SecretBytes(bytes((fill,)) * 32)


def test_a_wrapped_secret_unwraps_in_its_own_context():
    wrapped = wrap(key(), SecretBytes(MATERIAL), CONTEXT)
    assert wrapped[0] == 1
    assert len(wrapped) == 1 + 12 + 32 + 16
    assert MATERIAL not in wrapped
    secret = unwrap(key(), wrapped, CONTEXT)
    assert isinstance(secret, SecretBytes)
    assert secret.equals(MATERIAL)


def test_wrapping_twice_gives_two_texts():
    assert wrap(key(), SecretBytes(MATERIAL), CONTEXT) != wrap(key(), SecretBytes(MATERIAL), CONTEXT)


def test_every_field_of_the_context_has_an_other_value_here():
    assert OTHER.keys() == {field.name for field in fields(WrapContext)}


@pytest.mark.parametrize("field", OTHER)
def test_a_secret_moved_to_another_place_does_not_unwrap(field):
    moved = replace(CONTEXT, **{field: OTHER[field]})
    with pytest.raises(UnwrapFailed):
        unwrap(key(), wrap(key(), SecretBytes(MATERIAL), CONTEXT), moved)
    with pytest.raises(UnwrapFailed):
        open_record(key(), seal_record(key(), b"answer", CONTEXT), moved)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (replace(CONTEXT, table="ab", realm_id="c"), replace(CONTEXT, table="a", realm_id="bc")),
        (replace(CONTEXT, table="", realm_id="x"), replace(CONTEXT, table="x", realm_id="")),
        (replace(CONTEXT, realm_id="a", object_id=b"bc"), replace(CONTEXT, realm_id="ab", object_id=b"c")),
        (
            replace(CONTEXT, object_id=b"\0\0\0\4\0\0\0\1", version=1),
            replace(CONTEXT, object_id=b"", version=1),
        ),
    ],
)
def test_fields_cannot_lend_bytes_to_their_neighbors(one, two):
    assert one.encode() != two.encode()
    with pytest.raises(UnwrapFailed):
        unwrap(key(), wrap(key(), SecretBytes(MATERIAL), one), two)


def test_another_wrapping_key_does_not_unwrap():
    with pytest.raises(UnwrapFailed):
        unwrap(key(8), wrap(key(7), SecretBytes(MATERIAL), CONTEXT), CONTEXT)


def test_every_flipped_bit_is_refused():
    wrapped = wrap(key(), SecretBytes(MATERIAL), CONTEXT)
    for position in range(8 * len(wrapped)):
        flipped = bytearray(wrapped)
        flipped[position // 8] ^= 1 << position % 8
        with pytest.raises(UnwrapFailed):
            unwrap(key(), bytes(flipped), CONTEXT)


def test_every_truncation_and_an_extension_are_refused():
    wrapped = wrap(key(), SecretBytes(MATERIAL), CONTEXT)
    for damaged in [*(wrapped[:length] for length in range(len(wrapped))), wrapped + b"\0"]:
        with pytest.raises(UnwrapFailed):
            unwrap(key(), damaged, CONTEXT)


@pytest.mark.parametrize("length", [0, 16, 24, 31, 33])
def test_a_wrapping_key_of_another_length_is_refused(length):
    # 16 and 24 bytes would make a working, weaker cipher.
    with pytest.raises(ValueError, match="32 bytes"):
        wrap(SecretBytes(bytes(length)), SecretBytes(MATERIAL), CONTEXT)
    with pytest.raises(ValueError, match="32 bytes"):
        unwrap(SecretBytes(bytes(length)), bytes((1,)) + bytes(60), CONTEXT)


def test_a_failed_unwrap_leaves_nothing_readable_behind(monkeypatch):
    made: list[SecretBytes] = []

    class Recorded(SecretBytes):
        def __init__(self, value: bytes) -> None:
            super().__init__(value)
            made.append(self)

    wrapped = bytearray(wrap(key(), SecretBytes(MATERIAL), CONTEXT))
    wrapped[-1] ^= 1
    monkeypatch.setattr(wrapping, "SecretBytes", Recorded)
    with pytest.raises(UnwrapFailed):
        unwrap(key(), bytes(wrapped), CONTEXT)
    assert [bytes(secret.reveal()) for secret in made] == [bytes(32)]


@pytest.mark.parametrize("record", [b"", b'{"key_id":"x"}', bytes(10_000)])
def test_a_sealed_record_opens_in_its_own_context(record):
    assert open_record(key(), seal_record(key(), record, CONTEXT), CONTEXT) == record


def test_a_failed_unwrap_says_nothing_about_the_secret():
    wrapped = bytearray(wrap(key(), SecretBytes(MATERIAL), CONTEXT))
    wrapped[20] ^= 1
    with pytest.raises(UnwrapFailed) as failure:
        unwrap(key(), bytes(wrapped), CONTEXT)
    assert failure.value.args == ()


def test_what_is_authenticated_is_every_field_behind_its_length() -> None:
    # Keys that are stored were wrapped with exactly these bytes.
    context = WrapContext(b"i" * 16, "kms_version", "acme", b"o" * 16, 2**32 - 1, "encryption")
    parts = b"i" * 16, b"kms_version", b"acme", b"o" * 16, b"\xff\xff\xff\xff", b"encryption"
    assert context.encode() == b"".join(len(part).to_bytes(4, "big") + part for part in parts)
