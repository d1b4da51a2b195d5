"""Hashes that real libraries made, and texts that only look like one. See tests/vectors/README.md."""

from __future__ import annotations

import json
from pathlib import Path

import bcrypt
import pytest

from qimem.crypto.imported_hashes import HashRefused, read
from qimem.crypto.passwords import (
    TESTING,
    PasswordMismatch,
    hash_password,
    import_hash,
    is_outdated,
    verify_password,
)
from qimem.kernel.secret import SecretBytes

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "imported_hashes.json").read_text())
PEPPER = SecretBytes(b"p" * 32)
BCRYPT = "$2b$04$W7Em2K2DBV9et3EPFtz2lOQZiXjuINVOnJOPIamOnjLthiccjKF.u"
ARGON2 = "$argon2id$v=19$m=64,t=1,p=2$uDngw7tmEXjgnGTUkgDZDQ$GyK+zz5ruc65sOHZERei/i23KrFrFQH81mByMpXa2zI"
SALT, TAG64, TAG = "saltsalt", "GacV8oEzUl3KM0Mwey9yrMcTPKpkL4jXrFpbKB8oOnI=", "ab" * 32


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["source"])
def test_a_hash_of_another_system_lets_in_its_password_alone(vector: dict[str, str]) -> None:
    check, password = read(vector["hash"]), vector["password"]
    assert check(password.encode())
    for other in (
        "",
        password[:-60] if len(password) > 72 else password[:-1],
        password + "x",
        password.upper(),
    ):
        # bcrypt reads 72 bytes: what comes after them never counted.
        alike = "bcrypt" in vector["source"] and "sha256" not in vector["source"]
        if not (alike and other.encode()[:72] == password.encode()[:72]):
            assert not check(other.encode()), other


@pytest.mark.parametrize(
    "text",
    [
        "", "x", "plain text", "5f4dcc3b5aa765d61d8327deb882cf99", "$1$salt$qJH7.N4xYta3aEG/dfqo/0",
        "$6$rounds=5000$salt$hash", "{SSHA}MTIzNDU2Nzg5MDEyMzQ1Njc4OTA=", "imported:" + BCRYPT, "!" + BCRYPT,
        BCRYPT[:-1], BCRYPT + "x", BCRYPT + "\n", " " + BCRYPT, BCRYPT.replace("$2b$", "$2x$"),
        BCRYPT.replace("$04$", "$03$"), ARGON2.replace("v=19", "v=16"), ARGON2.replace("$v=19", ""),
        ARGON2.replace("m=64", "m=064"), ARGON2.replace("argon2id", "argon2x"), ARGON2 + "$",
        ARGON2.replace("m=64", "m=٦٤"), f"pbkdf2_md5$1000${SALT}${TAG64}", f"pbkdf2_sha256$0${SALT}${TAG64}",
        f"pbkdf2_sha256$-1${SALT}${TAG64}", f"pbkdf2_sha256$1000$${TAG64}", f"pbkdf2_sha256$1000${SALT}$",
        f"pbkdf2_sha256$1000${SALT}$AAAA", f"scrypt$16${SALT}$8$1$", f"scrypt:1024:8:1${SALT}$abc",
        f"$pbkdf2-sha256$1000$c2FsdHNhbHQ${'A' * 41}", "a" * 600, f"pbkdf2:sha256:1000${SALT}${'ab' * 65}",
        "$argon2id$v=19$m=64,t=1,p=2$uDngw7tmEXjgn$GyK+zz5ruc65sOHZERei/i23KrFrFQH81mByMpXa2zI",
    ],
)  # fmt: skip
def test_what_is_no_hash_of_a_known_format_is_refused(text: str) -> None:
    with pytest.raises(HashRefused):
        read(text)


@pytest.mark.parametrize(
    "text",
    [
        ARGON2.replace("m=64", "m=131073"), ARGON2.replace("m=64,t=1", "m=65536,t=5"), ARGON2.replace("t=1", "t=4097"), ARGON2.replace("p=2", "p=17"),
        ARGON2.replace("m=64", "m=15"), BCRYPT.replace("$04$", "$15$"), BCRYPT.replace("$04$", "$31$"),
        f"pbkdf2_sha256$1500001${SALT}${TAG64}", f"pbkdf2:sha1:375001${SALT}${'ab' * 64}", f"pbkdf2:sha512:750001${SALT}${TAG}", f"pbkdf2:sha512:9999999999${SALT}${TAG}",
        f"scrypt:131072:8:2${SALT}${TAG}", f"scrypt:1048576:8:1${SALT}${TAG}", f"scrypt:1000:8:1${SALT}${TAG}",
        f"scrypt:1:8:1${SALT}${TAG}", f"$scrypt$ln=16,r=1,p=1$c2FsdHNhbHQ${TAG64[:-1]}", f"scrypt$16${SALT}$9999999999$1${TAG64}",
        f"$scrypt$ln=9999999999,r=8,p=1$c2FsdHNhbHQ${TAG64[:-1]}",
    ],
)  # fmt: skip
def test_what_would_cost_a_login_too_much_is_refused(text: str) -> None:
    with pytest.raises(HashRefused, match="costs more"):
        read(text)


