"""A user to be made, and what is stored of the secrets that come with one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qimem.crypto.imported_hashes import HashRefused
from qimem.crypto.passwords import import_hash
from qimem.errors import InvalidFields
from qimem.identity.password_rules import NewPasswords
from qimem.identity.second_factor import SecondFactors
from qimem.kernel.ids import RealmId
from qimem.kernel.secret import SecretText


@dataclass(frozen=True, slots=True)
class NewUser:
    """Who shall be there.

    Args:
        password: None for who comes with the hash of one.
        password_hash: As another system made it.
        totp_secret: In base32: the user has an app that knows it.
    """

    username: str
    password: SecretText | None
    roles: Sequence[str]
    email: str | None = None
    totp_secret: SecretText | None = None
    password_hash: SecretText | None = None


@dataclass(frozen=True, slots=True)
class CredentialMakers:
    """What makes of a secret what is stored of it."""

    passwords: NewPasswords
    factors: SecondFactors

    async def phc(self, realm_id: RealmId, new: NewUser) -> str:
        """The password hash to store for a new user.

        Raises:
            Invalid: `weak_password`.
            InvalidFields: neither a password nor a hash of one, or both, or a hash that cannot be verified.
            Unavailable: `overloaded`.
        """
        if (new.password is None) == (new.password_hash is None):
            raise InvalidFields({"/password": "either this or password_hash must be given"})
        if new.password is not None:
            wanted = await self.passwords.check(realm_id, new.password, new.username, new.email)
            return await self.passwords.hash(realm_id, wanted)
        assert new.password_hash is not None
        try:
            return import_hash(new.password_hash.reveal())
        except HashRefused as refused:
            raise InvalidFields({"/password_hash": str(refused)}) from None
