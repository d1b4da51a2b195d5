from __future__ import annotations

import base64
import json
from uuid import UUID

import pytest

from qimem.crypto.aead import Aead
from qimem.crypto.algorithms import BY_ENVELOPE_ID, Algorithm
from qimem.crypto.envelope import (
    Envelope,
    EnvelopeWriter,
    decode_base64,
    from_json,
    parse_bytes,
    parse_envelope,
    to_json,
)
from qimem.errors import Invalid
from qimem.kernel.secret import SecretBytes
from tests.unit.crypto.vectors import envelope_vectors

KEYS = {UUID(key_id): bytes.fromhex(key) for key_id, key in envelope_vectors()["keys"].items()}
VALID = {vector["name"]: vector for vector in envelope_vectors()["valid"]}
HELLO = VALID["aes_hello"]
HELLO_BYTES = bytes.fromhex(HELLO["envelope_hex"])

valid = pytest.mark.parametrize("vector", VALID.values(), ids=VALID)


def code_of(message: str) -> str:
    for start, code in (
        ("unsupported envelope version", "unsupported_version"),
        ("unsupported algorithm id", "unsupported_algorithm"),
        ("decryption failed", "decryption_failed"),
    ):
        if message.startswith(start):
            return code
    return "invalid_envelope"


def refused(call, argument) -> str:
    with pytest.raises(Invalid) as refusal:
        call(argument)
    assert refusal.value.code == code_of(refusal.value.message)
    return refusal.value.message


def decrypt(envelope: Envelope) -> bytes:
    cipher = Aead(envelope.algorithm, SecretBytes(KEYS[envelope.key_id]))
    return cipher.open(envelope.nonce, envelope.sealed, None)


@valid
def test_a_valid_vector_is_written_byte_for_byte(vector):
    algorithm = BY_ENVELOPE_ID[vector["algorithm_id"]]
    cipher = Aead(algorithm, SecretBytes(bytes.fromhex(vector["key_hex"])))
    nonce, plaintext = bytes.fromhex(vector["nonce_hex"]), bytes.fromhex(vector["plaintext_hex"])
    text = EnvelopeWriter(UUID(vector["key_id"]), algorithm).encode(
        nonce, cipher.seal(nonce, plaintext, None)
    )
    assert text == vector["envelope_base64"]
    assert len(base64.b64decode(text)) == vector["envelope_len"] == len(plaintext) + 53


@valid
def test_a_valid_vector_is_read_and_opened(vector):
    envelope = parse_envelope(vector["envelope_base64"])
    assert envelope == parse_bytes(bytes.fromhex(vector["envelope_hex"]))
    assert envelope.algorithm is BY_ENVELOPE_ID[vector["algorithm_id"]]
    assert envelope.key_id == UUID(vector["key_id"])
    assert envelope.nonce.hex() == vector["nonce_hex"]
    assert envelope.ciphertext.hex() == vector["ciphertext_hex"]
    assert envelope.tag.hex() == vector["tag_hex"]
    assert decrypt(envelope).hex() == vector["plaintext_hex"]


@valid
def test_a_valid_vector_has_the_one_json_form(vector):
    envelope = parse_envelope(vector["envelope_base64"])
    assert to_json(envelope) == vector["envelope_json"]
    assert from_json(vector["envelope_json"]) == envelope


def test_chacha20_poly1305_has_number_2_and_its_own_json_name():
    key_id = UUID(HELLO["key_id"])
    cipher = Aead(Algorithm.CHACHA20_POLY1305, SecretBytes(KEYS[key_id]))
    nonce = bytes(12)
    text = EnvelopeWriter(key_id, Algorithm.CHACHA20_POLY1305).encode(
        nonce, cipher.seal(nonce, b"hello", None)
    )
    assert base64.b64decode(text)[:2] == b"\x01\x02"
    assert json.loads(to_json(parse_envelope(text)))["algorithm"] == "cha_cha20_poly1305"
    assert from_json(to_json(parse_envelope(text))) == parse_envelope(text)
    assert decrypt(parse_envelope(text)) == b"hello"


# Those whose text is well-formed here: what is wrong with them shows only with the key at hand.
WITH_KEY = {"unknown_key", "ciphertext_bit_flip", "tag_bit_flip", "plaintext_not_utf8"}
MALFORMED = {vector["name"]: vector for vector in envelope_vectors()["malformed"]}


@pytest.mark.parametrize("name", sorted(MALFORMED.keys() - WITH_KEY))
def test_a_malformed_vector_is_refused_with_its_own_text(name):
    assert refused(parse_envelope, MALFORMED[name]["input"]) == MALFORMED[name]["expected"]["error"]


