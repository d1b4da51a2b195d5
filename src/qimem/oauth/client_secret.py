"""Which secret a client's own token was got with, so that the token ends with the secret.

Tokens by client credentials belong to no grant: without this, a rotation would leave whoever stole the secret a
quarter of an hour, in which a token with `clients:manage` rotates it once more.
"""

from __future__ import annotations

import base64
from typing import Final

from qimem.crypto.mac import digest
from qimem.oauth.models import ClientRecord

_DOMAIN: Final = b"qimem client secret id v1\n"
_ID_BYTES: Final = 9
FOREVER_US: Final = 2**63 - 1


def secret_id(secret_digest: bytes) -> str:
    """A name for a secret, 12 characters. The secret has 256 random bits: nothing of it shows."""
    return base64.urlsafe_b64encode(digest(_DOMAIN + secret_digest)[:_ID_BYTES]).decode()


def taken_until_us(client: ClientRecord, name: str | None) -> int:
    """Until when the secret of this name opens anything, as wall time in microseconds.

    Returns:
        `FOREVER_US` for the current one, the end of the overlap for the one before it, 0 for any other.
    """
    if name is not None and client.secret_digest is not None and secret_id(client.secret_digest) == name:
        return FOREVER_US
    before, until_us = client.previous_digest, client.previous_until_us
    if name is not None and before is not None and until_us is not None and secret_id(before) == name:
        return until_us
    return 0
