"""The password grant of the JSON API: a user's name and password through a known client."""

from __future__ import annotations

from qimem.crypto.randomness import new_uuid
from qimem.errors import InvalidFields
from qimem.identity.login.service import Credentials, LoginService
from qimem.kernel.audit_draft import AuditDraft
from qimem.kernel.clock import MICROSECONDS, Clock
from qimem.kernel.limits import REFRESH_TOKEN_SECONDS
from qimem.kernel.secret import SecretText
from qimem.kernel.transaction import Tx
from qimem.oauth.issuer import Authorization, Issuer, invalid_grant
from qimem.oauth.models import ClientRecord, GrantRecord, GrantType
from qimem.oauth.ports import GrantStore
from qimem.wire.auth import TokenRequest, TokenResponse


class PasswordGrant:
    """Checks the user's credentials and begins a grant."""

    def __init__(self, login: LoginService, issuer: Issuer, grants: GrantStore, clock: Clock) -> None:
        self._login = login
        self._issuer = issuer
        self._grants = grants
        self._clock = clock

    async def exchange(self, client: ClientRecord, request: TokenRequest, draft: AuditDraft) -> TokenResponse:
        """A token pair for the user.

        Raises:
            InvalidFields: name, password or realm missing.
            Invalid: `invalid_grant` for wrong credentials, `mfa_required`, `invalid_mfa_code`, `unauthorized_client`, `invalid_scope`.
            Unavailable: `overloaded`.
        """
        known = await self._login.with_password(client.realm_id, _credentials(request), draft)

        def begin(tx: Tx, scope: str | None, _: ClientRecord) -> GrantRecord:
            if not self._login.still_holds(tx, known):
                raise invalid_grant("invalid credentials")
            now_us = self._clock.now_us()
            grant = GrantRecord(
                realm_id=client.realm_id,
                grant_id=new_uuid(),
                user_id=known.user_id,
                client_id=client.client_id,
                scope=scope,
                generation=1,
                rotated_us=None,
                rotated_by_client=False,
                created_us=now_us,
                expires_us=now_us + REFRESH_TOKEN_SECONDS * MICROSECONDS,
                revoked_us=None,
            )
            self._grants.insert(tx, grant)
            return grant

        return await self._issuer.issue(
            Authorization(
                grant_type=GrantType.PASSWORD,
                realm_id=client.realm_id,
                client_id=client.client_id,
                judged=client,
                user_id=known.user_id,
                scope=request.scope,
                write_grant=begin,
                draft=draft,
            )
        )


def _credentials(request: TokenRequest) -> Credentials:
    missing = {
        f"/{field}": "required for the password grant"
        for field in ("realm_id", "username", "password")
        if getattr(request, field) is None
    }
    if missing:
        raise InvalidFields(missing)
    assert request.username is not None
    assert request.password is not None
    code = None if request.totp_code is None else SecretText(request.totp_code)
    return Credentials(request.username, SecretText(request.password), code)
