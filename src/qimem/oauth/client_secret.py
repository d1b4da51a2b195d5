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


def secret_id(secret_digest: bytes) -> str:
    """A name for a secret, 12 characters. The secret has 256 random bits: nothing of it shows."""
    return base64.urlsafe_b64encode(digest(_DOMAIN + secret_digest)[:_ID_BYTES]).decode()


def living_secret_ids(client: ClientRecord, now_us: int) -> frozenset[str]:
    """The names of the secrets that are taken now: the current one, and the one before it while they overlap."""
    living = [client.secret_digest]
    if client.previous_until_us is not None and now_us < client.previous_until_us:
        living.append(client.previous_digest)
    return frozenset(secret_id(each) for each in living if each is not None)
