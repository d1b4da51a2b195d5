from __future__ import annotations

import base64
import hashlib
import hmac
import json
import random
from collections import OrderedDict

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from qimem.crypto import jose
from qimem.crypto.jose import CompactWriter, TokenInvalid, thumbprint, unverified_payload, verify_compact
from qimem.crypto.signatures import ES256Signer, generate_es256
from qimem.kernel.limits import BEARER_CHARS_MAX
from qimem.kernel.secret import SecretBytes

TYPE = "at+jwt"
# Fixed, so that every process collects the same tests.
SCALAR = SecretBytes(bytes(range(1, 33)))
_POINT = ec.derive_private_key(int.from_bytes(SCALAR.reveal()), ec.SECP256R1()).public_key().public_numbers()
JWK = {"kty": "EC", "crv": "P-256"} | {
    name: base64.urlsafe_b64encode(value.to_bytes(32)).rstrip(b"=").decode()
    for name, value in (("x", _POINT.x), ("y", _POINT.y))
}
SIGNER = ES256Signer(SCALAR)
KID = thumbprint(JWK)
KEYS = {KID: JWK}
HEADER = {"alg": "ES256", "typ": TYPE, "kid": KID}
PAYLOAD = b'{"sub":"alice"}'
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def token(payload: bytes = PAYLOAD, kid: str = KID, token_type: str = TYPE) -> str:
    writer = CompactWriter(kid, token_type)
    signing_input = writer.signing_input(payload)
    return writer.finish(signing_input, SIGNER.sign(signing_input))


def signed(header: bytes | str | dict[str, object], payload: bytes = PAYLOAD) -> str:
    """A token with any header, truly signed by our key: only the header can be at fault."""
    raw = json.dumps(header).encode() if isinstance(header, dict) else header
    text = raw if isinstance(raw, str) else b64(raw)
    signing_input = f"{text}.{b64(payload)}"
    return f"{signing_input}.{b64(SIGNER.sign(signing_input.encode()))}"


def assert_refused(text: str, keys: dict[str, dict[str, str]] = KEYS) -> None:
    with pytest.raises(TokenInvalid) as refusal:
        verify_compact(text, keys, TYPE)
    assert refusal.value.args == ()


def test_a_token_of_ours_verifies_to_its_payload_and_kid():
    assert verify_compact(token(), KEYS, TYPE) == (PAYLOAD, KID)
    assert verify_compact(signed(HEADER), KEYS, TYPE) == (PAYLOAD, KID)


def test_another_implementation_reads_our_tokens_and_we_read_its():
    private = ec.derive_private_key(int.from_bytes(SCALAR.reveal(), "big"), ec.SECP256R1())
    assert jwt.decode(token(), private.public_key(), algorithms=["ES256"]) == {"sub": "alice"}
    theirs = jwt.encode({"sub": "bob"}, private, algorithm="ES256", headers={"kid": KID, "typ": TYPE})
    assert json.loads(verify_compact(theirs, KEYS, TYPE)[0]) == {"sub": "bob"}


def test_the_thumbprint_is_that_of_rfc_7638():
    # Members beyond the required ones and their order do not count (RFC 7638 §3).
    # The value was computed from the canonical text, written out by hand.
    canonical = f'{{"crv":"P-256","kty":"EC","x":"{JWK["x"]}","y":"{JWK["y"]}"}}'
    expected = b64(hashlib.sha256(canonical.encode()).digest())
    assert thumbprint(JWK) == expected
    assert thumbprint({"use": "sig", **dict(reversed(JWK.items())), "kid": "x"}) == expected


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "", "nOnE"])
def test_alg_none_is_refused_with_and_without_a_signature(algorithm):
    header = b64(json.dumps(HEADER | {"alg": algorithm}).encode())
    assert_refused(f"{header}.{b64(PAYLOAD)}.")
    assert_refused(signed(HEADER | {"alg": algorithm}))


def public_key_spellings() -> list[bytes]:
    public = ec.derive_private_key(int.from_bytes(SCALAR.reveal(), "big"), ec.SECP256R1()).public_key()
    encodings = serialization.Encoding
    formats = serialization.PublicFormat
    return [
        public.public_bytes(encodings.PEM, formats.SubjectPublicKeyInfo),
        public.public_bytes(encodings.PEM, formats.SubjectPublicKeyInfo).rstrip(),
        public.public_bytes(encodings.DER, formats.SubjectPublicKeyInfo),
        public.public_bytes(encodings.X962, formats.UncompressedPoint),
        public.public_bytes(encodings.X962, formats.CompressedPoint),
        json.dumps(JWK).encode(),
        JWK["x"].encode(),
        b"",
    ]


