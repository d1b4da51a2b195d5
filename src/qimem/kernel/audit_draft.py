"""The audit record of one request while the request is being served.

Services note what they do; the record is encoded once, in the transaction that does it or after the key was
used, and from then on it is bytes.
"""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

from qimem.kernel.context import Actor


class Intent(NamedTuple):
    """A record that stands in the database beside its effect, until it stands in the log.

    Args:
        line: Encoded, with its line end.
    """

    record_id: str
    line: bytes


class AuditDraft:
    """What is known so far of who did what.

    Attributes:
        event: `resource.action`, as the endpoint names it.
        realm_id: The realm it is about; empty while unknown.
        subject: User or client that acts; empty for strangers.
        token_id: `jti` of the token that was shown, or that was issued.
        target: Id of what was made, changed or ended.
        key_id: Version that was used or changed.
        items: How many operations one request asked for.
        failed: How many of them were refused.
        uses: Version → number of its uses, for requests with several operations.
        outcome: How it ends if nothing comes in between.
        intent: Once the record stands in the database beside its effect.
    """

    # Defaults stand on the class: one of these is made per request, and most of it is never set.
    realm_id = subject = client_id = token_id = target = ""
    key_id: UUID | None = None
    version = 0
    items = 1
    failed = 0
    uses: dict[tuple[UUID, int], int] | None = None
    outcome = "ok"
    intent: Intent | None = None

    def __init__(self, event: str, request_id: str, address: str) -> None:
        self.event = event
        self.request_id = request_id
        self.address = address

    def by(self, actor: Actor) -> None:
        """Note who acts, in their own realm until another one is named."""
        self.realm_id = actor.realm_id
        self.subject = actor.subject
        self.client_id = actor.client_id
        self.token_id = actor.token_id

    def used_key(self, key_id: UUID, version: int) -> None:
        """Note the version that was used or made."""
        self.key_id = key_id
        self.version = version

    def end_item(self, *, failed: bool) -> None:
        """Close one operation of several: its key is counted, and the next one begins without."""
        self.failed += failed
        if self.key_id is not None:
            uses = self.uses = self.uses or {}
            key = self.key_id, self.version
            uses[key] = uses.get(key, 0) + 1
        self.key_id, self.version = None, 0
