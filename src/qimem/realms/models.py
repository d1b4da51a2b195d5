"""What a realm is."""

from __future__ import annotations

from dataclasses import dataclass

from qimem.errors import InvalidFields
from qimem.kernel.ids import RealmId
from qimem.kernel.limits import PASSWORD_CHARS_MIN, REFRESH_GRACE_SECONDS, REFRESH_GRACE_SECONDS_MAX


def check_refresh_grace(seconds: int | None) -> None:
    """Refuse what a realm or client cannot have.

    Raises:
        InvalidFields: not 0 to 60.
    """
    if seconds is not None and not 0 <= seconds <= REFRESH_GRACE_SECONDS_MAX:
        raise InvalidFields({"/refresh_grace_seconds": f"must be 0 to {REFRESH_GRACE_SECONDS_MAX}"})


@dataclass(frozen=True, slots=True)
class RealmSettings:
    """What a realm decides for itself; None for what is not said.

    Args:
        password_min_length: Characters of a new password, at least.
        allow_password_grant: Whether applications may take their users' passwords for tokens.
        refresh_grace_seconds: How long a spent refresh token gives its successor once more; 0: not at all.
    """

    password_min_length: int | None = None
    allow_password_grant: bool | None = None
    refresh_grace_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class RealmRecord:
    """One tenant.

    Args:
        created_us: Wall time in microseconds.
        password_min_length: See `RealmSettings`.
        allow_password_grant: See `RealmSettings`.
        refresh_grace_seconds: See `RealmSettings`.
    """

    realm_id: RealmId
    name: str
    enabled: bool
    created_us: int
    password_min_length: int = PASSWORD_CHARS_MIN
    allow_password_grant: bool = True
    refresh_grace_seconds: int = REFRESH_GRACE_SECONDS
