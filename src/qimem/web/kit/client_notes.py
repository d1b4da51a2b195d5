"""What each field that is about a client means; see `field_notes`."""

from __future__ import annotations

from typing import Final

from qimem.kernel.limits import (
    CLIENT_SECRET_OVERLAP_SECONDS_MAX,
    DISPLAY_NAME_CHARS_MAX,
    REDIRECT_URIS_MAX,
    REFRESH_GRACE_SECONDS_MAX,
    ROLES_PER_SUBJECT_MAX,
    SCOPE_CHARS_MAX,
)
from qimem.kernel.metering import DEFAULT_TIER, TIERS
from qimem.oauth.models import AuthMethod, GrantType
from qimem.web.kit.note import Note, alike, note, one_of

_ALIKE = [
    f"UpdateClientRequest.{field}" for field in ("grant_types", "response_types", "jwks", "jwks_uri", "tier")
]
_STRUCTS = ("CreateClientRequest", "UpdateClientRequest", "Client")
_GRACE = note(
    "How long a spent refresh token gives its successor once more, in seconds, 0: not at all; as the realm says where "
    "it is null",
    minimum=0,
    maximum=REFRESH_GRACE_SECONDS_MAX,
)
_REFRESH = note("Whether its grants are refreshed only together with its secret")

CLIENT_NOTES: Final[dict[str, Note]] = {
    "CreateClientRequest.redirect_uris": note(
        "May be empty. Each https, http on loopback, or of a private scheme with a dot in it.",
        maxItems=REDIRECT_URIS_MAX,
    ),
    "CreateClientRequest.name": note("For people to read", minLength=1, maxLength=DISPLAY_NAME_CHARS_MAX),
    "CreateClientRequest.client_name": note("The same as `name` (RFC 7591)"),
    "CreateClientRequest.grant_types": note(
        f"Some of {one_of(GrantType)}; by default all that suit the client"
    ),
    "CreateClientRequest.response_types": note("`code`, or none"),
    "CreateClientRequest.token_endpoint_auth_method": note(
        f"One of {one_of(AuthMethod)}; the first by default. `none` makes a public client without a secret."
    ),
    "CreateClientRequest.scope": note(
        "What its tokens may ask for, separated by single spaces", maxLength=SCOPE_CHARS_MAX
    ),
    "CreateClientRequest.jwks": note("Public keys of the client (RFC 7517); excludes `jwks_uri`"),
    "CreateClientRequest.jwks_uri": note("Where they are instead; https"),
    "CreateClientRequest.post_logout_redirect_uris": note(
        "As `redirect_uris`, for after a logout", maxItems=REDIRECT_URIS_MAX
    ),
    "CreateClientRequest.tier": note(
        f"Rate limit: one of {one_of(TIERS)}; `{DEFAULT_TIER}` by default. Operators alone."
    ),
    "CreateClientRequest.roles": note(
        "Names of roles of the realm, for its own tokens (client credentials)", maxItems=ROLES_PER_SUBJECT_MAX
    ),
    "UpdateClientRequest.name": note("See the registration", minLength=1, maxLength=DISPLAY_NAME_CHARS_MAX),
    "UpdateClientRequest.redirect_uris": note("See the registration", maxItems=REDIRECT_URIS_MAX),
    **dict.fromkeys(_ALIKE, note("See the registration")),
    "UpdateClientRequest.scope": note("See the registration", maxLength=SCOPE_CHARS_MAX),
    "UpdateClientRequest.post_logout_redirect_uris": note("See the registration", maxItems=REDIRECT_URIS_MAX),
    **alike("refresh_grace_seconds", _GRACE, *_STRUCTS),
    **alike("refresh_requires_client", _REFRESH, *_STRUCTS),
    "RotateClientSecretRequest.overlap_seconds": note(
        "How long the secret before is taken too; by default it is not",
        minimum=0,
        maximum=CLIENT_SECRET_OVERLAP_SECONDS_MAX,
    ),
    "RotatedClientSecret.client_id": note("Of the client"),
    "RotatedClientSecret.client_secret": note("Shown this once"),
    "RotatedClientSecret.previous_expires_at": note(
        "RFC 3339, UTC; null where the secret before is good no more"
    ),
    "Client.enabled": note("Whether anybody gets in through it"),
    "Client.client_id": note("Opaque"),
    "Client.name": note("For people to read"),
    "Client.redirect_uris": note("Compared character by character"),
    "Client.grant_types": note("What it may ask for tokens with"),
    "Client.response_types": note("What it may ask the authorization endpoint for"),
    "Client.token_endpoint_auth_method": note(f"One of {one_of(AuthMethod)}"),
    "Client.scope": note("What its tokens may ask for"),
    "Client.post_logout_redirect_uris": note("Compared character by character"),
    "Client.jwks": note("Public keys of the client"),
    "Client.jwks_uri": note("Where they are instead"),
    "Client.tier": note(f"One of {one_of(TIERS)}"),
    "Client.roles": note("Roles of its own tokens"),
    "CreatedClient.client_secret": note("Shown this once. Null for a public client."),
}