def test_the_dearest_that_is_taken_is_verified() -> None:
    for text in (
        f"scrypt:131072:8:1${SALT}${TAG}",
        f"scrypt:16384:1:63${SALT}${TAG}",
        f"scrypt:2:1000:500${SALT}${TAG}",
        f"pbkdf2_sha1$750000${SALT}${TAG64}",
        f"pbkdf2:sha512:750000${SALT}${'ab' * 64}",
        ARGON2.replace("m=64,t=1", "m=131072,t=2"),
    ):
        assert not read(text)(b"a password")


@pytest.mark.parametrize("text", [BCRYPT, ARGON2, f"pbkdf2_sha256$10${SALT}${TAG64}"])
@pytest.mark.parametrize("password", ["", "\0", "a\0b", "\ud800", "𐍈" * 256])
def test_a_password_of_any_content_is_only_another_one(text: str, password: str) -> None:
    with pytest.raises(PasswordMismatch):
        verify_password(import_hash(text), password, PEPPER)


def test_a_password_matches_as_it_was_typed_and_as_it_is_normalized() -> None:
    typed, normalized = "cafe\u0301 ﬁve", "café five"
    for hashed in (typed, normalized):
        stored = import_hash(bcrypt.hashpw(hashed.encode(), bcrypt.gensalt(4)).decode())
        verify_password(stored, normalized, PEPPER, typed)
    with pytest.raises(PasswordMismatch):
        verify_password(stored, "cafe five", PEPPER, typed.replace("\u0301", ""))


def test_bits_that_nothing_is_made_from_do_not_matter() -> None:
    hashed = bcrypt.hashpw(b"a password", bcrypt.gensalt(4)).decode()
    alphabet = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
    for at in (28, 59):
        other = alphabet[alphabet.index(hashed[at]) | 1]
        spelled = hashed[:at] + other + hashed[at + 1 :]
        assert spelled != hashed
        assert read(spelled)(b"a password")
        assert not read(spelled)(b"another")


def test_what_was_imported_or_made_at_another_cost_is_outdated() -> None:
    ours = hash_password("a password", PEPPER, TESTING)
    assert not is_outdated(ours, "a password", TESTING)
    assert is_outdated(ours, "a password")
    assert is_outdated(import_hash(BCRYPT), "a password", TESTING)
    # The same text as ours, but without a pepper.
    assert is_outdated(import_hash(ARGON2), "a password", TESTING)


def test_a_password_of_which_only_the_beginning_was_hashed_is_not_taken_for_the_whole() -> None:
    for length, outdated in ((72, True), (73, False)):
        for password in ("x" * length, "ä" * (length // 2) + "x" * (length % 2)):
            assert is_outdated(import_hash(BCRYPT), password) is outdated
            assert is_outdated(import_hash(f"bcrypt${BCRYPT}"), password) is outdated
            assert is_outdated(import_hash(f"bcrypt_sha256${BCRYPT}"), password)
            assert is_outdated(import_hash(ARGON2), password)


@pytest.mark.parametrize(
    "text",
    [
        ARGON2.replace("p=2", "p=16").replace("m=64", "m=128"),
        ARGON2.replace("m=64", "m=16"),
        BCRYPT.replace("$04$", "$14$"),
        f"pbkdf2_sha256$1500000${SALT}${TAG64}",
        f"pbkdf2:sha256:1000${SALT}${'ab' * 16}",
        f"pbkdf2:sha256:1000${SALT}${'ab' * 64}",
    ],
)
def test_each_limit_itself_is_taken(text: str) -> None:
    assert read(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x", "not a hash of Argon2, bcrypt, scrypt or PBKDF2 in a known format"),
        (f"scrypt:1000:8:1${SALT}${TAG}", "costs more than a login may, or has no such parameters"),
        (f"scrypt:6:8:1${SALT}${TAG}", "costs more than a login may, or has no such parameters"),
        (f"pbkdf2:sha256:1000${SALT}${'ab' * 15}", "the hash is too short or too long"),
        (f"pbkdf2:sha256:1000${SALT}${'ab' * 65}", "the hash is too short or too long"),
        (f"$pbkdf2-sha256$1000$c2FsdHNhbHQ${'A' * 41}", "salt or hash is not base64"),
    ],
)
def test_the_reason_is_told(text: str, reason: str) -> None:
    with pytest.raises(HashRefused) as caught:
        read(text)
    assert str(caught.value) == reason