@pytest.mark.parametrize("name", ["ciphertext_bit_flip", "tag_bit_flip"])
def test_a_tampered_vector_parses_and_does_not_open(name):
    envelope = parse_envelope(MALFORMED[name]["input"])
    assert refused(decrypt, envelope) == MALFORMED[name]["expected"]["error"]


def test_the_vector_of_an_unknown_key_parses_and_names_that_key():
    vector = MALFORMED["unknown_key"]
    key_id = parse_envelope(vector["input"]).key_id
    assert key_id not in KEYS
    assert vector["expected"]["error"] == f"key not found: {key_id}"


def test_the_vector_that_is_no_text_opens_to_bytes_that_are_not_utf8():
    plaintext = decrypt(parse_envelope(MALFORMED["plaintext_not_utf8"]["input"]))
    with pytest.raises(UnicodeDecodeError):
        plaintext.decode("utf-8")


def reason_for_length(length: int) -> str:
    """What is missing first when only so many bytes of HELLO are there (5 bytes of ciphertext)."""
    for end, reason in (
        (1, "missing version"),
        (2, "missing algorithm"),
        (18, "missing key id"),
        (20, "missing nonce length"),
        (32, "invalid nonce"),
        (36, "missing ciphertext length"),
        (41, "invalid ciphertext"),
        (42, "missing tag length"),
        (58, "invalid tag"),
    ):
        if length < end:
            return f"invalid envelope: {reason}"
    raise AssertionError(length)


@pytest.mark.parametrize("length", range(len(HELLO_BYTES)))
def test_a_truncated_envelope_is_refused_for_the_first_missing_field(length):
    truncated = HELLO_BYTES[:length]
    assert refused(parse_bytes, truncated) == reason_for_length(length)
    assert refused(parse_envelope, base64.b64encode(truncated).decode()) == reason_for_length(length)


