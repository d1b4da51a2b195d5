"""Scope values (RFC 6749 §3.3): what a client may have, what was asked for, and what is left of it."""

from __future__ import annotations

from qimem.errors import Invalid


def narrowed(registered: str | None, requested: str | None) -> str | None:
    """The scope of a new grant: all that is registered, or the part that was asked for.

    Raises:
        Invalid: `invalid_scope`: more than is registered.
    """
    if requested is None:
        return registered
    allowed = set((registered or "").split(" "))
    wanted = requested.split(" ")
    if not requested or "" in wanted or not allowed.issuperset(wanted):
        raise Invalid("scope exceeds what the client is registered for", code="invalid_scope")
    return " ".join(dict.fromkeys(wanted))


def left_of(granted: str | None, registered: str | None) -> str | None:
    """What a grant or token is still good for, now that the client is registered for this.

    Returns:
        Empty when all of it was taken away, which ends it: a token without a scope would say that it has no limits.
    """
    if granted is None:
        return None
    allowed = set((registered or "").split(" "))
    return " ".join(part for part in granted.split(" ") if part in allowed)
