"""The published vectors over HTTP, and what we write read by code that is not ours."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from qimem.crypto.algorithms import Algorithm
from tests.support.api import Person, World
from tests.support.kms import DECRYPT, ENCRYPT, KEYS, Rows
from tests.support.server import ok

FILE = Path(__file__).parents[1] / "vectors" / "envelope_vectors.json"
VECTORS = json.loads(FILE.read_text("utf-8"))
VALID = {vector["name"]: vector for vector in VECTORS["valid"]}
MALFORMED = {vector["name"]: vector for vector in VECTORS["malformed"]}
CODES = {
    "invalid envelope": "invalid_envelope",
    "unsupported envelope version": "unsupported_version",
    "unsupported algorithm id": "unsupported_algorithm",
    "key not found": "key_not_found",
    "decryption failed": "decryption_failed",
    "plaintext is not UTF-8": "not_text",
}
CHACHA = "0c0ffee0-1234-4abc-8def-00000000cafe"
CHACHA_MATERIAL = bytes(range(100, 132))


@pytest.fixture(scope="module")
def owner(each_world: World) -> Person:
    """Someone in a realm that holds the keys of the vectors, as if they had been made here."""
    person = each_world.person("keys:read", "keys:encrypt", "keys:decrypt")
    rows = Rows(each_world.server)
    for key_id, material in VECTORS["keys"].items():
        rows.plant(person.realm_id, key_id, bytes.fromhex(material))
    rows.plant(person.realm_id, CHACHA, CHACHA_MATERIAL, Algorithm.CHACHA20_POLY1305)
    return person


def test_no_published_vector_was_changed_or_removed() -> None:
    # A vector may be added, and then this digest changes; an envelope that someone keeps does not.
    digest = "c2a4d99f4b86dd306578e4af9d7b472997c09d5c762c2114dd4254cc0663367e"
    assert hashlib.sha256(FILE.read_bytes()).hexdigest() == digest


def test_planted_keys_are_ordinary_keys(owner: Person) -> None:
    listed = {key["key_id"]: key for key in ok(owner.get(KEYS))["items"]}
    assert set(listed) == {*VECTORS["keys"], CHACHA}
    assert listed[CHACHA]["algorithm"] == "chacha20_poly1305"


@pytest.mark.parametrize("vector", VALID.values(), ids=VALID)
def test_a_valid_vector_opens_to_its_bytes(owner: Person, vector: dict[str, Any]) -> None:
    for field in ("input", "envelope"):
        body = {field: vector["envelope_base64"], "encoding": "base64", "key_id": vector["key_id"]}
        answer = ok(owner.post(DECRYPT, body))
        assert base64.b64decode(answer["plaintext_b64"]).hex() == vector["plaintext_hex"]
        assert (answer["key_id"], answer["version"]) == (vector["key_id"], 1)


@pytest.mark.parametrize("vector", VALID.values(), ids=VALID)
def test_a_valid_vector_opens_to_its_text_where_it_is_text(owner: Person, vector: dict[str, Any]) -> None:
    answer = owner.post(DECRYPT, {"input": vector["envelope_base64"]})
    try:
        text = bytes.fromhex(vector["plaintext_hex"]).decode()
    except UnicodeDecodeError:
        assert (answer.status_code, answer.json()["error"]) == (400, "plaintext is not UTF-8")
    else:
        assert ok(answer)["plaintext"] == text
        assert vector["http_decrypt_original"] == {"status": 200, "plaintext": text}


@pytest.mark.parametrize("vector", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_vector_is_refused_with_its_own_status_and_text(
    owner: Person, vector: dict[str, Any]
) -> None:
    expected = vector["expected"]
    for field in ("input", "envelope"):
        answer = owner.post(DECRYPT, {field: vector["input"]})
        assert (answer.status_code, answer.json()["error"]) == (expected["status"], expected["error"])
        assert answer.json()["code"] == CODES[expected["error"].partition(":")[0]]


def test_all_vectors_pass_in_one_batch(owner: Person) -> None:
    given = [{"input": vector["envelope_base64"], "encoding": "base64"} for vector in VALID.values()]
    given += [{"input": vector["input"]} for vector in MALFORMED.values()]
    results = ok(owner.post(DECRYPT, {"items": given}))["items"]
    opened, refusals = results[: len(VALID)], results[len(VALID) :]
    assert [base64.b64decode(result["plaintext_b64"]).hex() for result in opened] == [
        vector["plaintext_hex"] for vector in VALID.values()
    ]
    assert [result["error"] for result in refusals] == [
        vector["expected"]["error"] for vector in MALFORMED.values()
    ]


@pytest.mark.parametrize("vector", VALID.values(), ids=VALID)
def test_a_vector_is_worthless_in_a_realm_without_its_key(each_world: World, vector: dict[str, Any]) -> None:
    answer = each_world.person().post(DECRYPT, {"input": vector["envelope_base64"]})
    assert (answer.status_code, answer.json()["error"]) == (404, f"key not found: {vector['key_id']}")


KNOWN = {**{key_id: (AESGCM, bytes.fromhex(text)) for key_id, text in VECTORS["keys"].items()},
         CHACHA: (ChaCha20Poly1305, CHACHA_MATERIAL)}  # fmt: skip


@pytest.mark.parametrize("key_id", KNOWN)
def test_other_code_opens_what_we_seal(owner: Person, key_id: str) -> None:
    cipher, material = KNOWN[key_id]
    for data in (b"", b"hello", bytes(range(256)) * 5):
        body = {"key_id": key_id, "input_b64": base64.b64encode(data).decode()}
        envelope = base64.b64decode(ok(owner.post(ENCRYPT, body))["envelope"])
        assert envelope[2:18] == UUID(key_id).bytes
        sealed = envelope[36 : 36 + len(data)] + envelope[-16:]
        assert cipher(material).decrypt(envelope[20:32], sealed, None) == data


@pytest.mark.parametrize("key_id", KNOWN)
def test_we_open_what_other_code_seals(owner: Person, key_id: str) -> None:
    cipher, material = KNOWN[key_id]
    nonce = hashlib.sha256(key_id.encode()).digest()[:12]
    for text in ("", "hello", "Grüße " * 100):
        sealed = cipher(material).encrypt(nonce, text.encode(), None)
        head = bytes((1, 1 if cipher is AESGCM else 2)) + UUID(key_id).bytes + b"\0\x0c" + nonce
        length = len(sealed) - 16
        envelope = head + length.to_bytes(4, "big") + sealed[:length] + b"\x10" + sealed[length:]
        answer = ok(owner.post(DECRYPT, {"input": base64.b64encode(envelope).decode()}))
        assert answer["plaintext"] == text
