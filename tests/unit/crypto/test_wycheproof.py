"""Project Wycheproof's vectors against `qimem.crypto`.

A case that names a key or nonce size that QIMEM does not offer must be refused, valid or not. The
token files hold other algorithms and headers without `typ`: as access tokens all of them must be
refused, and the ES256 ones are judged a second time by their signature alone.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from typing import Any

import pytest

from qimem.crypto.aead import Aead
from qimem.crypto.algorithms import Algorithm
from qimem.crypto.jose import TokenInvalid, verify_compact
from qimem.crypto.mac import mac, mac_matches
from qimem.crypto.signatures import ES256Signer, ES256Verifier, SignatureInvalid
from qimem.errors import Invalid
from qimem.kernel.secret import SecretBytes
from tests.unit.crypto.vectors import wycheproof_cases

AEADS = [("aes_gcm", Algorithm.AES256_GCM), ("chacha20_poly1305", Algorithm.CHACHA20_POLY1305)]


def decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@pytest.mark.parametrize(("name", "algorithm"), AEADS)
def test_ciphers_seal_and_open_as_the_vectors_say(name, algorithm):
    seen: Counter[str] = Counter()
    for group, case in wycheproof_cases(name):
        if (group["keySize"], group["ivSize"], group["tagSize"]) != (256, 96, 128):
            continue
        cipher = Aead(algorithm, SecretBytes(bytes.fromhex(case["key"])))
        nonce, aad, plaintext = (bytes.fromhex(case[field]) for field in ("iv", "aad", "msg"))
        sealed = bytes.fromhex(case["ct"] + case["tag"])
        if case["result"] == "valid":
            assert cipher.seal(nonce, plaintext, aad) == sealed, case["tcId"]
            assert cipher.open(nonce, sealed, aad) == plaintext, case["tcId"]
        else:
            with pytest.raises(Invalid, match=r"^decryption failed$"):
                cipher.open(nonce, sealed, aad)
        seen[case["result"]] += 1
    assert seen["valid"] >= 30
    assert seen["invalid"] >= 20


@pytest.mark.parametrize(("name", "algorithm"), AEADS)
def test_ciphers_refuse_every_other_key_and_nonce_size(name, algorithm):
    refused = 0
    for group, case in wycheproof_cases(name):
        if (group["keySize"], group["ivSize"]) == (256, 96):
            continue
        key, nonce = SecretBytes(bytes.fromhex(case["key"])), bytes.fromhex(case["iv"])
        if group["keySize"] != 256:
            with pytest.raises(ValueError, match="32 bytes"):
                Aead(algorithm, key)
        else:
            cipher = Aead(algorithm, key)
            with pytest.raises(ValueError, match="12 bytes"):
                cipher.seal(nonce, bytes.fromhex(case["msg"]), bytes.fromhex(case["aad"]))
            with pytest.raises(Invalid, match=r"^decryption failed$"):
                cipher.open(nonce, bytes.fromhex(case["ct"] + case["tag"]), bytes.fromhex(case["aad"]))
        refused += 1
    assert refused >= 9


def test_hmac_sha256_agrees_and_never_takes_a_shortened_tag():
    for group, case in wycheproof_cases("hmac_sha256"):
        key, message, tag = (bytes.fromhex(case[field]) for field in ("key", "msg", "tag"))
        length = group["tagSize"] // 8
        agrees = mac(SecretBytes(key), message)[:length] == tag
        assert agrees is (case["result"] == "valid"), case["tcId"]
        matches = mac_matches(SecretBytes(key), message, tag)
        assert matches is (case["result"] == "valid" and length == 32), case["tcId"]


def p256_jwk(uncompressed: str) -> dict[str, str]:
    point = bytes.fromhex(uncompressed)
    assert point[0] == 4
    return {"kty": "EC", "crv": "P-256", "x": encoded(point[1:33]), "y": encoded(point[33:])}


def test_es256_signatures_verify_exactly_when_they_are_valid():
    for group, case in wycheproof_cases("ecdsa_secp256r1_sha256_p1363"):
        verifier = ES256Verifier(p256_jwk(group["publicKey"]["uncompressed"]))
        signature, message = bytes.fromhex(case["sig"]), bytes.fromhex(case["msg"])
        if case["result"] == "valid":
            verifier.verify(signature, message)
        else:
            with pytest.raises(SignatureInvalid):
                verifier.verify(signature, message)


def keys_of(group: dict[str, Any]) -> list[dict[str, str]]:
    held = [group[half] for half in ("public", "private") if half in group]
    return [jwk for entry in held for jwk in entry.get("keys", [entry])]


@pytest.mark.parametrize("name", ["json_web_signature", "json_web_key"])
@pytest.mark.parametrize("token_type", ["at+jwt", "JWT"])
def test_no_foreign_token_is_an_access_token_though_its_key_stands_in_the_table(name, token_type):
    for group, case in wycheproof_cases(name):
        keys = {jwk.get("kid", ""): jwk for jwk in keys_of(group)}
        text = case["jws"] if isinstance(case["jws"], str) else json.dumps(case["jws"])
        with pytest.raises(TokenInvalid):
            verify_compact(text, keys, token_type)


def es256_cases() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return [
        (group, case)
        for group, case in wycheproof_cases("json_web_signature")
        if group["private"].get("alg") == "ES256" and group["private"].get("use") == "sig"
    ]


def test_the_signatures_of_es256_tokens_verify_exactly_when_the_token_is_valid():
    judged: Counter[str] = Counter()
    for group, case in es256_cases():
        parts = case["jws"].split(".")
        # The rest is broken before its signature would be looked at.
        if len(parts) != 3 or not all(parts) or json.loads(decoded(parts[0])).keys() != {"alg", "kid"}:
            continue
        verifier = ES256Verifier(group["public"])
        signing_input = ".".join(parts[:2]).encode()
        if case["result"] == "valid":
            verifier.verify(decoded(parts[2]), signing_input)
        else:
            with pytest.raises(SignatureInvalid):
                verifier.verify(decoded(parts[2]), signing_input)
        judged[case["result"]] += 1
    assert judged["valid"] == 2
    assert judged["invalid"] >= 24


def test_the_signatures_of_invalid_es256_tokens_do_not_serve_an_access_token():
    """The same signatures under a header that meets our rules, beside one that must pass."""
    for group, case in es256_cases():
        jwk = group["public"]
        header = encoded(json.dumps({"alg": "ES256", "typ": "at+jwt", "kid": jwk["kid"]}).encode())
        signing_input = f"{header}.{encoded(b'foo')}"
        signer = ES256Signer(SecretBytes(decoded(group["private"]["d"])))
        good = f"{signing_input}.{encoded(signer.sign(signing_input.encode()))}"
        assert verify_compact(good, {jwk["kid"]: jwk}, "at+jwt") == (b"foo", jwk["kid"])
        with pytest.raises(TokenInvalid):
            verify_compact(f"{signing_input}.{case['jws'].split('.')[-1]}", {jwk["kid"]: jwk}, "at+jwt")


def on_p256(jwk: dict[str, str]) -> bool:
    p = 2**256 - 2**224 + 2**192 + 2**96 - 1
    b = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
    x, y = (int.from_bytes(decoded(jwk[name]), "big") for name in ("x", "y"))
    return (y * y - x * x * x + 3 * x - b) % p == 0


def test_only_points_on_p256_become_verifiers():
    kinds: Counter[str] = Counter()
    for name in ("json_web_key", "json_web_signature"):
        for group, _ in wycheproof_cases(name):
            for jwk in keys_of(group):
                if (jwk["kty"], jwk.get("crv")) != ("EC", "P-256"):
                    kinds["other kind"] += 1
                    with pytest.raises(ValueError, match="not a P-256 key"):
                        ES256Verifier(jwk)
                elif not on_p256(jwk):
                    kinds["off the curve"] += 1
                    with pytest.raises(ValueError):
                        ES256Verifier(jwk)
                else:
                    kinds["good"] += 1
                    ES256Verifier(jwk)
    assert kinds.keys() == {"other kind", "off the curve", "good"}