@pytest.mark.parametrize("secret", public_key_spellings(), ids=lambda value: f"{len(value)} bytes")
@pytest.mark.parametrize("algorithm", ["HS256", "ES256"])
def test_a_mac_keyed_with_the_public_key_is_refused(secret, algorithm):
    signing_input = f"{b64(json.dumps(HEADER | {'alg': algorithm}).encode())}.{b64(PAYLOAD)}"
    tag = hmac.new(secret, signing_input.encode(), hashlib.sha256).digest()
    assert_refused(f"{signing_input}.{b64(tag)}")
    assert_refused(f"{signing_input}.{b64(tag + tag)}")


@pytest.mark.parametrize(
    "algorithm",
    ["HS256", "RS256", "PS256", "ES384", "ES256K", "EdDSA", "es256", "ES256 ", 1, None, ["ES256"]],
)
def test_an_algorithm_other_than_the_keys_is_refused_though_the_signature_is_good(algorithm):
    assert_refused(signed(HEADER | {"alg": algorithm}))


@pytest.mark.parametrize(
    "token_type",
    ["JWT", "jwt", "AT+JWT", "application/at+jwt", "dpop+jwt", "logout+jwt", "", None, 1, [TYPE]],
)
def test_a_token_of_another_type_is_refused(token_type):
    assert_refused(signed(HEADER | {"typ": token_type}))


@pytest.mark.parametrize(
    "kid",
    [
        "",
        "other",
        KID.upper(),
        KID + " ",
        "../" + KID,
        "../../../../dev/null",
        "' OR 1=1 --",
        "\0",
        None,
        1,
        [],
        {},
        [KID],
    ],
)
def test_a_kid_outside_the_table_is_refused(kid):
    assert_refused(signed(HEADER | {"kid": kid}))


@pytest.mark.parametrize("member", list(HEADER))
def test_every_header_member_is_required(member):
    assert_refused(signed({name: value for name, value in HEADER.items() if name != member}))


@pytest.mark.parametrize(
    "extra",
    [
        {"crit": ["b64"], "b64": False},
        {"crit": []},
        {"crit": ["exp"], "exp": 1},
        {"b64": True},
        {"b64": False},
        {"jwk": JWK},
        {"jku": "https://attacker.example/jwks"},
        {"x5u": "https://attacker.example/cert"},
        {"x5c": ["AAAA"]},
        {"x5t": "AAAA"},
        {"zip": "DEF"},
        {"enc": "A256GCM"},
        {"cty": "JWT"},
        {"p2c": 10_000_000},
        {"": ""},
    ],
)
def test_any_further_header_member_is_refused_though_the_signature_is_good(extra):
    assert_refused(signed(HEADER | extra))


def test_a_token_signed_by_a_key_that_it_brings_along_is_refused():
    signer = ES256Signer(generate_es256())
    signing_input = f"{b64(json.dumps(HEADER | {'jwk': signer.public_jwk()}).encode())}.{b64(PAYLOAD)}"
    assert_refused(f"{signing_input}.{b64(signer.sign(signing_input.encode()))}")


def test_a_token_of_another_key_under_a_known_kid_is_refused():
    other = ES256Signer(generate_es256()).public_jwk()
    assert_refused(token(), {KID: other})
    assert_refused(token(), {})


RAW = json.dumps(HEADER)


@pytest.mark.parametrize(
    "header",
    [
        RAW[:-1] + ', "alg": "ES256"}',
        RAW[:-1] + ', "kid": "' + KID + '"}',
        RAW[:-1] + ', "\\u0061lg": "ES256"}',
        '{"alg": "none", ' + RAW[1:],
        "",
        "{}",
        "[]",
        "null",
        "1",
        '"ES256"',
        f"[{RAW}]",
        RAW + RAW,
        RAW + "x",
        RAW[:-1],
        RAW.replace('"', "'"),
        RAW.replace('"ES256"', "NaN"),
        '{"alg":' + "[" * 3000 + "]" * 3000 + "}",
        '{"alg":' + "9" * 5000 + "}",
        "\ufeff" + RAW,
    ],
)
def test_a_header_that_is_not_one_plain_object_is_refused(header):
    assert_refused(signed(header.encode()))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-8-sig"])
def test_a_header_in_another_encoding_is_refused(encoding):
    assert_refused(signed(RAW.encode(encoding)))


def test_a_header_that_is_not_utf8_is_refused():
    assert_refused(signed(RAW.encode()[:-1] + b',"\xff":1}'))


@pytest.mark.parametrize("parts", [0, 1, 2, 4, 5, 6, 500])
def test_anything_but_three_parts_is_refused(parts):
    assert_refused(".".join([*token().split("."), *["AAAA"] * 500][:parts]))


def test_the_shape_of_an_encrypted_token_is_refused():
    header = b64(json.dumps({"alg": "dir", "enc": "A256GCM", "typ": TYPE, "kid": KID}).encode())
    assert_refused(f"{header}..AAAA.AAAA.AAAA")
    assert_refused(f"{header}.AAAA.AAAA")


