"""Notices a fork: connections carried across one are used by two processes that know nothing of each other."""

from __future__ import annotations

import os

_forks = 0


def _count() -> None:
    global _forks  # noqa: PLW0603 - one number for the whole process
    _forks += 1


# Told by the interpreter, not asked of the system: os.getpid() is a system call on every request.
os.register_at_fork(after_in_child=_count)


class ForkGuard:
    """Belongs to whatever must stay in the process that made it."""

    __slots__ = ("_born",)

    def __init__(self) -> None:
        self._born = _forks

    def check(self) -> None:
        """Refuse to go on in a child.

        Raises:
            RuntimeError: this process was forked from the one that made the guard.
        """
        if self._born != _forks:
            raise RuntimeError("a database must be opened after fork, not before")
