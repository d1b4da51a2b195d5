from __future__ import annotations

import base64
import hashlib
import hmac
import re

import pytest
from argon2.low_level import Type, hash_secret_raw

from qimem.crypto.passwords import (
    OWASP_MINIMUM,
    TESTING,
    PasswordMismatch,
    dummy_phc,
    hash_password,
    verify_password,
)
from qimem.kernel.secret import SecretBytes

PEPPER = SecretBytes(b"p" * 32)
PASSWORD = "correct horse battery staple"


def decoded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4))


def test_the_default_profile_is_argon2id_with_19_mib_and_two_passes():
    phc = hash_password(PASSWORD, PEPPER)
    match = re.fullmatch(r"\$argon2id\$v=19\$m=19456,t=2,p=1\$([^$]+)\$([^$]+)", phc)
    assert match
    assert (len(decoded(match[1])), len(decoded(match[2]))) == (16, 32)
    verify_password(phc, PASSWORD, PEPPER)
    with pytest.raises(PasswordMismatch):
        verify_password(phc, PASSWORD + "!", PEPPER)


def test_what_is_hashed_is_the_mac_of_the_password_under_the_pepper():
    _, _, _, cost, salt, tag = hash_password(PASSWORD, PEPPER, TESTING).split("$")
    assert cost == "m=64,t=1,p=1"
    peppered = base64.b64encode(hmac.new(b"p" * 32, PASSWORD.encode(), hashlib.sha256).digest())
    raw = hash_secret_raw(peppered, decoded(salt), 1, 64, 1, 32, Type.ID)
    assert raw == decoded(tag)


def test_the_same_password_hashes_differently_each_time():
    assert hash_password(PASSWORD, PEPPER, TESTING) != hash_password(PASSWORD, PEPPER, TESTING)


@pytest.mark.parametrize("password", ["x", "пароль-密码-🔑", "a\0b", "p" * 256, "\ud800"])
def test_any_text_verifies_against_its_own_hash(password):
    verify_password(hash_password(password, PEPPER, TESTING), password, PEPPER)


@pytest.mark.parametrize("wrong", ["", "a", "a\0", "a\0c", "A\0b", "a\0b "])
def test_another_password_does_not_match(wrong):
    # A NUL in the middle must not end the comparison.
    with pytest.raises(PasswordMismatch):
        verify_password(hash_password("a\0b", PEPPER, TESTING), wrong, PEPPER)


def test_another_realms_pepper_does_not_match():
    with pytest.raises(PasswordMismatch):
        verify_password(hash_password(PASSWORD, PEPPER, TESTING), PASSWORD, SecretBytes(b"q" * 32))


@pytest.mark.parametrize(
    "phc", ["", "x", "$argon2id$", "$argon2id$v=19$m=64,t=1,p=1$AAAA", "$2b$12$abc", "é", "\0"]
)
def test_a_hash_that_cannot_be_read_matches_nothing(phc):
    with pytest.raises(PasswordMismatch):
        verify_password(phc, PASSWORD, PEPPER)


@pytest.mark.parametrize("password", ["", "no password peppers to this text", PASSWORD])
def test_nothing_matches_the_hash_of_unknown_users(password):
    with pytest.raises(PasswordMismatch):
        verify_password(dummy_phc(TESTING), password, PEPPER)


def test_the_hash_of_unknown_users_costs_what_the_others_cost():
    cost = hash_password(PASSWORD, PEPPER, OWASP_MINIMUM).split("$")[:4]
    assert dummy_phc(OWASP_MINIMUM).split("$")[:4] == cost
