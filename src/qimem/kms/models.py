"""Keys, versions and what their states allow. Pure.

A version is *active* (used for new encryptions; exactly one per lineage) or inactive, and *enabled*
or disabled. Allowed operations:

    state                encrypt   decrypt   rotate
    active, enabled      yes       yes       yes
    active, disabled     no        no        yes (the way out of a compromised version)
    inactive, enabled    no        yes       no (a lineage never forks)
    inactive, disabled   no        no        no
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from qimem.crypto.algorithms import Algorithm
from qimem.errors import Conflict, Invalid, NotFound
from qimem.kernel.ids import RealmId


class Purpose(StrEnum):
    """What a key is for. Only `encryption` keys are visible through the API of keys."""

    ENCRYPTION = "encryption"
    TOKEN_SIGNING = "token-signing"  # noqa: S105 - a purpose, not a secret
    REFRESH_MAC = "refresh-mac"
    PASSWORD_PEPPER = "password-pepper"  # noqa: S105 - a purpose, not a secret
    AUDIT_SIGNING = "audit-signing"


@dataclass(frozen=True, slots=True)
class KeyVersion:
    """One version of a key with the facts of its lineage, without material."""

    realm_id: RealmId
    key_id: UUID
    lineage_id: UUID
    version: int
    active: bool
    enabled: bool
    purpose: Purpose
    algorithm: Algorithm
    name: str | None
    created_us: int


@dataclass(frozen=True, slots=True)
class WrappedMaterial:
    """Material as it is stored: wrapped by one version of the realm's key-encryption key."""

    wrapped: bytes
    kek_version: int


class WrappedKek(NamedTuple):
    """A realm's key-encryption key as it is stored.

    Args:
        version: Its own.
        wrapped: Under the root key.
        root_generation: Which root key, see `root_keys.Generation`.
    """

    version: int
    wrapped: bytes
    root_generation: int


class StoredKek(NamedTuple):
    """What it takes to unwrap a realm's key-encryption key.

    Args:
        wrapped: Under a root key.
        root_check: The check value of that root key.
    """

    wrapped: bytes
    root_check: bytes


class KeyRef(NamedTuple):
    """How a caller names a key: exactly one of the three. A tuple, for it is looked up on every encrypt."""

    key_id: UUID | None = None
    lineage_id: UUID | None = None
    name: str | None = None

    def __str__(self) -> str:
        return str(self.key_id or self.lineage_id or self.name)


def key_not_found(ref: object) -> NotFound:
    """One answer for absent, of another realm, and not for this purpose."""
    return NotFound(f"key not found: {ref}", code="key_not_found")


def check_can_encrypt(version: KeyVersion) -> None:
    """Raise unless new plaintext may be encrypted under this version.

    Raises:
        Invalid: `key_inactive` with the way forward as hint, or `key_disabled`.
    """
    if not version.active:
        raise Invalid(
            f"key is inactive: {version.key_id}",
            code="key_inactive",
            hint=f"encrypt by lineage_id {version.lineage_id}",
        )
    check_can_decrypt(version)


def check_can_decrypt(version: KeyVersion) -> None:
    """Raise unless envelopes of this version may be opened.

    Raises:
        Invalid: `key_disabled`.
    """
    if not version.enabled:
        raise Invalid(f"key is disabled: {version.key_id}", code="key_disabled")


def check_can_rotate(version: KeyVersion) -> None:
    """Raise unless a successor may be made from this version.

    Raises:
        Conflict: `key_inactive`: a lineage never forks.
    """
    if not version.active:
        raise Conflict(
            f"key is inactive: {version.key_id}",
            code="key_inactive",
            hint=f"rotate by lineage_id {version.lineage_id}",
        )
