"""Password hashes: Argon2id (RFC 9106) over a peppered password, and what was imported.

The pepper is a key of the key service: HMAC-SHA256(pepper, password) goes into Argon2, so a stolen
database alone gives nothing to guess against.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Final

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError

from qimem.crypto import imported_hashes
from qimem.crypto.mac import mac
from qimem.kernel.secret import SecretBytes


class PasswordMismatch(Exception):
    """The password is not the one that was hashed."""


@dataclass(frozen=True, slots=True)
class PasswordProfile:
    """Cost of one hash: memory in KiB, passes, lanes."""

    memory_kib: int
    passes: int
    lanes: int


OWASP_MINIMUM: Final = PasswordProfile(memory_kib=19 * 1024, passes=2, lanes=1)
"""OWASP's minimum for Argon2id; 23 ms on the reference machine."""

TESTING: Final = PasswordProfile(memory_kib=64, passes=1, lanes=1)
"""Only for tests: offers no protection."""

_IMPORTED: Final = "imported:"
_SALT_BYTES: Final = 16
_TAG_BYTES: Final = 32


def hash_password(password: str, pepper: SecretBytes, profile: PasswordProfile = OWASP_MINIMUM) -> str:
    """PHC string of a password that is already normalized.

    Args:
        password: NFKC, by the caller.
        pepper: The realm's pepper key.
        profile: What it may cost.
    """
    return _hasher(profile).hash(_peppered(password, pepper))


def import_hash(text: str) -> str:
    """What is stored of a hash that another system made.

    Raises:
        HashRefused: it is none that can be verified here.
    """
    imported_hashes.read(text)
    return _IMPORTED + text


def verify_password(phc: str, password: str, pepper: SecretBytes, typed: str | None = None) -> None:
    """Compare a normalized password with a stored hash, in the time that its hash takes.

    Args:
        phc: As stored.
        password: NFKC, by the caller.
        pepper: The realm's pepper key.
        typed: The password as it came. Another system may have hashed it like that.

    Raises:
        PasswordMismatch: another password, or a hash that cannot be read.
    """
    try:
        if phc.startswith(_IMPORTED):
            _verify_imported(phc.removeprefix(_IMPORTED), password if typed is None else typed, password)
        else:
            _VERIFIER.verify(phc, _peppered(password, pepper))
    except (VerificationError, InvalidHashError, ValueError, imported_hashes.HashRefused):
        raise PasswordMismatch from None


def _verify_imported(text: str, typed: str, normalized: str) -> None:
    check = imported_hashes.read(text)
    for spelling in dict.fromkeys((typed, normalized)):
        if check(spelling.encode()):
            return
    raise PasswordMismatch


def is_imported(phc: str) -> bool:
    """Whether another system made the hash."""
    return phc.startswith(_IMPORTED)


def is_outdated(phc: str, password: str, profile: PasswordProfile = OWASP_MINIMUM) -> bool:
    """Whether a stored hash, of this password, should be replaced: imported, or of another cost than is wanted now.

    Not where only the beginning of the password was hashed: what comes after it may be a slip, and must not count
    from now on.
    """
    if is_imported(phc):
        return not imported_hashes.cuts_off(phc.removeprefix(_IMPORTED), password.encode())
    return _hasher(profile).check_needs_rehash(phc)


def dummy_phc(profile: PasswordProfile = OWASP_MINIMUM) -> str:
    """A hash that no password matches; unknown users cost what known ones do."""
    return _hasher(profile).hash(b"no password peppers to this text")


def _hasher(profile: PasswordProfile) -> PasswordHasher:
    return PasswordHasher(
        time_cost=profile.passes,
        memory_cost=profile.memory_kib,
        parallelism=profile.lanes,
        hash_len=_TAG_BYTES,
        salt_len=_SALT_BYTES,
        type=Type.ID,
    )


_VERIFIER = _hasher(OWASP_MINIMUM)


def _peppered(password: str, pepper: SecretBytes) -> bytes:
    return base64.b64encode(mac(pepper, password.encode("utf-8", "surrogatepass")))
