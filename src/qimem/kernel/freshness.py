"""How new the state must be that a request is decided on.

Where several nodes share a database, asking it before each decision costs a round trip. An installation may have
requests that change nothing decided on state that was true a moment ago (`consistency.mode = bounded`). What
changes anything, and all that runs without a request, is decided on what is true now.
"""

from __future__ import annotations

from contextvars import ContextVar

_may_lag: ContextVar[bool] = ContextVar("may_lag", default=False)


def begin(*, may_lag: bool) -> None:
    """Say what the request of this context is.

    Args:
        may_lag: It changes nothing.
    """
    _may_lag.set(may_lag)


def may_lag() -> bool:
    """Whether state that a lease vouches for is new enough."""
    return _may_lag.get()
