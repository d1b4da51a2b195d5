"""Audit records in tests that are about something else."""

from __future__ import annotations

from collections.abc import Callable

from qimem.errors import QimemError
from qimem.kernel.audit_draft import AuditDraft, Intent
from qimem.kernel.transaction import Tx


def a_draft(event: str = "tests.run") -> AuditDraft:
    return AuditDraft(event, "request", "127.0.0.1")


class FakeIntents:
    """Keeps what was put, for as long as its transaction is not known to have failed."""

    def __init__(self) -> None:
        self.kept: list[tuple[Intent, AuditDraft]] = []
        self.doubted: list[Intent] = []

    def put(self, tx: Tx, draft: AuditDraft) -> Intent:
        intent = Intent(f"record-{len(self.kept)}", draft.event.encode())
        self.kept.append((intent, draft))
        return intent

    def undone(self, intent: Intent) -> None:
        self.kept = [pair for pair in self.kept if pair[0] is not intent]

    def in_doubt(self, intent: Intent) -> None:
        self.doubted.append(intent)


class FakeRecorder:
    """Records at once, unless it is told that it cannot."""

    def __init__(self) -> None:
        self.records: list[tuple[AuditDraft, str]] = []
        self.refusals: list[tuple[str, str, str]] = []
        self.broken: QimemError | None = None
        self.held: list[Callable[[QimemError | None], None]] | None = None
        """Those who wait while the disk is busy; None while it is not."""

    @property
    def writable(self) -> bool:
        return self.broken is None

    def require_writable(self) -> None:
        if self.broken is not None:
            raise self.broken

    def record(self, draft: AuditDraft, outcome: str, done: Callable[[QimemError | None], None]) -> None:
        self.records.append((draft, outcome))
        if self.held is None:
            done(self.broken)
        else:
            self.held.append(done)

    def note(self, draft: AuditDraft, outcome: str) -> None:
        self.records.append((draft, outcome))

    def refuse(self, address: str, event: str, reason: str) -> None:
        self.refusals.append((address, event, reason))
