"""What a certificate says, and whose key is whose."""

from __future__ import annotations

import base64
import subprocess
import time
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from qimem.crypto.certificates import Unfit, check_key, thumbprint, validity_of
from tests.support.certificates import Authority

ISSUED = Authority().issue(begins=-2, ends=3)
DAY = 86_400


def pem(key: object, form: PrivateFormat = PrivateFormat.PKCS8, encryption: object = None) -> bytes:
    return key.private_bytes(Encoding.PEM, form, encryption or NoEncryption())  # type: ignore[attr-defined]


def test_validity_is_told_in_seconds() -> None:
    begins, ends = validity_of(ISSUED.chain)
    assert abs(begins + 2 * DAY - time.time()) < 3_600
    assert abs(ends - 3 * DAY - time.time()) < 3_600


def test_the_key_it_was_made_for_is_its_own_in_any_form() -> None:
    key = load_pem_private_key(ISSUED.key, None)
    check_key(ISSUED.chain, ISSUED.key)
    check_key(ISSUED.chain, pem(key, PrivateFormat.TraditionalOpenSSL))
    check_key(ISSUED.chain + Authority().pem, bytearray(ISSUED.key))


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (pem(ec.generate_private_key(ec.SECP256R1())), "not that of"),
        (pem(ec.generate_private_key(ec.SECP384R1())), "not that of"),
        (pem(ed25519.Ed25519PrivateKey.generate()), "not that of"),
        (pem(rsa.generate_private_key(65537, 2048)), "not that of"),
        (pem(load_pem_private_key(ISSUED.key, None), encryption=BestAvailableEncryption(b"x")), "passphrase"),
        (ISSUED.key[:-60], "no private key"),
        (ISSUED.chain, "no private key"),
        (b"", "no private key"),
        (b"\x00\xff" * 50, "no private key"),
    ],
    ids=["another", "another curve", "Ed25519", "RSA", "encrypted", "cut short", "a certificate", "empty", "bytes"],
)  # fmt: skip
def test_any_other_key_is_refused(key: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check_key(ISSUED.chain, key)


@pytest.mark.parametrize(
    "chain", [b"", b"x", ISSUED.key, ISSUED.chain[:-80], ISSUED.chain.replace(b"A", b"B")],
    ids=["empty", "text", "a key", "cut short", "damaged"],
)  # fmt: skip
def test_what_is_no_certificate_is_refused(chain: bytes) -> None:
    with pytest.raises(ValueError, match="no certificate"):
        validity_of(chain)
    with pytest.raises(ValueError, match="no certificate"):
        check_key(chain, ISSUED.key)


def test_a_thumbprint_is_the_digest_without_padding() -> None:
    """RFC 8705 §3.1."""
    found = thumbprint(ISSUED.der)
    assert base64.urlsafe_b64decode(found + "=") == sha256(ISSUED.der).digest()
    assert len(found) == 43


def test_a_certificate_for_a_curve_that_nobody_knows_is_refused_as_any_other(tmp_path: Path) -> None:
    certificate = tmp_path / "certificate.pem"
    made = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:SM2",
        "-nodes",
        "-subj",
        "/CN=x",
    ]
    subprocess.run(
        [*made, "-keyout", tmp_path / "key.pem", "-out", certificate], check=True, capture_output=True
    )
    with pytest.raises(Unfit, match="not supported"):
        check_key(certificate.read_bytes(), ISSUED.key)
