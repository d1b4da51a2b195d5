"""Refused configuration: every mistake at once, each with where it was written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qimem.kernel.refusal import Refused

__all__ = ["Misconfigured", "Mistake", "Refused"]


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing wrong with the configuration.

    Args:
        origin: Where the value was written: `qimem.toml:14`, `QIMEM_SERVER__BIND`, `--bind`.
        option: `section.field`, or what was written in its place.
        reason: What is wrong; never the value itself, it may be a secret in the wrong place.
        hint: What to do, or None.
    """

    origin: str
    option: str
    reason: str
    hint: str | None = None

    def __str__(self) -> str:
        return f"{self.origin}: {self.option}: {self.reason}"


class Misconfigured(Refused):
    """The configuration cannot be used.

    Args:
        mistakes: All of them, at least one.
    """

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        lines = [f"configuration refused, {count}:", *(f"  {mistake}" for mistake in mistakes)]
        hints = dict.fromkeys(mistake.hint for mistake in mistakes if mistake.hint)
        super().__init__("\n".join(lines), "; ".join(hints) or None)
        self.mistakes = tuple(mistakes)
