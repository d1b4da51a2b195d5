"""A typed client for one thread or many, on the structs that the server answers with.

    with Client.of_application("https://id.example", client_id, client_secret) as qimem:
        envelope = qimem.encrypt(b"4111 1111 1111 1111", name="cards")

Calls block. A refusal raises a subclass of `ApiError`; nothing is repeated that could have an effect twice.
"""

from __future__ import annotations

from qimem.client.client import Client, Wire
from qimem.client.errors import (
    ApiError,
    BadRequest,
    Conflict,
    Forbidden,
    ItemsRefused,
    Limited,
    NotFound,
    PreconditionFailed,
    Unauthorized,
    Unavailable,
    Unreachable,
)
from qimem.client.session import Credentials
from qimem.kernel.secret import SecretText

__all__ = [
    "ApiError",
    "BadRequest",
    "Client",
    "Conflict",
    "Credentials",
    "Forbidden",
    "ItemsRefused",
    "Limited",
    "NotFound",
    "PreconditionFailed",
    "SecretText",
    "Unauthorized",
    "Unavailable",
    "Unreachable",
    "Wire",
]
