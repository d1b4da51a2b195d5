"""The one way a token comes into being.

Every grant type hands over who was authenticated and what shall be written; standing and policy are
judged here, in the transaction of the effect, so that no grant type can forget one of them. What writes
nothing is judged on what is remembered under the realm's epoch, as every use of the token will be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from uuid import UUID

import msgspec

from qimem.crypto.randomness import new_uuid
from qimem.errors import Conflict, Invalid
from qimem.kernel.audit_draft import AuditDraft
from qimem.kernel.clock import MICROSECONDS, Clock
from qimem.kernel.epochs import RealmCaches
from qimem.kernel.ids import ClientId, RealmId
from qimem.kernel.limits import ACCESS_TOKEN_SECONDS, BEARER_CHARS_MAX
from qimem.kernel.transaction import Tx
from qimem.kernel.unit_of_work import UnitOfWork
from qimem.oauth.access_token import AccessTokens
from qimem.oauth.models import ClientRecord, GrantRecord, GrantType
from qimem.oauth.ports import RefreshMac
from qimem.oauth.refresh_token import make_refresh_token
from qimem.oauth.scope import left_of, narrowed
from qimem.oauth.standing import Standing, StandingCheck
from qimem.wire.auth import TokenResponse

_OTHER_CLAIMS_CHARS = 5 * 1024
"""Room for header, signature, ids, a scope of 1,024 and two URLs."""


@dataclass(frozen=True, slots=True)
class Authorization:
    """What a grant type established.

    Args:
        user_id: None when the client acts for itself.
        judged: The client as it was when it proved itself; None where it did not.
        scope: Asked for by the caller, None for the client's whole scope.
        write_grant: Writes the grant with the scope given to it and returns it as it then stands;
            None for grant types that leave no grant behind. It is told the client as it is now.
        draft: The audit record of the request.
    """

    grant_type: GrantType
    realm_id: RealmId
    client_id: ClientId
    user_id: UUID | None
    scope: str | None
    write_grant: Callable[[Tx, str | None, ClientRecord], GrantRecord] | None
    draft: AuditDraft
    judged: ClientRecord | None = None


class Issuer:
    """Issues access and refresh tokens."""

    def __init__(
        self,
        caches: RealmCaches,
        work: UnitOfWork,
        standing: StandingCheck,
        access_tokens: AccessTokens,
        macs: RefreshMac,
        clock: Clock,
    ) -> None:
        self._caches = caches
        self._work = work
        self._standing = standing
        self._access_tokens = access_tokens
        self._macs = macs
        self._clock = clock

    async def issue(self, authorization: Authorization) -> TokenResponse:
        """Issue, if realm, client and user stand and the client may use this grant type.

        Raises:
            Conflict: the subject's permissions do not fit into a token.
            Invalid: `unauthorized_client`, `invalid_scope`, or `invalid_grant` when realm, client
                or user is gone or disabled meanwhile.
            Unavailable: the grant could not be written.
        """
        draft, token_id, write_grant = authorization.draft, str(new_uuid()), authorization.write_grant
        if write_grant is None:
            standing = self._admitted(authorization, await self._remembered(authorization))
            scope = narrowed(standing.client.scope, authorization.scope)
            draft.token_id = token_id
            return await self._answer(authorization.realm_id, standing, None, scope, token_id)

        def effect(tx: Tx) -> tuple[Standing, GrantRecord, str | None]:
            # Of an attempt that was undone nothing was issued.
            draft.token_id = draft.target = ""
            standing = self._admitted(authorization, self._load(tx, authorization))
            grant = write_grant(tx, narrowed(standing.client.scope, authorization.scope), standing.client)
            # A refresh keeps what was granted, less what the client has lost since.
            scope = left_of(grant.scope, standing.client.scope)
            if scope == "":
                raise invalid_grant("the client is registered for nothing of this scope any more")
            draft.token_id, draft.target = token_id, str(grant.grant_id)
            return standing, grant, scope

        standing, grant, scope = await self._work.apply(draft, effect)
        return await self._answer(authorization.realm_id, standing, grant, scope, token_id)

    def _admitted(self, authorization: Authorization, standing: Standing | None) -> Standing:
        """The standing, if this grant type may be used on it."""
        judged, draft = authorization.judged, authorization.draft
        if standing is None or not self._secret_stands(judged, standing.client):
            raise invalid_grant("invalid credentials")
        # Before anything is refused: who proves an identity and asks for too much has a record.
        draft.realm_id, draft.subject = authorization.realm_id, standing.subject
        draft.client_id = standing.client.client_id
        if authorization.grant_type not in standing.client.grant_types:
            raise Invalid("grant type not allowed", code="unauthorized_client")
        _check_fits(standing)
        return standing if judged is None else replace(standing, proven_with=judged.secret_digest)

    async def _remembered(self, authorization: Authorization) -> Standing | None:
        cache = await self._caches.fresh(authorization.realm_id)
        if cache is None:
            return None
        key = authorization.client_id, authorization.user_id
        return await cache.get(
            "standing", key, lambda tx: self._load(tx, authorization), lambda found: found.permissions.weight
        )

    def _load(self, tx: Tx, authorization: Authorization) -> Standing | None:
        return self._standing.load(tx, authorization.realm_id, authorization.client_id, authorization.user_id)

    def _secret_stands(self, judged: ClientRecord | None, now: ClientRecord) -> bool:
        """Whether the secret that the client has shown is still one of its own."""
        if judged is None:
            return True
        until_us = now.previous_until_us
        previous = None if until_us is None or until_us <= self._clock.now_us() else now.previous_digest
        shown = judged.secret_digest
        return shown == now.secret_digest or (shown is not None and shown == previous)

    async def _answer(
        self,
        realm_id: RealmId,
        standing: Standing,
        grant: GrantRecord | None,
        scope: str | None,
        token_id: str,
    ) -> TokenResponse:
        refresh_token = None
        if grant is not None and GrantType.REFRESH_TOKEN in standing.client.grant_types:
            refresh_token = await make_refresh_token(
                self._macs, realm_id, grant.grant_id, grant.generation, standing.client.client_id
            )
        grant_id = grant.grant_id if grant is not None else None
        expires_in = ACCESS_TOKEN_SECONDS
        if grant is not None:
            # The grant's end is absolute: a token issued shortly before it must not outlive it.
            left = (grant.expires_us - self._clock.now_us()) // MICROSECONDS
            expires_in = max(1, min(expires_in, left))
        access_token = await self._access_tokens.write(
            realm_id, standing, grant_id, scope, expires_in, token_id
        )
        return TokenResponse(
            access_token=access_token,
            expires_in=expires_in,
            token_type="Bearer",  # noqa: S106 - RFC 6750 token type
            refresh_token=refresh_token,
            scope=scope,
        )


def invalid_grant(message: str) -> Invalid:
    """The credential or token presented is not good (RFC 6749 §5.2)."""
    return Invalid(message, code="invalid_grant")


def _check_fits(standing: Standing) -> None:
    # What is handed out must be accepted, and headers have a limit. Base64 adds a third.
    names = msgspec.json.encode((standing.roles, standing.permissions.names))
    if len(names) * 4 // 3 > BEARER_CHARS_MAX - _OTHER_CLAIMS_CHARS:
        raise Conflict(
            "the roles carry more permissions than fit into a token", hint="give this subject fewer roles"
        )
