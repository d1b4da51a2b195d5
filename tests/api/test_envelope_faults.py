"""Whatever is wrong with an envelope is told in the contract's order, and none of it ever opens."""

from __future__ import annotations

import base64
import random
import struct
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
import pytest

from qimem.crypto.envelope import parse_envelope
from qimem.errors import Invalid
from qimem.storage.schema import kms_version
from tests.support.api import Person, World
from tests.support.kms import (
    ABSENT,
    DECRYPT,
    ENCRYPT,
    Rows,
    naming,
    new_key,
    patched,
    repacked,
    seal,
    swap,
    without_id,
)
from tests.support.server import ok, refused
from tests.support.volume import volume

CODES = {
    "unsupported envelope version": "unsupported_version",
    "unsupported algorithm id": "unsupported_algorithm",
    "key not found": "key_not_found",
    "decryption failed": "decryption_failed",
}
NEEDS_KEY = ("key not found", "decryption failed", "invalid envelope: algorithm mismatch")


@dataclass
class Sample:
    """An envelope that opens, and the keys of its realm: id → number of the algorithm."""

    person: Person
    data: bytes
    keys: dict[bytes, int]

    @property
    def text(self) -> str:
        return base64.b64encode(self.data).decode()


@pytest.fixture(scope="module", params=["aes256_gcm", "chacha20_poly1305"])
def sample(request: pytest.FixtureRequest, world: World) -> Sample:
    person = world.person("keys:create", "keys:encrypt", "keys:decrypt")
    made = {
        name: UUID(new_key(person, algorithm=name)["key_id"]) for name in ("aes256_gcm", "chacha20_poly1305")
    }
    text = seal(person, "hello", key_id=str(made[request.param]))
    assert ok(person.post(DECRYPT, {"input": text}))["plaintext"] == "hello"
    keys = {key_id.bytes: number for number, key_id in enumerate(made.values(), start=1)}
    return Sample(person, base64.b64decode(text), keys)


def judged(data: bytes, keys: dict[bytes, int]) -> str:
    """The error text for bytes that were changed, field by field as the contract lists them."""
    if not data:
        return "invalid envelope: missing version"
    if data[0] != 1:
        return f"unsupported envelope version: {data[0]}"
    if len(data) < 2:
        return "invalid envelope: missing algorithm"
    if data[1] not in (1, 2):
        return f"unsupported algorithm id: {data[1]}"
    if len(data) < 18:
        return "invalid envelope: missing key id"
    if len(data) < 20:
        return "invalid envelope: missing nonce length"
    if data[18:20] != b"\0\x0c" or len(data) < 32:
        return "invalid envelope: invalid nonce"
    if len(data) < 36:
        return "invalid envelope: missing ciphertext length"
    end = 36 + int.from_bytes(data[32:36], "big")
    if len(data) < end:
        return "invalid envelope: invalid ciphertext"
    if len(data) < end + 1:
        return "invalid envelope: missing tag length"
    if data[end] != 16 or len(data) < end + 17:
        return "invalid envelope: invalid tag"
    if len(data) > end + 17:
        return "invalid envelope: trailing bytes"
    return judged_with_key(data, keys)


def judged_with_key(data: bytes, keys: dict[bytes, int]) -> str:
    if data[2:18] not in keys:
        return f"key not found: {UUID(bytes=data[2:18])}"
    return "decryption failed" if keys[data[2:18]] == data[1] else "invalid envelope: algorithm mismatch"


def error(text: str) -> dict[str, Any]:
    return {"error": text, "code": CODES.get(text.partition(":")[0], "invalid_envelope")}


def told(answer: httpx.Response) -> dict[str, Any]:
    """The error, which is a 404 exactly when it is about the key."""
    body = without_id(answer)
    assert answer.status_code == (404 if body["code"] == "key_not_found" else 400)
    return body


def check(sample: Sample, changed: list[bytes]) -> None:
    """Each is refused as the contract says: asked for alone, in a batch, and by the library."""
    texts = [base64.b64encode(data).decode() for data in changed]
    for start in range(0, len(texts), 1000):
        part = range(start, min(start + 1000, len(texts)))
        answer = ok(sample.person.post(DECRYPT, {"items": [{"input": texts[index]} for index in part]}))
        for index, result in zip(part, answer["items"], strict=True):
            assert result == error(judged(changed[index], sample.keys)), changed[index].hex()
    for data, text in zip(changed, texts, strict=True):
        expected = error(judged(data, sample.keys))
        assert told(sample.person.post(DECRYPT, {"input": text})) == expected, data.hex()
        needs_key = expected["error"].startswith(NEEDS_KEY)
        assert told_by_the_library(text) == (None if needs_key else expected), data.hex()


def told_by_the_library(text: str) -> dict[str, Any] | None:
    """The error of reading alone, without a key."""
    try:
        parse_envelope(text)
    except Invalid as fault:
        return {"error": fault.message, "code": fault.code}
    return None


