"""Secrets wear a type that cannot be printed, pickled or compared by accident.

What Python can and cannot do: a `SecretBytes` owns a bytearray that `wipe()` overwrites; text that
came in as JSON cannot be cleaned from memory, so a `SecretText` only keeps it out of logs.
"""

from __future__ import annotations

import hmac
from typing import NoReturn


class _Unprintable:
    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret cannot be pickled or copied")

    def __eq__(self, other: object) -> bool:
        # A silent False would hide a comparison that leaks time; equals() is the constant-time way.
        raise TypeError("compare secrets with equals()")

    __hash__ = None  # type: ignore[assignment]  # a secret must not become a dict key that outlives wipe()


class SecretBytes(_Unprintable):
    """Key material or another binary secret; owns its buffer.

    Args:
        value: Copied into an own buffer; the caller wipes its copy.
    """

    __slots__ = ("_buffer",)

    def __init__(self, value: bytes | bytearray | memoryview) -> None:
        self._buffer = bytearray(value)

    def __len__(self) -> int:
        return len(self._buffer)

    def reveal(self) -> bytearray:
        """The buffer itself, not a copy: do not keep it beyond the call that needs it."""
        return self._buffer

    def equals(self, other: bytes | bytearray) -> bool:
        """Compare in constant time."""
        return hmac.compare_digest(self._buffer, other)

    def wipe(self) -> None:
        """Overwrite the buffer with zeros."""
        self._buffer[:] = bytes(len(self._buffer))


class SecretText(_Unprintable):
    """A password, client secret or token as text."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def __len__(self) -> int:
        return len(self._value)

    def reveal(self) -> str:
        """The text; for hashing or for the one answer that shows it."""
        return self._value
