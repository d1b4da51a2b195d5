"""The whole API as one caller sees it."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Self

from qimem.client.keys import Crypto, Keys
from qimem.client.management import Clients, Realms, Roles, Users
from qimem.client.own import Own, Tokens
from qimem.client.pages import every
from qimem.client.session import Credentials, Operation, Session
from qimem.client.transport import Transport
from qimem.kernel.addresses import keeps_secrets
from qimem.kernel.secret import SecretText
from qimem.wire.audit import AuditEventsQuery, AuditRecord
from qimem.wire.authz import ExplainRequest, Explanation
from qimem.wire.common import Page, Status

_EVENTS: Final = Operation("GET", "/v1/audit/events", Page[AuditRecord])
_EXPLAIN: Final = Operation("POST", "/v1/authz/explain", Explanation, repeatable=True)
_READY: Final = Operation("GET", "/ready", Status, signed_in=False)


@dataclass(frozen=True, slots=True)
class Wire:
    """How the server is reached.

    Args:
        timeout_seconds: For connecting, and for each read.
        tls: How certificates are judged; None as the system does.
        allow_plain_http: Send secrets without TLS to another machine, where the network itself is trusted.
    """

    timeout_seconds: float = 10.0
    tls: ssl.SSLContext | None = None
    allow_plain_http: bool = False


class Client:
    """One caller of one server; for many threads, each of which keeps a connection.

    Args:
        base_url: Of the server.
        sign_in: An access token that somebody else renews, or what to sign in with at the first call and whenever a
            token ends, until it is refused (see `use_credentials`); None for what needs no token.
        wire: How the server is reached.

    Raises:
        ValueError: no URL of a server, or another machine's without TLS; or no token.
    """

    def __init__(
        self,
        base_url: str,
        sign_in: str | Credentials | None = None,
        wire: Wire = Wire(),
    ) -> None:
        self._transport = Transport(base_url, wire.timeout_seconds, wire.tls)
        if not wire.allow_plain_http and not keeps_secrets(base_url):
            raise ValueError("secrets are not sent to another machine without TLS: use https")
        if isinstance(sign_in, str) and not (sign_in.isascii() and sign_in.isprintable()):
            # Before http.client, which repeats what it refuses.
            raise ValueError("the token holds what no header can: a line break, perhaps")
        token = SecretText(sign_in) if isinstance(sign_in, str) else None
        credentials = sign_in if isinstance(sign_in, Credentials) else None
        self._session = session = Session(self._transport, token, credentials)
        crypto = Crypto(session)
        self.encrypt, self.decrypt = crypto.encrypt, crypto.decrypt
        self.encrypt_many, self.decrypt_many = crypto.encrypt_many, crypto.decrypt_many
        self.keys = Keys(session)
        self.realms = Realms(session)
        self.roles = Roles(session)
        self.clients = Clients(session)
        self.users = Users(session)
        self.me = Own(session)
        self.tokens = Tokens(session)

    @classmethod
    def of_application(
        cls, base_url: str, client_id: str, client_secret: str, realm_id: str | None = None
    ) -> Self:
        """A client that acts for itself."""
        return cls(base_url, Credentials(client_id, SecretText(client_secret), realm_id))

    def __enter__(self) -> Self:
        """The client itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Close the connections of all threads. Nothing is revoked; a later call opens one, for a later `close`."""
        self._transport.close()

    def use_credentials(self, credentials: Credentials) -> None:
        """Sign in with these from the next call on: that others were refused is forgotten."""
        self._session.use(credentials)

    def audit_events(self, query: AuditEventsQuery | None = None) -> Iterator[AuditRecord]:
        """Records of the audit log, the newest first."""
        return every(self._session, _EVENTS, query or AuditEventsQuery())

    def explain(self, request: ExplainRequest) -> Explanation:
        """Which rule decides whether somebody may do something."""
        return self._session.call(_EXPLAIN, body=request)

    def ready(self) -> Status:
        """Whether the server can serve.

        Raises:
            ApiError: it cannot.
        """
        return self._session.call(_READY)
