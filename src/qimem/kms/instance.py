"""The identity of an installation: who it is, and proof that the root key in hand is its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from qimem.crypto.mac import key_check_value
from qimem.kernel.refusal import Refused
from qimem.kernel.secret import SecretBytes
from qimem.kernel.transaction import Tx


@dataclass(frozen=True, slots=True)
class Instance:
    """The single row that makes a database this installation.

    Args:
        incarnation: 16 random bytes, new after a restore: what was remembered before is void.
        key_check: Key check value of the root key in force: during a rotation, of the old one. See
            `crypto.mac.key_check_value`.
        external_url: Base URL of issuers and audiences; None until the first start.
    """

    instance_id: UUID
    incarnation: bytes
    key_check: bytes
    external_url: str | None
    created_us: int


class InstanceStore(Protocol):
    """The single row."""

    def find(self, tx: Tx) -> Instance | None:
        """The instance, or None in an empty database."""
        ...

    def insert(self, tx: Tx, instance: Instance) -> None:
        """Make the database this instance's.

        Raises:
            UniqueViolation: it belongs to one already.
        """
        ...

    def set_external_url(self, tx: Tx, external_url: str) -> bool:
        """Store it if none is stored yet; False when one was."""
        ...


def check_root_key(root_key: SecretBytes, instance_id: UUID, key_check: bytes) -> None:
    """See that this root key is the one that an installation was made with.

    Raises:
        Refused: it is another one.
    """
    if not SecretBytes(key_check_value(root_key, instance_id.bytes)).equals(key_check):
        raise Refused(
            "the root key is not the one this database was made with",
            "give the right one with --root-key-file, after a rotation the new one; without it the data cannot be read",
        )
