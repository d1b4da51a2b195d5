"""Our AES-256-GCM against a second implementation, which is itself judged by published vectors first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from random import Random, SystemRandom
from typing import NamedTuple

import pytest
from cryptography.exceptions import InvalidTag

from qimem.crypto.aead import Aead, decryption_failed
from qimem.crypto.algorithms import Algorithm
from qimem.errors import Invalid
from qimem.kernel.secret import SecretBytes
from tests.support import aes_gcm
from tests.support.volume import volume
from tests.unit.crypto.vectors import wycheproof_cases

CASES = volume(100_000, share=200 / 100_000)

Seal = Callable[[bytes, bytes, bytes, bytes], bytes]


class Case(NamedTuple):
    """What is sealed."""

    key: bytes
    nonce: bytes
    plaintext: bytes
    associated_data: bytes


def ours(key: bytes, nonce: bytes, plaintext: bytes, associated_data: bytes) -> bytes:
    return Aead(Algorithm.AES256_GCM, SecretBytes(key)).seal(nonce, plaintext, associated_data)


def drawn(chance: Random) -> Case:
    """Mostly short; every eighth long enough for the assembly that takes many blocks at once."""
    blocks = chance.randrange(80) if chance.random() < 1 / 8 else chance.randrange(6)
    length = max(0, 16 * blocks + chance.choice((-1, 0, 0, 1, chance.randrange(16))))
    aad_length = chance.choice((0, 0, 1, 12, 13, 16, 17, 20, chance.randrange(100)))
    return Case(*(_octets(chance, count) for count in (32, 12, length, aad_length)))


def _octets(chance: Random, count: int) -> bytes:
    """Random bytes; now and then all alike, which hides no carry."""
    return chance.choice((b"\0", b"\xff")) * count if chance.random() < 1 / 10 else chance.randbytes(count)


def differences(seal: Seal, chance: Random, count: int) -> Iterator[Case]:
    """The cases that the second implementation seals otherwise."""
    cases = (drawn(chance) for _ in range(count))
    return (case for case in cases if seal(*case) != aes_gcm.seal(*case))


@pytest.mark.acceptance
def test_both_implementations_seal_alike() -> None:
    assert list(differences(ours, Random(SystemRandom().getrandbits(64)), CASES)) == []


def test_we_open_what_the_other_sealed_and_nothing_that_differs_by_a_bit() -> None:
    chance = Random(SystemRandom().getrandbits(64))
    for _ in range(50):
        key, nonce, plaintext, aad = case = drawn(chance)
        cipher, sealed = Aead(Algorithm.AES256_GCM, SecretBytes(key)), aes_gcm.seal(*case)
        assert cipher.open(nonce, sealed, aad) == plaintext, case
        damaged = bytearray(sealed)
        damaged[chance.randrange(len(sealed))] ^= 1 << chance.randrange(8)
        with pytest.raises(Invalid, match=r"^decryption failed$"):
            cipher.open(nonce, bytes(damaged), aad)


def without_associated_data(key: bytes, nonce: bytes, plaintext: bytes, associated_data: bytes) -> bytes:
    return ours(key, nonce, plaintext, b"")


def with_a_counter_that_starts_at_its_own_place(
    key: bytes, nonce: bytes, plaintext: bytes, associated_data: bytes
) -> bytes:
    sealed = ours(key, nonce, bytes(16) + plaintext, associated_data)
    return sealed[16:]


def with_one_wrong_bit_in_long_texts(
    key: bytes, nonce: bytes, plaintext: bytes, associated_data: bytes
) -> bytes:
    sealed = bytearray(ours(key, nonce, plaintext, associated_data))
    sealed[len(sealed) // 2] ^= len(plaintext) >= 1_024
    return bytes(sealed)


def with_the_tag_in_front(key: bytes, nonce: bytes, plaintext: bytes, associated_data: bytes) -> bytes:
    sealed = ours(key, nonce, plaintext, associated_data)
    return sealed[-16:] + sealed[:-16]


@pytest.mark.parametrize(
    "seal",
    [
        without_associated_data,
        with_a_counter_that_starts_at_its_own_place,
        with_one_wrong_bit_in_long_texts,
        with_the_tag_in_front,
    ],
)
def test_a_wrong_implementation_is_noticed(seal: Seal) -> None:
    assert any(differences(seal, Random(1), 200))


def test_the_second_implementation_seals_as_the_published_vectors_say() -> None:
    judged = 0
    for group, case in wycheproof_cases("aes_gcm"):
        if (group["keySize"], group["ivSize"]) == (256, 96) and case["result"] == "valid":
            key, nonce, message, aad = (bytes.fromhex(case[field]) for field in ("key", "iv", "msg", "aad"))
            assert aes_gcm.seal(key, nonce, message, aad).hex() == case["ct"] + case["tag"], case["tcId"]
            judged += 1
    assert judged == 39


@pytest.mark.parametrize("octet", [0, 0x53, 0xFF])
def test_a_mistyped_table_of_the_second_implementation_is_noticed(
    monkeypatch: pytest.MonkeyPatch, octet: int
) -> None:
    table = bytearray(aes_gcm.SBOX)
    table[octet] ^= 1
    monkeypatch.setattr(aes_gcm, "SBOX", bytes(table))
    assert any(differences(ours, Random(1), 20))


def test_the_block_cipher_is_the_standards() -> None:
    # FIPS 197 appendix C.3.
    key, block = bytes(range(32)), bytes.fromhex("00112233445566778899aabbccddeeff")
    sealed = aes_gcm.encrypt_block(aes_gcm.expand_key(key), block)
    assert sealed.hex() == "8ea2b7ca516745bfeafc49904b496089"


def judged(name: str, algorithm: Algorithm, aead: type[Aead]) -> Counter[str]:
    """What becomes of every published case, of whatever size."""
    counts: Counter[str] = Counter()
    for _, case in wycheproof_cases(name):
        key, nonce, message, aad = (bytes.fromhex(case[field]) for field in ("key", "iv", "msg", "aad"))
        published = bytes.fromhex(case["ct"] + case["tag"])
        opened = unless_refused(lambda: aead(algorithm, SecretBytes(key)).open(nonce, published, aad))
        sealed = unless_refused(lambda: aead(algorithm, SecretBytes(key)).seal(nonce, message, aad))
        ours_to_take = (len(key), len(nonce)) == (32, 12)
        if opened is None and (sealed is None or ours_to_take):
            outcome = "refused"
        else:
            outcome = "agreed" if (opened, sealed) == (message, published) else "differed"
        counts[f"{case['result']} {outcome}" if ours_to_take else f"other size {outcome}"] += 1
    return counts


def unless_refused(work: Callable[[], bytes]) -> bytes | None:
    try:
        return work()
    except (ValueError, Invalid):
        return None


PUBLISHED = [
    ("aes_gcm", Algorithm.AES256_GCM, {"valid agreed": 39, "invalid refused": 27, "other size refused": 250}),
    (
        "chacha20_poly1305",
        Algorithm.CHACHA20_POLY1305,
        {"valid agreed": 256, "invalid refused": 60, "other size refused": 9},
    ),
]


@pytest.mark.parametrize(("name", "algorithm", "counts"), PUBLISHED)
def test_of_all_published_cases_exactly_the_valid_ones_of_our_sizes_are_taken(
    name: str, algorithm: Algorithm, counts: dict[str, int]
) -> None:
    assert judged(name, algorithm, Aead) == counts


class TakesAnyTag(Aead):
    def open(self, nonce, sealed, associated_data):
        try:
            return super().open(nonce, sealed, associated_data)
        except Invalid:
            return b""


class OpensAnyNonce(Aead):
    def open(self, nonce, sealed, associated_data):
        try:
            return self._primitive.decrypt(nonce, sealed, associated_data)
        except InvalidTag:
            raise decryption_failed() from None


class SealsAnyNonce(Aead):
    def seal(self, nonce, plaintext, associated_data):
        return self._primitive.encrypt(nonce, plaintext, associated_data)


class TakesAnyKey(Aead):
    def __init__(self, algorithm, key):
        super().__init__(algorithm, SecretBytes(bytes(32)))
        self._primitive = type(self._primitive)(key.reveal())


@pytest.mark.parametrize("aead", [TakesAnyTag, OpensAnyNonce, SealsAnyNonce, TakesAnyKey])
def test_a_cipher_that_takes_what_it_must_refuse_is_noticed(aead: type[Aead]) -> None:
    name, algorithm, counts = PUBLISHED[0]
    assert judged(name, algorithm, aead) != counts
