"""What a password must be like to be chosen, and what is stored of one that was."""

from __future__ import annotations

import unicodedata
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from qimem.errors import Invalid
from qimem.identity.common_passwords import COMMON_PASSWORDS
from qimem.identity.passwords import PasswordLane, normalize_password
from qimem.kernel.ids import RealmId
from qimem.kernel.limits import PASSWORD_CHARS_MAX, PASSWORD_CHARS_MIN
from qimem.kernel.secret import SecretText


@dataclass(frozen=True, slots=True)
class PasswordRules:
    """What a realm asks of new passwords. NIST SP 800-63B-4 §3.1.1.2: a length and a list, no mix of characters.

    Args:
        min_chars: 8 to 64; fewer only on a throw-away server, where the list does not count either.
    """

    min_chars: int = PASSWORD_CHARS_MIN

    @property
    def refuse_common(self) -> bool:
        """Whether what everyone tries first is refused."""
        return self.min_chars >= PASSWORD_CHARS_MIN


def check_password(password: SecretText, rules: PasswordRules, *names: str | None) -> str:
    """The normalized password if the rules allow it as a new one.

    Args:
        password: As it came.
        rules: Of the realm.
        names: What its owner is called, which others know too.

    Raises:
        Invalid: `weak_password`, naming the rule.
    """
    normalized = normalize_password(password)
    if normalized is None:
        raise _weak(f"at most {PASSWORD_CHARS_MAX} characters")
    if len(normalized) < rules.min_chars:
        raise _weak(f"at least {rules.min_chars} characters")
    folded = normalized.casefold()
    if rules.refuse_common and folded in COMMON_PASSWORDS:
        raise _weak("on the list of common passwords")
    if rules.refuse_common and any(name is not None and _folded(name) == folded for name in names):
        raise _weak("not the name or address of its owner")
    return normalized


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold()


def _weak(rule: str) -> Invalid:
    return Invalid(f"password too weak: {rule}", code="weak_password")


class NewPasswords:
    """Judges new passwords by the rules of their realm, and hashes them.

    Args:
        rules: Those of a realm.
    """

    def __init__(self, lane: PasswordLane, rules: Callable[[RealmId], Awaitable[PasswordRules]]) -> None:
        self._lane = lane
        self._rules = rules

    async def check(self, realm_id: RealmId, password: SecretText, *names: str | None) -> str:
        """The normalized password.

        Raises:
            Invalid: `weak_password`.
        """
        return check_password(password, await self._rules(realm_id), *names)

    async def hash(self, realm_id: RealmId, normalized: str) -> str:
        """What is stored of a password that was checked.

        Raises:
            Unavailable: `overloaded`.
        """
        return await self._lane.hash(realm_id, normalized)


async def default_rules(_: RealmId) -> PasswordRules:
    """Those for a password that was generated, or is there before its realm."""
    return PasswordRules()
