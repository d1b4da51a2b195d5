"""A start that is refused: what is wrong, and what to do about it. Exit code 78 (`EX_CONFIG`)."""

from __future__ import annotations


class Refused(Exception):
    """The process will not start like this, and starting again will not help.

    Args:
        message: What is wrong, without secrets; paths are fine, only the operator sees it.
        hint: The command, flag or change that helps.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
