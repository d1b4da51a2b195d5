"""What a realm is."""

from __future__ import annotations

from dataclasses import dataclass

from qimem.kernel.ids import RealmId
from qimem.kernel.limits import PASSWORD_CHARS_MIN


@dataclass(frozen=True, slots=True)
class RealmSettings:
    """What a realm decides for itself; None for what is not said.

    Args:
        password_min_length: Characters of a new password, at least.
        allow_password_grant: Whether applications may take their users' passwords for tokens.
    """

    password_min_length: int | None = None
    allow_password_grant: bool | None = None


@dataclass(frozen=True, slots=True)
class RealmRecord:
    """One tenant.

    Args:
        created_us: Wall time in microseconds.
        password_min_length: See `RealmSettings`.
        allow_password_grant: See `RealmSettings`.
    """

    realm_id: RealmId
    name: str
    enabled: bool
    created_us: int
    password_min_length: int = PASSWORD_CHARS_MIN
    allow_password_grant: bool = True
