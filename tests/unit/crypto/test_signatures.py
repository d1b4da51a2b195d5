from __future__ import annotations

import pytest

from qimem.crypto.signatures import (
    Ed25519Signer,
    Ed25519Verifier,
    ES256Signer,
    ES256Verifier,
    SignatureInvalid,
    generate_es256,
)
from qimem.kernel.secret import SecretBytes

SCALAR = generate_es256()
SIGNER = ES256Signer(SCALAR)
JWK = SIGNER.public_jwk()
VERIFIER = ES256Verifier(JWK)
SIGNER_OF_ANOTHER = Ed25519Signer(SecretBytes(bytes(range(32))))
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def test_a_new_key_is_a_secret_scalar_and_a_public_jwk():
    assert isinstance(SCALAR, SecretBytes)
    assert len(SCALAR) == 32
    assert JWK.keys() == {"kty", "crv", "x", "y"}
    assert (JWK["kty"], JWK["crv"], len(JWK["x"]), len(JWK["y"])) == ("EC", "P-256", 43, 43)
    assert ES256Signer(generate_es256()).public_jwk() != JWK


def test_a_signature_has_64_bytes_and_verifies():
    signature = SIGNER.sign(b"data")
    assert len(signature) == 64
    VERIFIER.verify(signature, b"data")


def test_leading_zeros_of_r_and_s_are_kept():
    lengths = set()
    for number in range(600):
        signature = SIGNER.sign(number.to_bytes(2, "big"))
        lengths.add(len(signature))
        VERIFIER.verify(signature, number.to_bytes(2, "big"))
    assert lengths == {64}


def test_the_signer_still_works_after_the_scalar_was_wiped():
    scalar = generate_es256()
    signer = ES256Signer(scalar)
    scalar.wipe()
    ES256Verifier(signer.public_jwk()).verify(signer.sign(b"data"), b"data")


def refuse(signature: bytes, data: bytes = b"data", verifier: ES256Verifier = VERIFIER) -> None:
    with pytest.raises(SignatureInvalid):
        verifier.verify(signature, data)


def test_other_data_and_another_key_are_refused():
    signature = SIGNER.sign(b"data")
    refuse(signature, b"Data")
    refuse(signature, b"")
    refuse(signature, verifier=ES256Verifier(ES256Signer(generate_es256()).public_jwk()))


def test_every_length_other_than_64_is_refused():
    signature = SIGNER.sign(b"data")
    for length in range(64):
        refuse(signature[:length])
    refuse(signature + b"\0")
    refuse(b"\0" + signature)
    refuse(signature * 2)


def test_a_signature_with_a_leading_zero_of_s_added_or_left_out_is_refused():
    # Read as numbers, these would be the same signature.
    signature = next(
        signature for signature in (SIGNER.sign(b"data") for _ in range(20_000)) if signature[32] == 0
    )
    VERIFIER.verify(signature, b"data")
    refuse(signature[:32] + signature[33:])
    refuse(signature[:32] + b"\0" + signature[32:])


@pytest.mark.parametrize("r", [0, 1, ORDER - 1, ORDER, ORDER + 1, 2**256 - 1])
@pytest.mark.parametrize("s", [0, 1, ORDER - 1, ORDER, ORDER + 1, 2**256 - 1])
def test_special_values_of_r_and_s_are_refused(r, s):
    # r = s = 0 was accepted by Java 15 to 18 for every message (CVE-2022-21449).
    refuse(r.to_bytes(32, "big") + s.to_bytes(32, "big"))


def test_every_flipped_bit_is_refused():
    signature = SIGNER.sign(b"data")
    for position in range(512):
        flipped = bytearray(signature)
        flipped[position // 8] ^= 1 << position % 8
        refuse(bytes(flipped))


@pytest.mark.parametrize(
    "changes",
    [
        {"kty": "RSA"},
        {"kty": "oct"},
        {"crv": "P-384"},
        {"crv": "secp256k1"},
        {"x": ""},
        {"x": "A" * 43, "y": "A" * 43},
        {"x": JWK["y"], "y": JWK["x"]},
        {"x": JWK["x"][:-1]},
        {"x": JWK["x"] + "A"},
        {"x": JWK["x"] + "="},
        {"x": "A" + JWK["x"]},
        {"x": "-" * 86},
        {"x": "é" * 43},
    ],
)
def test_a_jwk_that_is_no_point_in_its_one_spelling_is_refused(changes):
    with pytest.raises(ValueError):
        ES256Verifier(JWK | changes)


@pytest.mark.parametrize("missing", list(JWK))
def test_an_incomplete_jwk_is_refused(missing):
    with pytest.raises(ValueError):
        ES256Verifier({name: value for name, value in JWK.items() if name != missing})


@pytest.mark.parametrize("scalar", [0, ORDER, 2**256 - 1])
def test_a_scalar_outside_the_group_makes_no_signer(scalar):
    with pytest.raises(ValueError):
        ES256Signer(SecretBytes(scalar.to_bytes(32, "big")))


# RFC 8032 §7.1, tests 1 to 3: seed, public key, message, signature.
RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        (
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
            "d25bf5f0595bbe24655141438e7a100b"
        ),
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        (
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
            "387b2eaeb4302aeeb00d291612bb0c00"
        ),
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        (
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc659"
            "4a7c15e9716ed28dc027beceea1ec40a"
        ),
    ),
]


@pytest.mark.parametrize(("seed", "public", "message", "signature"), RFC_8032)
def test_the_signatures_of_rfc_8032(seed: str, public: str, message: str, signature: str) -> None:
    signer = Ed25519Signer(SecretBytes(bytes.fromhex(seed)))
    made, data = bytes.fromhex(signature), bytes.fromhex(message)
    assert signer.public_bytes() == bytes.fromhex(public)
    assert signer.sign(data) == made
    verifier = Ed25519Verifier(bytes.fromhex(public))
    verifier.verify(made, data)
    flipped = bytes((made[0] ^ 1,)) + made[1:]
    for wrong, of in (
        (flipped, data),
        (made, data + b"x"),
        (made[:-1], data),
        (b"", data),
        (made + b"x", data),
    ):
        with pytest.raises(SignatureInvalid):
            verifier.verify(wrong, of)
    with pytest.raises(SignatureInvalid):
        Ed25519Verifier(SIGNER_OF_ANOTHER.public_bytes()).verify(made, data)