def test_an_envelope_cut_short_anywhere_is_refused_for_what_is_missing_first(sample: Sample) -> None:
    cuts = [sample.data[:length] for length in range(len(sample.data))]
    reasons = {judged(data, sample.keys) for data in cuts}
    assert len(reasons) == 9
    check(sample, cuts)


def test_an_envelope_with_any_single_bit_flipped_is_refused(sample: Sample) -> None:
    flipped = []
    for position in range(8 * len(sample.data)):
        data = bytearray(sample.data)
        data[position // 8] ^= 1 << position % 8
        flipped.append(bytes(data))
    check(sample, flipped)


def test_the_text_of_an_envelope_with_any_single_bit_flipped_is_refused(sample: Sample) -> None:
    texts = []
    for position in range(8 * len(sample.text)):
        data = bytearray(sample.text.encode())
        data[position // 8] ^= 1 << position % 8
        texts.append(data.decode("latin-1"))
    results = ok(sample.person.post(DECRYPT, {"items": [{"input": text} for text in texts]}))["items"]
    for text, result in zip(texts, results, strict=True):
        try:
            data = base64.b64decode(text, validate=True)
            canonical = base64.b64encode(data).decode() == text
        except ValueError:
            canonical = False
        expected = judged(data, sample.keys) if canonical else "invalid envelope: invalid base64"
        assert result == error(expected), text


def test_the_text_of_an_envelope_cut_short_anywhere_is_refused(sample: Sample) -> None:
    cuts = [sample.text[:length] for length in range(len(sample.text))]
    results = ok(sample.person.post(DECRYPT, {"items": [{"envelope": text} for text in cuts]}))["items"]
    for text, result in zip(cuts, results, strict=True):
        whole = len(text) % 4 == 0
        assert result == error(
            judged(base64.b64decode(text), sample.keys) if whole else "invalid envelope: invalid base64"
        )


@pytest.mark.parametrize(
    "spelled",
    [
        lambda text: text + "\n",
        lambda text: "\n" + text,
        lambda text: text[:40] + "\r\n" + text[40:],
        lambda text: text[:40] + " " + text[40:],
        lambda text: text + "\0",
        lambda text: text + "=",
        lambda text: text.rstrip("="),
        lambda text: "-" + text[1:],
        lambda text: text[:-3] + "x==",
        lambda text: "data:;base64," + text,
        lambda text: text.replace("A", "\uff21"),
        lambda text: text + text,
    ],
)
def test_another_spelling_of_the_base64_is_refused(sample: Sample, spelled) -> None:
    text = spelled(sample.text)
    assert text != sample.text
    assert told(sample.person.post(DECRYPT, {"input": text})) == error("invalid envelope: invalid base64")


def test_unused_bits_of_the_base64_must_be_zero(sample: Sample) -> None:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    assert sample.text.endswith("==")
    last = alphabet.index(sample.text[-3])
    assert last % 16 == 0
    for unused in range(1, 16):
        text = f"{sample.text[:-3]}{alphabet[last + unused]}=="
        assert base64.b64decode(text) == sample.data
        assert told(sample.person.post(DECRYPT, {"input": text})) == error("invalid envelope: invalid base64")


def other_algorithm(data: bytes) -> bytes:
    return patched(data, 1, bytes((3 - data[1],)))


# Everything after the first fault is wrong as well, and must not be what is told.
ORDER = {
    "version": (lambda data: b"\2\x63" + data[2:40], "unsupported envelope version: 2"),
    "version alone": (lambda _: b"\xff", "unsupported envelope version: 255"),
    "algorithm alone": (lambda _: b"\1\x63", "unsupported algorithm id: 99"),
    "algorithm before key": (lambda data: patched(data, 1, bytes(17)), "unsupported algorithm id: 0"),
    "nonce length 11": (lambda data: patched(data, 18, b"\0\x0b"), "invalid envelope: invalid nonce"),
    "nonce length 16": (lambda data: patched(data, 18, b"\0\x10"), "invalid envelope: invalid nonce"),
    "nonce before ciphertext": (lambda data: patched(data, 18, b"\0\x0d" + b"\xff" * 16), "invalid envelope: invalid nonce"),
    "ciphertext length": (lambda data: patched(data, 32, b"\xff" * 4), "invalid envelope: invalid ciphertext"),
    "one more than is there": (lambda data: patched(data, 32, struct.pack(">I", 23)), "invalid envelope: invalid ciphertext"),
    "up to the end": (lambda data: patched(data, 32, struct.pack(">I", 22)), "invalid envelope: missing tag length"),
    "tag length 8": (lambda data: patched(data, 41, b"\x08")[:50], "invalid envelope: invalid tag"),
    "tag length 17": (lambda data: patched(data, 41, b"\x11") + b"\0", "invalid envelope: invalid tag"),
    "tag before trailing": (lambda data: patched(data, 41, b"\0") + b"more", "invalid envelope: invalid tag"),
    "trailing byte": (lambda data: data + b"\0", "invalid envelope: trailing bytes"),
    "second envelope": (lambda data: data + data, "invalid envelope: trailing bytes"),
    "trailing before key": (lambda data: patched(data, 2, bytes(16)) + b"\0", "invalid envelope: trailing bytes"),
    "key before algorithm": (lambda data: patched(other_algorithm(data), 2, bytes(16)), f"key not found: {UUID(int=0)}"),
    "algorithm before tag": (lambda data: other_algorithm(data)[:-16] + bytes(16), "invalid envelope: algorithm mismatch"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "expected"), ORDER.values(), ids=ORDER)
def test_the_first_fault_in_the_order_of_the_contract_is_told(sample: Sample, change, expected: str) -> None:
    text = repacked(sample.text, change)
    assert judged(base64.b64decode(text), sample.keys) == expected
    assert told(sample.person.post(DECRYPT, {"input": text})) == error(expected)


def test_parts_of_two_envelopes_do_not_make_a_third(sample: Sample) -> None:
    key_id = str(UUID(bytes=sample.data[2:18]))
    other = base64.b64decode(seal(sample.person, "world", key_id=key_id))
    for part in (slice(20, 32), slice(36, 41), slice(42, 58)):
        mixed = bytearray(sample.data)
        mixed[part] = other[part]
        text = base64.b64encode(mixed).decode()
        assert told(sample.person.post(DECRYPT, {"input": text})) == error("decryption failed")


def test_an_envelope_does_not_open_under_another_key_of_its_algorithm(sample: Sample) -> None:
    algorithm = {1: "aes256_gcm", 2: "chacha20_poly1305"}[sample.data[1]]
    other = new_key(sample.person, algorithm=algorithm)["key_id"]
    text = naming(sample.text, other)
    assert told(sample.person.post(DECRYPT, {"input": text})) == error("decryption failed")


def test_a_key_of_another_realm_is_not_even_tried(world: World, sample: Sample) -> None:
    theirs = new_key(world.person())["key_id"]
    for named in (theirs, ABSENT):
        answer = sample.person.post(DECRYPT, {"input": naming(sample.text, named)})
        assert told(answer) == error(f"key not found: {named}")


def test_material_that_stands_in_another_keys_row_is_an_internal_error_without_details(
    each_world: World,
) -> None:
    person = each_world.person()
    ids = [new_key(person)["key_id"] for _ in range(3)]
    first, second = ({"realm_id": person.realm_id, "key_id": UUID(key_id)} for key_id in ids[:2])
    Rows(each_world.server).write(lambda tx: swap(tx, kms_version, "wrapped", first, second))
    for key_id in ids[:2]:
        for path, body in ((ENCRYPT, {"key_id": key_id, "input": "x"}), (DECRYPT, None)):
            answer = person.post(path, body or {"input": naming(seal(person, key_id=ids[2]), key_id)})
            refused(answer, 500, "internal")
            assert without_id(answer) == {"error": "internal error", "code": "internal"}
    assert ok(person.post(DECRYPT, {"input": seal(person, key_id=ids[2])}))["plaintext"] == "a secret"


def test_a_damaged_row_fails_its_own_item_of_a_batch(each_world: World) -> None:
    person = each_world.person()
    ids = [new_key(person)["key_id"] for _ in range(3)]
    first, second = ({"realm_id": person.realm_id, "key_id": UUID(key_id)} for key_id in ids[:2])
    Rows(each_world.server).write(lambda tx: swap(tx, kms_version, "wrapped", first, second))
    answer = person.post(ENCRYPT, {"items": [{"input": "x", "key_id": key_id} for key_id in ids]})
    internal = {"error": "internal error", "code": "internal"}
    results = ok(answer)["items"]
    assert results[:2] == [internal, internal]
    assert results[2]["key_id"] == ids[2]


@pytest.mark.acceptance
def test_random_bytes_and_random_damage_are_refused_as_the_contract_says(sample: Sample) -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    count = volume(100_000, share=0.01)
    damaged: list[bytes] = []
    while len(damaged) < count:
        data = bytearray(sample.data)
        for _ in range(chance.randrange(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        if chance.random() < 0.3:
            del data[chance.randrange(len(data)) :]
        if chance.random() < 0.2:
            data += chance.randbytes(chance.randrange(1, 40))
        if chance.random() < 0.1:
            data = bytearray(chance.randbytes(chance.randrange(120)))
        if data != sample.data:
            damaged.append(bytes(data))
    for start in range(0, count, 1000):
        part = damaged[start : start + 1000]
        given = [{"input": base64.b64encode(data).decode()} for data in part]
        results = ok(sample.person.post(DECRYPT, {"items": given}))["items"]
        for data, result in zip(part, results, strict=True):
            assert result == error(judged(data, sample.keys)), f"seed {seed}: {data.hex()}"