def test_the_json_serialization_is_refused():
    protected, payload, signature = token().split(".")
    assert_refused(json.dumps({"protected": protected, "payload": payload, "signature": signature}))


@pytest.mark.parametrize("part", [0, 1, 2])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text + "=",
        lambda text: text + "==",
        lambda text: text + "\n",
        lambda text: " " + text,
        lambda text: text[:4] + "\n" + text[4:],
        lambda text: text[:4] + "!" + text[4:],
        lambda text: text + "A",
        lambda text: text + "é",
        lambda text: text[:-1] + "/",
        lambda text: text[:-1] + "+",
        lambda text: text[:-1],
        lambda text: "",
    ],
)
def test_a_part_that_is_not_strict_base64url_is_refused(part, spoil):
    parts = token().split(".")
    parts[part] = spoil(parts[part])
    assert_refused(".".join(parts))


def test_a_signature_with_its_unused_bits_set_is_refused():
    # 64 bytes leave four unused bits in the last character: sixteen spellings, one of them ours.
    text = token()
    last = ALPHABET.index(text[-1])
    assert last % 16 == 0
    for bits in range(1, 16):
        assert_refused(text[:-1] + ALPHABET[last + bits])


def test_every_changed_character_is_refused():
    text = token()
    for position, character in enumerate(text):
        replacement = "A" if character != "A" else "B"
        assert_refused(text[:position] + replacement + text[position + 1 :])


def test_every_truncation_is_refused():
    text = token()
    for length in range(len(text)):
        assert_refused(text[:length])


@pytest.mark.parametrize(
    "signature",
    [
        bytes(64),
        bytes(63),
        bytes(65),
        b"",
        b"\xff" * 64,
        bytes(31) + b"\1" + bytes(31) + b"\1",
        bytes.fromhex("3006020101020101"),
    ],
)
def test_a_signature_of_zeros_or_special_numbers_is_refused(signature):
    assert_refused(f"{token().rsplit('.', 1)[0]}.{b64(signature)}")


def test_a_token_at_the_length_limit_verifies_and_one_character_more_is_refused():
    overhead = len(token(b""))
    payload = b"x" * ((BEARER_CHARS_MAX - overhead) * 3 // 4)
    longest = token(payload)
    assert BEARER_CHARS_MAX - 3 <= len(longest) <= BEARER_CHARS_MAX
    assert verify_compact(longest, KEYS, TYPE)[0] == payload
    assert_refused(token(payload + b"xxxx"))


def test_a_long_text_is_refused_before_any_of_it_is_decoded(monkeypatch):
    def decoding(*_: object, **__: object) -> bytes:
        raise AssertionError("decoded")

    monkeypatch.setattr(base64, "b64decode", decoding)
    assert_refused("A" * (BEARER_CHARS_MAX + 1))
    assert_refused("." * 65_536)


def test_garbage_of_many_lengths_is_refused():
    generator = random.Random(7)
    alphabet = ALPHABET + '....=+/ \n\0é\ud800{}"'
    for length in [*range(300), 1_000, 8_191, 8_192, 8_193, 65_536]:
        assert_refused("".join(generator.choices(alphabet, k=length)))


def test_the_unverified_payload_is_read_from_well_formed_tokens_only():
    forged = token().rsplit(".", 1)[0] + "." + b64(bytes(64))
    assert unverified_payload(forged) == PAYLOAD
    for text in ("", "a.b", "a.!.c", "a.b.c.d", "x." + "A" * BEARER_CHARS_MAX + ".y"):
        with pytest.raises(TokenInvalid):
            unverified_payload(text)


def test_so_many_keys_are_kept_ready_and_the_oldest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jose, "CACHED_REALMS_MAX", 2)
    monkeypatch.setattr(jose, "_verifiers", OrderedDict())
    for scalar in (bytes(range(1, 33)), bytes(range(2, 34)), bytes(range(3, 35))):
        signer = ES256Signer(SecretBytes(scalar))
        jwk = signer.public_jwk()
        writer = CompactWriter(thumbprint(jwk), TYPE)
        signing_input = writer.signing_input(PAYLOAD)
        text = writer.finish(signing_input, signer.sign(signing_input))
        for _ in range(2):
            verify_compact(text, {thumbprint(jwk): jwk}, TYPE)
            kept = jose._verifiers[jwk["x"], jwk["y"]]
            assert jose._verifier(jwk) is kept
        last = [*jose._verifiers][-1]
        assert last == (jwk["x"], jwk["y"])
    assert len(jose._verifiers) == 2


def test_a_header_is_written_without_a_wasted_byte() -> None:
    header = base64.urlsafe_b64decode(token().split(".")[0] + "==")
    assert header == json.dumps(json.loads(header), separators=(",", ":")).encode()
