"""The second factor: one-time passwords from an app, and recovery codes for the day it is lost.

    none ──enrol──▶ pending ──confirm (a password of the app)──▶ active ──disable──▶ none

The secret is sealed under the realm's key. Each step is good once, each recovery code too, whatever comes at once.
"""

from __future__ import annotations

import base64
import binascii
import re
import struct
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from qimem.crypto.mac import digest
from qimem.crypto.randomness import random_bytes
from qimem.crypto.totp import DIGITS, STEP_SECONDS, matching_step
from qimem.errors import Invalid, InvalidFields
from qimem.identity.ports import FactorStore
from qimem.kernel.clock import MICROSECONDS, Clock
from qimem.kernel.ids import RealmId
from qimem.kernel.limits import (
    RECOVERY_CODE_BYTES,
    RECOVERY_CODES,
    RECOVERY_CODES_KEPT_SECONDS,
    TOTP_BYTES,
    TOTP_BYTES_MAX,
    TOTP_BYTES_MIN,
    TOTP_STEPS_KEPT_SECONDS,
    TOTP_TEXT_CHARS_MAX,
)
from qimem.kernel.secret import SecretBytes, SecretText
from qimem.kernel.transaction import Database, Tx
from qimem.kernel.unit_of_work import RecordSealers

_VERSION: Final = struct.Struct(">I")
_SEPARATORS: Final = str.maketrans("", "", " -")
_DIGITS: Final = re.compile(rf"[0-9]{{{DIGITS}}}")
_BASE32: Final = re.compile(r"[A-Z2-7]+")


@dataclass(frozen=True, slots=True)
class SecondFactor:
    """What a user has, as it is stored.

    Args:
        sealed: The shared secret, sealed.
        recovery: Digests of the recovery codes, used ones too.
    """

    sealed: bytes
    recovery: frozenset[bytes]


class SecondFactors:
    """Seals, opens and redeems."""

    def __init__(self, database: Database, store: FactorStore, sealers: RecordSealers, clock: Clock) -> None:
        self._database = database
        self._store = store
        self._sealers = sealers
        self._clock = clock

    def now_us(self) -> int:
        """Wall time, for what is stored."""
        return self._clock.now_us()

    async def sealed(self, realm_id: RealmId, user_id: UUID, secret: SecretBytes) -> bytes:
        """The shared secret as it is stored: of this user alone."""
        sealer = await self._sealers.record_sealer(realm_id)
        # With the version of the key: it has to be opened when there is a newer one.
        return _VERSION.pack(sealer.version) + sealer.seal(_label(user_id), bytes(secret.reveal()))

    async def step_of(self, realm_id: RealmId, user_id: UUID, sealed: bytes, code: str) -> int | None:
        """The step that a one-time password belongs to, None for a wrong one."""
        password = code.translate(_SEPARATORS)
        if _DIGITS.fullmatch(password) is None:
            return None
        (version,) = _VERSION.unpack_from(sealed)
        sealer = await self._sealers.sealer_of(realm_id, version)
        secret = SecretBytes(sealer.open(_label(user_id), sealed[_VERSION.size :]))
        try:
            return matching_step(secret, password, self._clock.now_us() // MICROSECONDS)
        finally:
            secret.wipe()

    async def redeem(self, realm_id: RealmId, user_id: UUID, factor: SecondFactor, code: str) -> None:
        """Use up a one-time password or a recovery code.

        Raises:
            Invalid: `invalid_mfa_code`: wrong, or used before.
            Unavailable: it cannot be written that it was used.
        """
        step = await self.step_of(realm_id, user_id, factor.sealed, code)
        recovery = digest(_plain(code).encode("utf-8", "surrogatepass"))
        if step is None and recovery not in factor.recovery:
            raise invalid_code()

        def use(tx: Tx) -> bool:
            now = self._store.find(tx, realm_id, user_id)
            if now is None or now.sealed != factor.sealed or (step is None and recovery not in now.recovery):
                # Replaced since it was looked up.
                return False
            if step is not None:
                return self.claim_step(tx, realm_id, user_id, step)
            expires_us = self._clock.now_us() + RECOVERY_CODES_KEPT_SECONDS * MICROSECONDS
            return self._store.claim_recovery_code(tx, realm_id, user_id, recovery, expires_us)

        if not await self._database.write(use):
            raise invalid_code()

    def begin(self, tx: Tx, realm_id: RealmId, user_id: UUID, sealed: bytes) -> None:
        """Have a secret count that somebody brought: their app knows it already."""
        self._store.put(tx, realm_id, user_id, sealed, self.now_us())

    def exists(self, tx: Tx, realm_id: RealmId, user_id: UUID) -> bool:
        """Whether the user has one that counts."""
        return self._store.find(tx, realm_id, user_id) is not None

    def claim_step(self, tx: Tx, realm_id: RealmId, user_id: UUID, step: int) -> bool:
        """Whether this is the first use of a step."""
        expires_us = (step * STEP_SECONDS + TOTP_STEPS_KEPT_SECONDS) * MICROSECONDS
        return self._store.claim_step(tx, realm_id, user_id, step, expires_us)


def new_secret() -> SecretBytes:
    """A shared secret of 160 bits (RFC 4226 §4)."""
    return SecretBytes(random_bytes(TOTP_BYTES))


def in_base32(secret: SecretBytes) -> str:
    """As apps take it."""
    return base64.b32encode(secret.reveal()).decode().rstrip("=")


def from_base32(text: SecretText, pointer: str) -> SecretBytes:
    """A shared secret as somebody brings it; case, spaces, hyphens and padding do not matter.

    Raises:
        InvalidFields: not base32, or not of 80 to 1,024 bits.
    """
    if len(text) > TOTP_TEXT_CHARS_MAX:
        raise InvalidFields({pointer: "must have 80 to 1,024 bits"})
    plain = text.reveal().translate(_SEPARATORS).rstrip("=").upper()
    try:
        if _BASE32.fullmatch(plain) is None:
            raise ValueError  # noqa: TRY301 - one answer for both
        secret = base64.b32decode(plain + "=" * (-len(plain) % 8))
    except (ValueError, binascii.Error):
        raise InvalidFields({pointer: "must be base32"}) from None
    if not TOTP_BYTES_MIN <= len(secret) <= TOTP_BYTES_MAX:
        raise InvalidFields({pointer: "must have 80 to 1,024 bits"})
    return SecretBytes(secret)


def new_recovery_codes() -> list[str]:
    """Codes of 80 random bits each, in groups that can be read from paper."""
    return [
        _grouped(base64.b32encode(random_bytes(RECOVERY_CODE_BYTES)).decode()) for _ in range(RECOVERY_CODES)
    ]


def digests(codes: list[str]) -> frozenset[bytes]:
    """What is stored of recovery codes. They are random: a fast digest suffices."""
    return frozenset(digest(_plain(code).encode()) for code in codes)


def invalid_code() -> Invalid:
    """Wrong, or used before: one answer."""
    return Invalid("invalid mfa code", code="invalid_mfa_code")


def mfa_required() -> Invalid:
    """The password was right, and is not enough."""
    return Invalid("mfa required", code="mfa_required", hint="send totp_code too")


def _plain(code: str) -> str:
    return code.translate(_SEPARATORS).upper()


def _grouped(text: str) -> str:
    return "-".join(text[start : start + 4] for start in range(0, len(text), 4))


def _label(user_id: UUID) -> str:
    return f"totp/{user_id}"
