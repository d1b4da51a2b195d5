"""What the dispatcher asks of the audit log: may it be done, and have it recorded."""

from __future__ import annotations

from collections.abc import Callable

from qimem.audit.intents import Intents, new_record_id
from qimem.audit.record import line_of
from qimem.audit.refusals import RefusalCounts
from qimem.audit.trail import AuditTrail
from qimem.errors import QimemError, Unavailable, audit_unavailable, outcome_unknown
from qimem.kernel.audit_draft import AuditDraft
from qimem.kernel.clock import Clock

Recorded = Callable[[QimemError | None], None]


class AuditRecorder:
    """Records requests in the log of this worker."""

    def __init__(self, trail: AuditTrail, intents: Intents, refusals: RefusalCounts, clock: Clock) -> None:
        self._trail = trail
        self._intents = intents
        self._refusals = refusals
        self._clock = clock

    @property
    def writable(self) -> bool:
        """Whether a record can be written as far as is known."""
        return self._trail.writable

    def require_writable(self) -> None:
        """Refuse what could not be recorded, before anything is done.

        Raises:
            Unavailable: `audit_unavailable`.
        """
        self._trail.require_writable()

    def record(self, draft: AuditDraft, outcome: str, done: Recorded) -> None:
        """Have the request recorded; only then may it be answered.

        Args:
            draft: What is known of it.
            outcome: How it ended; an intent that stands beside its effect has said so already.
            done: Told None, or the error to answer: `outcome_unknown` for what was done all the same,
                `audit_unavailable` otherwise. Perhaps before this returns.
        """
        intent = draft.intent
        # Without waiting, only the log is told what became of the record.
        told = done if self._trail.strict else _nobody
        if intent is None:
            line = line_of(draft, new_record_id(), self._clock.now_us(), outcome)

            def written(on_disk: bool) -> None:
                told(None if on_disk else audit_unavailable())
        else:
            line = intent.line

            def written(on_disk: bool) -> None:
                if on_disk:
                    self._intents.logged(intent)
                    told(None)
                else:
                    self._intents.in_doubt(intent)
                    told(outcome_unknown())

        try:
            self._trail.submit(line, written)
        except Unavailable:
            told = done
            written(on_disk=False)
            return
        if told is not done:
            done(None)

    def note(self, draft: AuditDraft, outcome: str) -> None:
        """Have the request recorded without waiting: nothing was done and nothing is given away."""
        self.record(draft, outcome, _nobody)

    def refuse(self, address: str, event: str, reason: str) -> None:
        """Count a stranger who was refused."""
        self._refusals.add(address, event, reason)


def _nobody(_error: QimemError | None) -> None:
    pass