@pytest.mark.parametrize("length", range(len(HELLO["envelope_base64"])))
def test_truncated_base64_is_refused(length):
    message = refused(parse_envelope, HELLO["envelope_base64"][:length])
    assert (
        message == reason_for_length(length // 4 * 3)
        if length % 4 == 0
        else "invalid envelope: invalid base64"
    )


@pytest.mark.parametrize("algorithm", [Algorithm.AES256_GCM, Algorithm.CHACHA20_POLY1305])
def test_every_single_flipped_bit_is_refused_or_names_another_key(algorithm):
    key_id, nonce = UUID(HELLO["key_id"]), bytes(12)
    sealed = Aead(algorithm, SecretBytes(KEYS[key_id])).seal(nonce, b"hello", None)
    data = base64.b64decode(EnvelopeWriter(key_id, algorithm).encode(nonce, sealed))
    for position in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[position // 8] ^= 1 << position % 8
        try:
            envelope = parse_bytes(bytes(flipped))
        except Invalid:
            continue
        if 2 <= position // 8 < 18:
            assert envelope.key_id != key_id
            assert envelope.key_id not in KEYS
        else:
            assert refused(decrypt, envelope) == "decryption failed"


def test_every_single_flipped_bit_of_the_text_is_refused_or_names_another_key():
    text = HELLO["envelope_base64"].encode()
    for position in range(8 * len(text)):
        flipped = bytearray(text)
        flipped[position // 8] ^= 1 << position % 8
        try:
            envelope = parse_envelope(flipped.decode("latin-1"))
        except Invalid:
            continue
        if envelope.key_id in KEYS:
            refused(decrypt, envelope)


@pytest.mark.parametrize("version", [v for v in range(256) if v != 1])
def test_another_version_is_named_even_before_anything_else_is_judged(version):
    expected = f"unsupported envelope version: {version}"
    assert refused(parse_bytes, bytes((version,))) == expected
    assert refused(parse_bytes, bytes((version,)) + HELLO_BYTES[1:]) == expected


@pytest.mark.parametrize("number", [n for n in range(256) if n not in (1, 2)])
def test_another_algorithm_is_named_before_the_rest_is_judged(number):
    expected = f"unsupported algorithm id: {number}"
    assert refused(parse_bytes, bytes((1, number))) == expected
    assert refused(parse_bytes, bytes((1, number)) + HELLO_BYTES[2:]) == expected


@pytest.mark.parametrize("length", [0, 1, 11, 13, 16, 255, 256, 65535])
def test_a_nonce_length_other_than_12_is_an_invalid_nonce(length):
    data = HELLO_BYTES[:18] + length.to_bytes(2, "big") + HELLO_BYTES[20:]
    assert refused(parse_bytes, data) == "invalid envelope: invalid nonce"


@pytest.mark.parametrize("length", [23, 1000, 2**31, 2**32 - 1])
def test_a_ciphertext_length_beyond_the_input_is_an_invalid_ciphertext(length):
    data = HELLO_BYTES[:32] + length.to_bytes(4, "big") + HELLO_BYTES[36:]
    assert refused(parse_bytes, data) == "invalid envelope: invalid ciphertext"


@pytest.mark.parametrize("length", [0, 4, 8, 12, 15, 17, 32, 255])
def test_a_tag_length_other_than_16_is_an_invalid_tag(length):
    assert refused(parse_bytes, HELLO_BYTES[:41] + bytes((length,)) + HELLO_BYTES[42:]) == (
        "invalid envelope: invalid tag"
    )
    shortened = HELLO_BYTES[:41] + bytes((length,)) + bytes(length)
    assert refused(parse_bytes, shortened) == "invalid envelope: invalid tag"


@pytest.mark.parametrize("extra", [b"\0", b"\x10", HELLO_BYTES])
def test_bytes_after_the_tag_are_refused(extra):
    assert refused(parse_bytes, HELLO_BYTES + extra) == "invalid envelope: trailing bytes"


B64 = HELLO["envelope_base64"]


@pytest.mark.parametrize(
    "text",
    [
        "!!!!",
        "A",
        "AQ",
        "AQ=",
        "=",
        "==",
        "====",
        "AQ===",
        "AQFV=",
        "AQFV====",
        "AQ==AQ==",
        "AR==",  # unused bits set
        "AQF=",  # unused bits set
        "AQ==\n",
        " AQ==",
        "AQ ==",
        "AQFV\n",
        "AQFV\r\nAQFV",
        "AQFV\0",
        "AQ==\0",
        "AQ-_",
        "AQFé",
        "ＡＱＦＶ",
        "\ud800AAA",
        B64 + "\n",
        B64[:-2],
        B64[:-3] + "x==",
        B64[:20] + " " + B64[20:],
        B64.replace("/", "_"),
    ],
)
def test_base64_other_than_the_canonical_spelling_is_refused(text):
    assert decode_base64(text) is None
    assert refused(parse_envelope, text) == "invalid envelope: invalid base64"


JSON = json.loads(HELLO["envelope_json"])


def changed(**members: object) -> str:
    return json.dumps(JSON | members)


NOT_JSON_FORM = {
    "empty": "",
    "no json": "{",
    "array": "[]",
    "number": "1",
    "null": "null",
    "string": '"x"',
    "no members": "{}",
    "unknown member": changed(aad=[]),
    "duplicate member": HELLO["envelope_json"][:-1] + ',"version":1}',
    "NaN": HELLO["envelope_json"].replace('"version":1', '"version":NaN'),
    "deep": "[" * 200_000,
    "version true": changed(version=True),
    "version text": changed(version="1"),
    "version real": changed(version=1.0),
    "algorithm name": changed(algorithm="AES-256-GCM"),
    "algorithm id": changed(algorithm=1),
    "algorithm list": changed(algorithm=[]),
    "signing algorithm": changed(algorithm="es256"),
    "key id": changed(key_id="550e8400"),
    "key id urn": changed(key_id="urn:uuid:" + JSON["key_id"]),
    "key id number": changed(key_id=1),
    "nonce count": changed(nonce=12),
    "nonce text": changed(nonce="000000000000"),
    "nonce true": changed(nonce=[True] * 12),
    "nonce octet 256": changed(nonce=[256] * 12),
    "nonce octet negative": changed(nonce=[-1] * 12),
    "nonce real": changed(nonce=[1.0] * 12),
    "ciphertext count": changed(ciphertext=2**40),
    "ciphertext null": changed(ciphertext=None),
    "ciphertext object": changed(ciphertext={"0": 1}),
    "tag count": changed(tag=16),
}


@pytest.mark.parametrize("text", NOT_JSON_FORM.values(), ids=NOT_JSON_FORM)
def test_what_is_not_the_json_form_is_refused(text):
    assert refused(from_json, text) == "invalid envelope: not the JSON form of an envelope"


@pytest.mark.parametrize("member", JSON)
def test_the_json_form_lacks_no_member(member):
    text = json.dumps({name: value for name, value in JSON.items() if name != member})
    assert refused(from_json, text) == "invalid envelope: not the JSON form of an envelope"


def test_the_json_form_is_judged_like_the_binary_one():
    assert refused(from_json, changed(version=2)) == "unsupported envelope version: 2"
    assert refused(from_json, changed(nonce=[0] * 11)) == "invalid envelope: invalid nonce"
    assert refused(from_json, changed(tag=[0] * 8)) == "invalid envelope: invalid tag"


def test_the_json_form_is_read_whatever_the_order_of_its_members():
    assert from_json(json.dumps(dict(reversed(JSON.items())), indent=2)) == parse_bytes(HELLO_BYTES)


def test_writers_exist_only_for_algorithms_that_encrypt():
    with pytest.raises(KeyError):
        EnvelopeWriter(UUID(int=0), Algorithm.ES256)
