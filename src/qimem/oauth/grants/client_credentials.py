"""The client-credentials grant (RFC 6749 §4.4): a client for its own service account."""

from __future__ import annotations

from qimem.kernel.audit_draft import AuditDraft
from qimem.oauth.issuer import Authorization, Issuer
from qimem.oauth.models import ClientRecord, GrantType
from qimem.wire.auth import TokenRequest, TokenResponse


class ClientCredentialsGrant:
    """Issues an access token to the client itself; nothing is written, nothing can be refreshed."""

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer

    async def exchange(self, client: ClientRecord, request: TokenRequest, draft: AuditDraft) -> TokenResponse:
        """An access token for the client.

        Raises:
            Invalid: `unauthorized_client`, `invalid_scope`.
        """
        return await self._issuer.issue(
            Authorization(
                grant_type=GrantType.CLIENT_CREDENTIALS,
                realm_id=client.realm_id,
                client_id=client.client_id,
                judged=client,
                user_id=None,
                scope=request.scope,
                write_grant=None,
                draft=draft,
            )
        )
