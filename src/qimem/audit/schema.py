"""What the record of an endpoint holds; declared beside the endpoint, tested for every one of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

EVERY_RECORD: Final = frozenset({"at", "event", "outcome", "id", "request_id", "address"})
OF_A_CALLER: Final = EVERY_RECORD | {"realm", "subject", "client", "token"}


@dataclass(frozen=True, slots=True)
class AuditSchema:
    """How requests of one endpoint are recorded.

    Args:
        recorded: Whether each is recorded before it is answered; otherwise only denials are.
        facts: Fields of a record of success beside those of every caller.
    """

    recorded: bool
    facts: frozenset[str] = frozenset()


COUNTED: Final = AuditSchema(recorded=False)
"""Plain reads and public answers."""


def recorded(*facts: str) -> AuditSchema:
    """Each request is recorded, with these facts when it succeeds."""
    return AuditSchema(recorded=True, facts=frozenset(facts))
