"""What of a request is recorded, and whether its answer waits for the record."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from qimem.errors import Forbidden, Limited, QimemError, Unauthenticated
from qimem.kernel.audit_draft import AuditDraft
from qimem.web.kit.endpoint import Endpoint
from qimem.web.kit.errors import TransportError

Failure = QimemError | TransportError | None


class Recorder(Protocol):
    """The audit log; implemented by `audit.recorder.AuditRecorder`."""

    @property
    def writable(self) -> bool:
        """Whether a record can be written as far as is known."""
        ...

    def require_writable(self) -> None:
        """Refuse what could not be recorded.

        Raises:
            Unavailable: `audit_unavailable`.
        """
        ...

    def record(self, draft: AuditDraft, outcome: str, done: Callable[[QimemError | None], None]) -> None:
        """Have the request recorded; `done` is told when, or what to answer instead."""
        ...

    def note(self, draft: AuditDraft, outcome: str) -> None:
        """Have the request recorded without waiting."""
        ...

    def refuse(self, address: str, event: str, reason: str) -> None:
        """Count a stranger who was refused."""
        ...


def code_of(failure: Failure) -> str:
    """The outcome of a record: the code that is answered."""
    if failure is None:
        return "ok"
    return failure.body.code if isinstance(failure, TransportError) else failure.code


def is_rate_limited(failure: Failure) -> bool:
    """Whether it was refused for the number of requests, and not for what it asks."""
    return isinstance(failure, Limited) and failure.code == Limited.default_code


def waits_for_record(endpoint: Endpoint, draft: AuditDraft, failure: Failure) -> bool:
    """Whether nothing may be answered before the record is on the disk."""
    if draft.intent is not None:
        return True
    if is_rate_limited(failure):
        # A record for each would make the log the slowest part of saying no.
        return False
    if isinstance(failure, Forbidden):
        return True
    if endpoint.permission is not None:
        return endpoint.audit.recorded
    # Nobody is known there before credentials were proven, and nothing is given away without them.
    return failure is None and endpoint.audit.recorded and draft.subject != ""


def note_refusal(
    recorder: Recorder, endpoint: Endpoint, draft: AuditDraft | None, failure: Failure, address: str
) -> None:
    """Record a refusal that nobody waits for.

    An existing user whose password was wrong has a record of their own. Others are counted. Neither waits,
    so that the time of the answer does not tell which it was.
    """
    if failure is None:
        return
    code = code_of(failure)
    if is_rate_limited(failure):
        recorder.refuse(address, endpoint.name, code)
    elif draft is not None and draft.subject:
        if endpoint.audit.recorded:
            recorder.note(draft, code)
    elif isinstance(failure, Unauthenticated) or code in _OF_STRANGERS:
        recorder.refuse(address, endpoint.name, code)


_OF_STRANGERS = frozenset(
    {"invalid_grant", "invalid_mfa_code", "mfa_required", "too_many_attempts", "unauthorized_client"}
)
