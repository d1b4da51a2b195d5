"""What a client is registered as. Field names and defaults follow RFC 7591 where it has them.

A registration is read from a request, or from a client that is there; an update is the old one with some fields
replaced, and passes the same checks as a new one (a laxer one has been a way in: Keycloak CVE-2026-15572).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qimem.errors import InvalidFields
from qimem.kernel.clock import rfc3339
from qimem.kernel.metering import DEFAULT_TIER, TIERS
from qimem.oauth.client_metadata import check_metadata, check_redirect_uris
from qimem.oauth.models import AuthMethod, ClientRecord, GrantType
from qimem.realms.models import check_refresh_grace
from qimem.wire.clients import Client


@dataclass(frozen=True, slots=True)
class Registration:
    """What a client asks to be. None means the default."""

    redirect_uris: Sequence[str]
    name: str | None = None
    grant_types: Sequence[str] | None = None
    response_types: Sequence[str] | None = None
    auth_method: str | None = None
    scope: str | None = None
    jwks: dict[str, Any] | None = None
    jwks_uri: str | None = None
    post_logout_redirect_uris: Sequence[str] | None = None
    tier: str | None = None
    roles: Sequence[str] = ()
    refresh_grace_seconds: int | None = None
    refresh_requires_client: bool | None = None

    @classmethod
    def of(cls, client: ClientRecord) -> Registration:
        """What a client is registered as."""
        return cls(
            redirect_uris=client.redirect_uris,
            name=client.name,
            grant_types=client.grant_types,
            auth_method=client.auth_method,
            scope=client.scope,
            tier=client.tier,
            roles=client.roles,
            refresh_grace_seconds=client.refresh_grace_seconds,
            refresh_requires_client=client.refresh_requires_client,
            **_rest(client),
        )

    def checked(self) -> Checked:
        """The registration with its defaults, as a client keeps it.

        Raises:
            InvalidFields: points at the first unusable field.
        """
        check_redirect_uris(self.redirect_uris, "/redirect_uris")
        check_redirect_uris(self.post_logout_redirect_uris or (), "/post_logout_redirect_uris")
        method = _auth_method(self.auth_method)
        grant_types = _grant_types(self.grant_types, method)
        if self.tier is not None and self.tier not in TIERS:
            raise InvalidFields({"/tier": f"one of {', '.join(TIERS)}"})
        _check_refresh(self, method)
        check_metadata(self)
        return Checked(
            name=self.name,
            auth_method=method,
            grant_types=grant_types,
            redirect_uris=tuple(self.redirect_uris),
            scope=self.scope,
            tier=self.tier or DEFAULT_TIER,
            metadata=_metadata(self),
            refresh_grace_seconds=self.refresh_grace_seconds,
            refresh_requires_client=bool(self.refresh_requires_client),
        )


@dataclass(frozen=True, slots=True)
class Checked:
    """A registration that was found good; the fields are those of a client."""

    name: str | None
    auth_method: AuthMethod
    grant_types: tuple[str, ...]
    redirect_uris: tuple[str, ...]
    scope: str | None
    tier: str
    metadata: str
    refresh_grace_seconds: int | None
    refresh_requires_client: bool


def shown(record: ClientRecord) -> Client:
    """The client as it is answered, without its secret."""
    return Client(**fields_shown(record))


def fields_shown(record: ClientRecord) -> dict[str, Any]:
    """What an answer says about a client."""
    return {
        "client_id": record.client_id,
        "realm_id": record.realm_id,
        "name": record.name,
        "redirect_uris": list(record.redirect_uris),
        "grant_types": list(record.grant_types),
        "token_endpoint_auth_method": record.auth_method,
        "scope": record.scope,
        **_rest(record),
        "tier": record.tier,
        "roles": list(record.roles),
        "enabled": record.enabled,
        "created_at": rfc3339(record.created_us),
        "refresh_grace_seconds": record.refresh_grace_seconds,
        "refresh_requires_client": record.refresh_requires_client,
    }


def _rest(client: ClientRecord) -> dict[str, Any]:
    absent = {"response_types": ["code"], "post_logout_redirect_uris": [], "jwks": None, "jwks_uri": None}
    found: dict[str, Any] = absent | json.loads(client.metadata)
    return found


def _auth_method(name: str | None) -> AuthMethod:
    try:
        return AuthMethod(AuthMethod.SECRET_BASIC if name is None else name)
    except ValueError as error:
        raise InvalidFields({"/token_endpoint_auth_method": f"one of {', '.join(AuthMethod)}"}) from error


def _grant_types(names: Sequence[str] | None, method: AuthMethod) -> tuple[str, ...]:
    public = method is AuthMethod.NONE
    if names is None:
        return tuple(grant for grant in GrantType if not (public and grant is GrantType.CLIENT_CREDENTIALS))
    # Each is judged inside a transaction, for which all others wait.
    if len(names) > len(GrantType):
        raise InvalidFields({"/grant_types": f"at most {len(GrantType)}"})
    for index, name in enumerate(names):
        if name not in tuple(GrantType):
            raise InvalidFields({f"/grant_types/{index}": f"one of {', '.join(GrantType)}"})
    if public and GrantType.CLIENT_CREDENTIALS in names:
        # RFC 6749 §4.4: only confidential clients; otherwise anyone who knows the id is the client.
        raise InvalidFields({"/grant_types": "client_credentials needs a client with a secret"})
    return tuple(dict.fromkeys(names))


def _check_refresh(registration: Registration, method: AuthMethod) -> None:
    check_refresh_grace(registration.refresh_grace_seconds)
    if registration.refresh_requires_client and method is AuthMethod.NONE:
        raise InvalidFields({"/refresh_requires_client": "needs a client with a secret"})


def _response_types(registration: Registration) -> list[str]:
    return ["code"] if registration.response_types is None else list(registration.response_types)


def _metadata(registration: Registration) -> str:
    rest = {
        "response_types": _response_types(registration),
        "post_logout_redirect_uris": list(registration.post_logout_redirect_uris or ()),
        "jwks": registration.jwks,
        "jwks_uri": registration.jwks_uri,
    }
    return json.dumps(rest, separators=(",", ":"), sort_keys=True)
