"""What every custody of the root key can do."""

from __future__ import annotations

from typing import Protocol

from qimem.kernel.secret import SecretBytes


class Seal(Protocol):
    """Keeps one 32-byte root key.

    Args:
        location: Where it is, for messages; never the key.
    """

    @property
    def location(self) -> str:
        """Where the key is, for messages."""
        ...

    def exists(self) -> bool:
        """Whether there is something at the location, sound or not."""
        ...

    def load(self) -> SecretBytes:
        """The root key; the caller owns and wipes it.

        Raises:
            Refused: it is missing, or others could have read or replaced it.
        """
        ...

    def create(self) -> SecretBytes:
        """Make a new root key, durable before this returns.

        Raises:
            Refused: there is one already, or this custody only reads.
        """
        ...
