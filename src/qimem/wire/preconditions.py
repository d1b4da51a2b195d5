"""Entity tags (RFC 9110 §8.8.3), and the condition under which a change is made (§13.1.1).

A tag is the digest of the representation that was answered: whatever shows in it counts, however it was changed.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass

import msgspec

from qimem.errors import PreconditionFailed
from qimem.wire.common import Response

_ENCODER = msgspec.json.Encoder()
_DIGEST_BYTES = 15


def entity_tag(body: bytes) -> str:
    """The strong entity tag of an answer's body, in its quotes."""
    digest = hashlib.sha256(body).digest()[:_DIGEST_BYTES]
    return f'"{base64.urlsafe_b64encode(digest).decode()}"'


@dataclass(frozen=True, slots=True)
class Precondition:
    """What `If-Match` named.

    Args:
        tags: One of these must be the current one; None: whatever is current.
    """

    tags: frozenset[str] | None = None

    def check(self, current: Response) -> None:
        """Refuse unless what is there now is what the caller saw. Runs inside the transaction of the change.

        Raises:
            PreconditionFailed: somebody changed it meanwhile.
        """
        if self.tags is not None and entity_tag(_ENCODER.encode(current)) not in self.tags:
            raise PreconditionFailed(
                "it was changed meanwhile", hint="get it again, and repeat the change on that"
            )
