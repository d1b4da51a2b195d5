"""Password hashes that another system made: read and verified, never made.

| format | written by |
| --- | --- |
| `$argon2id$v=19$m=…,t=…,p=…$salt$hash`, also `i` and `d`; `argon2$` before it | the reference implementation; Django |
| `$2b$…`, `$2a$…`, `$2y$…`; `bcrypt$` before it; `bcrypt_sha256$` before it | OpenBSD, PHP; Django |
| `$scrypt$ln=…,r=…,p=…$salt$hash`, `scrypt$N$salt$r$p$hash`, `scrypt:N:r:p$salt$hex` | passlib, Django, Werkzeug |
| `$pbkdf2-sha256$rounds$salt$hash`, `pbkdf2_sha256$…`, `pbkdf2:sha256:…$salt$hex`; sha1, sha512 | passlib, Django, Werkzeug |

They hold no pepper of ours and may be cheap to guess at, so each is replaced at the first login that it lets in.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable
from typing import Final

import bcrypt
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from qimem.kernel.limits import (
    IMPORTED_ARGON2_KIB_MAX,
    IMPORTED_ARGON2_LANES_MAX,
    IMPORTED_BCRYPT_COST_MAX,
    IMPORTED_HASH_CHARS_MAX,
    IMPORTED_HASH_KIB_MAX,
    IMPORTED_PBKDF2_ROUNDS_MAX,
    IMPORTED_TAG_BYTES_MAX,
)

Check = Callable[[bytes], bool]
"""Whether a password, as UTF-8, is the one that was hashed."""

_BCRYPT_BYTES: Final = 72
_BCRYPT_TAG_AT: Final = len("$2b$04$") + 22
_BCRYPT_ALPHABET: Final = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_SCRYPT_BLOCK_BYTES: Final = 128
_MEMORY_SPARE: Final = 1 << 20
_ARGON2: Final = PasswordHasher()


class HashRefused(Exception):
    """The text is no hash that is verified here; the message says why."""


def read(text: str) -> Check:
    """What verifies passwords against an imported hash.

    Raises:
        HashRefused: an unknown format, or a cost that one login must not have.
    """
    if len(text) <= IMPORTED_HASH_CHARS_MAX:
        for pattern, build in _FORMATS:
            match = pattern.fullmatch(text)
            if match is not None:
                return build(match)
    raise HashRefused("not a hash of Argon2, bcrypt, scrypt or PBKDF2 in a known format")


def _argon2(match: re.Match[str]) -> Check:
    kib, passes, lanes = (int(match[name]) for name in ("memory", "passes", "lanes"))
    _bound(kib <= IMPORTED_HASH_KIB_MAX and kib * passes <= IMPORTED_ARGON2_KIB_MAX)
    _bound(1 <= lanes <= IMPORTED_ARGON2_LANES_MAX and passes >= 1 and kib >= 8 * lanes)
    phc = match["phc"]
    for part in phc.split("$")[-2:]:
        _bytes(part)

    def check(password: bytes) -> bool:
        try:
            return _ARGON2.verify(phc, password)
        except (VerificationError, InvalidHashError):
            return False

    return check


def _bcrypt(match: re.Match[str]) -> Check:
    _bound(int(match["cost"]) <= IMPORTED_BCRYPT_COST_MAX)
    digests = match["digests"] is not None
    salt, tag = match["hash"][:_BCRYPT_TAG_AT], match["hash"][_BCRYPT_TAG_AT:]
    # Some have written what the last characters do not use: two bits of 132, and two of 186.
    hashed = (_without_spare(salt, 0b110000) + _without_spare(tag, 0b111100)).encode()

    def check(password: bytes) -> bool:
        if digests:
            password = hashlib.sha256(password).hexdigest().encode()
        # What was hashed is the beginning of a longer one: those who made the hash cut it off.
        return bcrypt.checkpw(password[:_BCRYPT_BYTES], hashed)

    return check


def _scrypt(match: re.Match[str]) -> Check:
    named = match.groupdict()
    n = 1 << min(int(named["ln"]), 63) if named.get("ln") else int(named["n"])
    r, p = int(named["r"]), int(named["p"])
    memory = _SCRYPT_BLOCK_BYTES * n * r
    # The time is that of all p blocks, one after another.
    _bound(n >= 2 and n & (n - 1) == 0 and r >= 1 and p >= 1 and memory * p <= IMPORTED_HASH_KIB_MAX * 1024)
    # RFC 7914 §2: N is less than 2^(128 r / 8).
    _bound(n.bit_length() - 1 < 16 * r)
    salt, wanted = _salt(match), _tag(match)
    most = memory + _SCRYPT_BLOCK_BYTES * r * (p + 2) + _MEMORY_SPARE

    def check(password: bytes) -> bool:
        made = hashlib.scrypt(password, salt=salt, n=n, r=r, p=p, maxmem=most, dklen=len(wanted))
        return hmac.compare_digest(made, wanted)

    return check


def _pbkdf2(match: re.Match[str]) -> Check:
    rounds, algorithm = int(match["rounds"]), match["digest"] or "sha1"
    salt, wanted = _salt(match), _tag(match)
    # Each block of the tag takes all rounds anew.
    blocks = -(-len(wanted) // hashlib.new(algorithm, usedforsecurity=False).digest_size)
    _bound(rounds * blocks * (2 if algorithm == "sha512" else 1) <= IMPORTED_PBKDF2_ROUNDS_MAX)

    def check(password: bytes) -> bool:
        made = hashlib.pbkdf2_hmac(algorithm, password, salt, rounds, len(wanted))
        return hmac.compare_digest(made, wanted)

    return check


def cuts_off(text: str, password: bytes) -> bool:
    """Whether the hash is of the beginning of this password alone: bcrypt reads 72 bytes."""
    return len(password) > _BCRYPT_BYTES and text.startswith(("$2", "bcrypt$"))


def _without_spare(text: str, used: int) -> str:
    """The text with the bits of its last character zero that nothing is made from."""
    return text[:-1] + _BCRYPT_ALPHABET[_BCRYPT_ALPHABET.index(text[-1]) & used]


def _bound(holds: bool) -> None:
    if not holds:
        raise HashRefused("costs more than a login may, or has no such parameters")


def _salt(match: re.Match[str]) -> bytes:
    """The bytes of a salt: written in base64, or used as the text that it is."""
    named = match.groupdict()
    return _bytes(named["salt64"]) if named.get("salt64") is not None else named["salt"].encode()


def _tag(match: re.Match[str]) -> bytes:
    named = match.groupdict()
    tag = bytes.fromhex(named["hex"]) if named.get("hex") is not None else _bytes(named["tag64"])
    if not _TAG_BYTES_MIN <= len(tag) <= IMPORTED_TAG_BYTES_MAX:
        raise HashRefused("the hash is too short or too long")
    return tag


def _bytes(text: str) -> bytes:
    # passlib writes a dot for the plus, and leaves out the padding.
    text = text.rstrip("=").replace(".", "+")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        raise HashRefused("salt or hash is not base64") from None


_TAG_BYTES_MIN: Final = 16

_NUMBER = r"[1-9][0-9]{0,9}"
_BASE64 = r"[A-Za-z0-9+/.]{1,200}={0,2}"
_HEX = r"(?:[0-9a-f]{2}){1,128}"
_TEXT_SALT = r"(?P<salt>[A-Za-z0-9+/=._-]{1,64})"
_DIGEST = r"(?P<digest>sha1|sha256|sha512)"
_ARGON2_TEXT = (
    rf"(?:argon2)?(?P<phc>\$argon2(?:id|i|d)\$v=19\$m=(?P<memory>{_NUMBER}),t=(?P<passes>{_NUMBER}),"
    rf"p=(?P<lanes>{_NUMBER})\$[A-Za-z0-9+/]{{11,86}}\$[A-Za-z0-9+/]{{22,86}})"
)
_BCRYPT_TEXT = (
    r"(?:bcrypt\$|(?P<digests>bcrypt_sha256\$))?"
    r"(?P<hash>\$2[aby]\$(?P<cost>0[4-9]|[12][0-9]|3[01])\$[A-Za-z0-9./]{53})"
)
_N_R_P = (rf"(?P<n>{_NUMBER})", rf"(?P<r>{_NUMBER})", rf"(?P<p>{_NUMBER})")
_ROUNDS = rf"(?P<rounds>{_NUMBER})"
_BOTH64 = rf"(?P<salt64>{_BASE64})\$(?P<tag64>{_BASE64})"
_FORMATS: Final = tuple(
    (re.compile(pattern, re.ASCII), build)
    for pattern, build in (
        (_ARGON2_TEXT, _argon2),
        (_BCRYPT_TEXT, _bcrypt),
        (rf"\$scrypt\$ln=(?P<ln>{_NUMBER}),r={_N_R_P[1]},p={_N_R_P[2]}\${_BOTH64}", _scrypt),
        (rf"scrypt\${_N_R_P[0]}\${_TEXT_SALT}\${_N_R_P[1]}\${_N_R_P[2]}\$(?P<tag64>{_BASE64})", _scrypt),
        (rf"scrypt:{':'.join(_N_R_P)}\${_TEXT_SALT}\$(?P<hex>{_HEX})", _scrypt),
        (rf"\$pbkdf2(?:-{_DIGEST})?\${_ROUNDS}\${_BOTH64}", _pbkdf2),
        (rf"pbkdf2_{_DIGEST}\${_ROUNDS}\${_TEXT_SALT}\$(?P<tag64>{_BASE64})", _pbkdf2),
        (rf"pbkdf2:{_DIGEST}:{_ROUNDS}\${_TEXT_SALT}\$(?P<hex>{_HEX})", _pbkdf2),
    )
)
