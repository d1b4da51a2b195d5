"""The root keys in hand: one, and two while a rotation is under way.

A process starts with one key. Meanwhile another process may put a new one in its place, so a key that is asked for
and not in hand is looked for in custody. What is found there counts only if the database knows its check value.

No key is forgotten before the end: another thread might be wrapping under it, and a key that was wiped is a key of
zeros. An old one opens nothing in this database any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple
from uuid import UUID

from qimem.crypto.mac import key_check_value
from qimem.kernel.secret import SecretBytes
from qimem.kms.hierarchy import RootKey

Look = Callable[[], Iterable[SecretBytes]]
"""Every key that custody has at the moment; the caller owns and wipes them."""


class Generation(NamedTuple):
    """A root key as the database knows it.

    Args:
        number: 1 for the first one; a rotation leads to the next.
        check: Its key check value, see `crypto.mac.key_check_value`.
        created_us: When the installation, or the rotation to it, began.
    """

    number: int
    check: bytes
    created_us: int


class RootKeys:
    """Root keys of one installation, by check value.

    Args:
        instance_id: The installation.
        first: The key that the process was started with, if any; taken over.
        look: Where to look for others.
    """

    def __init__(self, instance_id: UUID, first: SecretBytes | None, look: Look = tuple) -> None:
        self.instance_id = instance_id
        self._look = look
        self._known = {} if first is None else {self._check(first): RootKey(instance_id, first)}

    def find(self, check: bytes) -> RootKey | None:
        """The key with this check value, in hand or in custody; None when it is nowhere."""
        found = self._known.get(check)
        if found is not None:
            return found
        for key in self._look():
            # Two threads may look at once: the first one's stays.
            if (
                self._check(key) != check
                or self._known.setdefault(check, RootKey(self.instance_id, key)).key is not key
            ):
                key.wipe()
        return self._known.get(check)

    def close(self) -> None:
        """Wipe them all."""
        for known in self._known.values():
            known.key.wipe()

    def _check(self, key: SecretBytes) -> bytes:
        return key_check_value(key, self.instance_id.bytes)
