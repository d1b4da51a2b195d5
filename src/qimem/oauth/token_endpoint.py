"""The token endpoint of the JSON API: authenticate the client, pick the grant type, exchange."""

from __future__ import annotations

from qimem.errors import Invalid
from qimem.kernel.audit_draft import AuditDraft
from qimem.kernel.metering import Meter
from qimem.kernel.secret import SecretText
from qimem.oauth.client_auth import ClientAuthenticator
from qimem.oauth.grants.client_credentials import ClientCredentialsGrant
from qimem.oauth.grants.password import PasswordGrant
from qimem.oauth.models import GrantType
from qimem.wire.auth import TokenRequest, TokenResponse


class TokenEndpoint:
    """Tokens for credentials."""

    def __init__(
        self,
        clients: ClientAuthenticator,
        password: PasswordGrant,
        client_credentials: ClientCredentialsGrant,
    ) -> None:
        self._clients = clients
        self._password = password
        self._client_credentials = client_credentials

    async def exchange(self, request: TokenRequest, draft: AuditDraft, meter: Meter) -> TokenResponse:
        """Tokens for what the request proves.

        Raises:
            Unauthenticated: `invalid_client`.
            Limited: `rate_limited`.
            Invalid: `unsupported_grant_type`, `unauthorized_client`, `invalid_grant`, `invalid_scope`.
            InvalidFields: a field that the grant type needs is missing.
        """
        grant_type = GrantType.PASSWORD if request.grant_type is None else request.grant_type
        secret = SecretText(request.client_secret) if request.client_secret is not None else None
        client = await self._clients.authenticate(request.client_id, secret, request.realm_id, meter)
        if client.secret_digest is None:
            # Anybody can claim to be it, and must not use up what its users need.
            await meter.charge_address()
        draft.realm_id, draft.client_id = client.realm_id, client.client_id
        if grant_type not in (GrantType.PASSWORD, GrantType.CLIENT_CREDENTIALS):
            raise Invalid("unsupported grant type", code="unsupported_grant_type")
        if grant_type not in client.grant_types:
            # Before the password is hashed: a client that may not ask gets no work done for it.
            raise Invalid("grant type not allowed", code="unauthorized_client")
        if grant_type == GrantType.CLIENT_CREDENTIALS:
            return await self._client_credentials.exchange(client, request, draft)
        return await self._password.exchange(client, request, draft)
