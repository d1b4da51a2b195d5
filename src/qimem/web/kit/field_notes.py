"""What the wire structs cannot say about their fields, in JSON Schema words, for the documentation alone.

Nothing is validated by these notes: the limits are read from where they are enforced, and the tests
send one more than each of them. A field is looked up by its struct and then by the struct's bases,
so `Request.realm_id` tells about it in every request.
"""

from __future__ import annotations

from typing import Any, Final

from qimem.kernel.limits import (
    BATCH_ITEMS_MAX,
    CLIENT_SECRET_OVERLAP_SECONDS_MAX,
    CURSOR_CHARS_MAX,
    DISPLAY_NAME_CHARS_MAX,
    EMAIL_CHARS_MAX,
    PAGE_DEFAULT,
    PAGE_MAX,
    PASSWORD_CHARS_MAX,
    PASSWORD_CHARS_MIN,
    PASSWORD_MIN_LENGTH_MAX,
    PERMISSIONS_PER_ROLE_MAX,
    REDIRECT_URIS_MAX,
    ROLES_PER_SUBJECT_MAX,
    SCOPE_CHARS_MAX,
    USERNAME_CHARS_MAX,
)
from qimem.oauth.models import AuthMethod, GrantType
from qimem.oauth.registration import DEFAULT_TIER, TIERS

Note = dict[str, Any]


def _note(text: str, **keywords: object) -> Note:
    return {"description": text, **keywords}


def _one_of(names: object) -> str:
    return ", ".join(f"`{name}`" for name in names)  # type: ignore[attr-defined]  # enum classes and tuples


_REALM = "The realm to act in, by default the caller's own. Operators alone may name another one."
_NAME = "`[a-z0-9][a-z0-9._-]{0,62}`, not in the form of a UUID"
_NAME_PATTERN = "^[a-z0-9][a-z0-9._-]{0,62}$"
_REALM_PATTERN = "^[a-z0-9][a-z0-9-]{0,62}$"
_PAGE = _note(f"Items per page, {PAGE_DEFAULT} by default", minimum=1, maximum=PAGE_MAX, default=PAGE_DEFAULT)
_CURSOR = _note("`next_cursor` of the page before", maxLength=CURSOR_CHARS_MAX)
_PASSWORD = _note(
    "None of the commonest", minLength=PASSWORD_CHARS_MIN, maxLength=PASSWORD_CHARS_MAX, format="password"
)
_PASSWORD_MIN_LENGTH = _note(
    "Characters of a new password, at least", minimum=PASSWORD_CHARS_MIN, maximum=PASSWORD_MIN_LENGTH_MAX
)
_PASSWORD_GRANT = _note("Whether applications may take their users' passwords for tokens")
_ALGORITHM = "`aes256_gcm` or `chacha20_poly1305`"
_ROLES = "Names of roles of the realm"

_KEYS: Final[dict[str, Note]] = {
    "CreateKeyRequest.algorithm": _note(
        f"{_ALGORITHM}; by default the first",
        pattern="^(aes256_gcm|AES-256-GCM|chacha20_poly1305|ChaCha20-Poly1305)$",
    ),
    "CreateKeyRequest.name": _note(f"Unique in the realm; {_NAME}", pattern=_NAME_PATTERN),
    "KeyMetadata.key_id": _note("This version"),
    "KeyMetadata.lineage_id": _note("All versions of the key: the `key_id` of the first one"),
    "KeyMetadata.version": _note("Counted from 1", minimum=1),
    "KeyMetadata.active": _note("Whether this is the version that encrypts; one of a lineage is"),
    "KeyMetadata.enabled": _note("Whether this version may be used at all"),
    "KeyMetadata.algorithm": _note(_ALGORITHM),
    "KeyMetadata.name": _note("Shared by all versions"),
    "KeyDetails.versions": _note("Every version of the lineage, oldest first"),
    "EncryptItem.input": _note("Text, encrypted as UTF-8. Exactly one of `input` and `input_b64`."),
    "EncryptItem.input_b64": _note("Any bytes, in standard base64 with padding"),
    "EncryptItem.key_id": _note(
        "A version; it must be active. Exactly one of `key_id`, `lineage_id` and `name`."
    ),
    "EncryptItem.lineage_id": _note("A key; its active version encrypts"),
    "EncryptItem.name": _note("A key by its name; its active version encrypts"),
    "EncryptRequest.items": _note(
        "Several at once instead of one. Key fields outside count for items without one.",
        minItems=1,
        maxItems=BATCH_ITEMS_MAX,
    ),
    "Encrypted.envelope": _note("The envelope in standard base64; see the envelope format"),
    "Encrypted.version": _note("Its number in the lineage"),
    "Encrypted.key_id": _note("The version that encrypted"),
    "EncryptedItems.items": _note("A result or an error each"),
    "DecryptItem.input": _note("The envelope in standard base64. Exactly one of `input` and `envelope`."),
    "DecryptItem.envelope": _note("The same as `input`"),
    "DecryptItem.encoding": _note("How to answer: `text` (default; must be UTF-8) or `base64` for any bytes"),
    "DecryptItem.key_id": _note("The version that is expected; at most one of the three key fields"),
    "DecryptItem.lineage_id": _note("The key that is expected"),
    "DecryptItem.name": _note("The key that is expected, by its name"),
    "DecryptRequest.items": _note(
        "Several at once instead of one. Key fields and `encoding` outside count for items without one.",
        minItems=1,
        maxItems=BATCH_ITEMS_MAX,
    ),
    "Decrypted.plaintext": _note("Text"),
    "Decrypted.version": _note("Its number in the lineage"),
    "DecryptedBytes.version": _note("Its number in the lineage"),
    "Decrypted.key_id": _note("The version that decrypted"),
    "DecryptedBytes.key_id": _note("The version that decrypted"),
    "DecryptedBytes.plaintext_b64": _note("Standard base64 with padding"),
    "DecryptedItems.items": _note("A result or an error each"),
    "RotateRequest.key_id": _note(
        "The active version. Exactly one of `key_id`, `lineage_id` and `name`. Of several "
        "rotations at once by the same `key_id` one wins."
    ),
    "RotateRequest.lineage_id": _note("The key"),
    "RotateRequest.name": _note("The key, by its name"),
    "KeyStateRequest.scope": _note("This `version` (default) or its whole `lineage`"),
    "ListKeysQuery.limit": _PAGE,
    "ListKeysQuery.cursor": _CURSOR,
    "ListKeysQuery.realm_id": _note(_REALM),
    "RealmQuery.realm_id": _note(_REALM),
    "Deleted.deleted": _note("Always true"),
    "Grant.grant_id": _note("One login through one client"),
    "Grant.client_id": _note("The application"),
    "Grant.scope": _note("As granted, separated by single spaces"),
    "Grant.created_at": _note("RFC 3339, UTC"),
    "Grant.refreshed_at": _note("RFC 3339, UTC; null before the first refresh"),
    "Grant.expires_at": _note("RFC 3339, UTC; refreshing does not move it"),
    "RevokeGrantsRequest.grant_id": _note("Only this one; all of the user's where it is left out"),
    "RevokedGrants.revoked": _note("How many ended"),
    "ListQuery.limit": _PAGE,
    "ListQuery.cursor": _CURSOR,
    "ListQuery.realm_id": _note(_REALM),
    "RolesRequest.roles": _note(_ROLES, maxItems=ROLES_PER_SUBJECT_MAX),
}

_AUTH: Final[dict[str, Note]] = {
    "CreateRealmRequest.id": _note(
        "`[a-z0-9][a-z0-9-]{0,62}`, for ever", maxLength=63, pattern=_REALM_PATTERN
    ),
    "CreateRealmRequest.name": _note("For people to read", minLength=1, maxLength=DISPLAY_NAME_CHARS_MAX),
    "CreateRealmRequest.password_min_length": _PASSWORD_MIN_LENGTH,
    "UpdateRealmRequest.password_min_length": _PASSWORD_MIN_LENGTH,
    "CreateRealmRequest.allow_password_grant": _PASSWORD_GRANT,
    "UpdateRealmRequest.allow_password_grant": _PASSWORD_GRANT,
    "Realm.allow_password_grant": _PASSWORD_GRANT,
    "Realm.password_min_length": _note("Characters of a new password, at least"),
    "Realm.id": _note("As chosen"),
    "Realm.name": _note("For people to read"),
    "Realm.enabled": _note("Whether anything works in it"),
    "UpdateRealmRequest.name": _note("For people to read", minLength=1, maxLength=DISPLAY_NAME_CHARS_MAX),
    "ListRealmsQuery.limit": _PAGE,
    "ListRealmsQuery.cursor": _CURSOR,
    "DeleteRealmQuery.confirm": _note("The id of the realm once more", example="{realm_id}"),
    "Realm.issuer": _note("`iss` of the realm's tokens", format="uri"),
    "CreateRoleRequest.name": _note(f"Unique in the realm; {_NAME}", maxLength=63, pattern=_NAME_PATTERN),
    "CreateRoleRequest.permissions": _note(
        "Permissions of the platform that the caller holds, and names of the application's own",
        maxItems=PERMISSIONS_PER_ROLE_MAX,
    ),
    "UpdateRoleRequest.permissions": _note(
        "All that it shall carry; see the creation of roles", maxItems=PERMISSIONS_PER_ROLE_MAX
    ),
    "Role.built_in": _note("Whether it is the platform's own, which nobody changes"),
    "Role.name": _note("As chosen"),
    "Role.permissions": _note("In canonical spelling, each once"),
    "CreateClientRequest.redirect_uris": _note(
        "May be empty. Each https, http on loopback, or of a private scheme with a dot in it.",
        maxItems=REDIRECT_URIS_MAX,
    ),
    "CreateClientRequest.name": _note("For people to read", minLength=1, maxLength=DISPLAY_NAME_CHARS_MAX),
    "CreateClientRequest.client_name": _note("The same as `name` (RFC 7591)"),
    "CreateClientRequest.grant_types": _note(
        f"Some of {_one_of(GrantType)}; by default all that suit the client"
    ),
    "CreateClientRequest.response_types": _note("`code`, or none"),
    "CreateClientRequest.token_endpoint_auth_method": _note(
        f"One of {_one_of(AuthMethod)}; the first by default. `none` makes a public client without a secret."
    ),
    "CreateClientRequest.scope": _note(
        "What its tokens may ask for, separated by single spaces", maxLength=SCOPE_CHARS_MAX
    ),
    "CreateClientRequest.jwks": _note("Public keys of the client (RFC 7517); excludes `jwks_uri`"),
    "CreateClientRequest.jwks_uri": _note("Where they are instead; https"),
    "CreateClientRequest.post_logout_redirect_uris": _note(
        "As `redirect_uris`, for after a logout", maxItems=REDIRECT_URIS_MAX
    ),
    "CreateClientRequest.tier": _note(
        f"Rate limit: one of {_one_of(TIERS)}; `{DEFAULT_TIER}` by default. Operators alone."
    ),
    "CreateClientRequest.roles": _note(
        f"{_ROLES}, for its own tokens (client credentials)", maxItems=ROLES_PER_SUBJECT_MAX
    ),
    "UpdateClientRequest.name": _note("See the registration", minLength=1, maxLength=DISPLAY_NAME_CHARS_MAX),
    "UpdateClientRequest.redirect_uris": _note("See the registration", maxItems=REDIRECT_URIS_MAX),
    "UpdateClientRequest.grant_types": _note("See the registration"),
    "UpdateClientRequest.response_types": _note("See the registration"),
    "UpdateClientRequest.scope": _note("See the registration", maxLength=SCOPE_CHARS_MAX),
    "UpdateClientRequest.jwks": _note("See the registration"),
    "UpdateClientRequest.jwks_uri": _note("See the registration"),
    "UpdateClientRequest.post_logout_redirect_uris": _note(
        "See the registration", maxItems=REDIRECT_URIS_MAX
    ),
    "UpdateClientRequest.tier": _note("See the registration"),
    "RotateClientSecretRequest.overlap_seconds": _note(
        "How long the secret before is taken too; by default it is not",
        minimum=0,
        maximum=CLIENT_SECRET_OVERLAP_SECONDS_MAX,
    ),
    "RotatedClientSecret.client_id": _note("Of the client"),
    "RotatedClientSecret.client_secret": _note("Shown this once"),
    "RotatedClientSecret.previous_expires_at": _note(
        "RFC 3339, UTC; null where the secret before is good no more"
    ),
    "Client.enabled": _note("Whether anybody gets in through it"),
    "Client.client_id": _note("Opaque"),
    "Client.name": _note("For people to read"),
    "Client.redirect_uris": _note("Compared character by character"),
    "Client.grant_types": _note("What it may ask for tokens with"),
    "Client.response_types": _note("What it may ask the authorization endpoint for"),
    "Client.token_endpoint_auth_method": _note(f"One of {_one_of(AuthMethod)}"),
    "Client.scope": _note("What its tokens may ask for"),
    "Client.post_logout_redirect_uris": _note("Compared character by character"),
    "Client.jwks": _note("Public keys of the client"),
    "Client.jwks_uri": _note("Where they are instead"),
    "Client.tier": _note(f"One of {_one_of(TIERS)}"),
    "Client.roles": _note("Roles of its own tokens"),
    "CreatedClient.client_secret": _note("Shown this once. Null for a public client."),
    "CreateUserRequest.username": _note(
        "Unique in the realm in any case; no spaces (RFC 8265)", minLength=1, maxLength=USERNAME_CHARS_MAX
    ),
    "CreateUserRequest.password": _PASSWORD,
    "CreateUserRequest.password_hash": _note(
        "In place of `password`: as another system stored it, of Argon2, bcrypt, scrypt or PBKDF2; replaced by one "
        "of ours at the first sign-in",
        format="password",
    ),
    "CreateUserRequest.roles": _note(f"{_ROLES}; may be empty", maxItems=ROLES_PER_SUBJECT_MAX),
    "CreateUserRequest.email": _note("ASCII", maxLength=EMAIL_CHARS_MAX),
    "UpdateUserRequest.username": _note(
        "Unique in the realm in any case; no spaces (RFC 8265)", minLength=1, maxLength=USERNAME_CHARS_MAX
    ),
    "UpdateUserRequest.email": _note("ASCII; null takes it away", maxLength=EMAIL_CHARS_MAX),
    "SetPasswordRequest.password": _PASSWORD,
    "ChangePasswordRequest.password": _PASSWORD,
    "ChangePasswordRequest.current_password": _note("The one to be replaced", format="password"),
    "PasswordSet.revoked": _note("How many sign-ins ended with the old one"),
    "Me.realm_id": _note("Where the caller belongs"),
    "Me.sub": _note("`sub` of the caller's tokens"),
    "Me.kind": _note("Whether a user calls, or a client for itself"),
    "Me.client_id": _note("The client that the token was issued to"),
    "Me.username": _note("As written; null for a client"),
    "Me.email": _note("As written"),
    "Me.roles": _note("Held now"),
    "CreateUserRequest.totp_secret": _note(
        "Of an app that the user has already, in base32 with at least 80 bits", format="password"
    ),
    "ChangePasswordRequest.totp_code": _note("Of users who have a second factor; ignored for others"),
    "EnrolTotpRequest.current_password": _note("Of the caller", format="password"),
    "TotpEnrolment.secret": _note("In base32, for who types it in. Shown this once."),
    "TotpEnrolment.otpauth_uri": _note("What apps read: SHA-1, 6 digits, 30 seconds (RFC 6238)"),
    "TotpEnrolment.qr_svg": _note("The same as a picture"),
    "ConfirmTotpRequest.code": _note("Six digits of the app"),
    "ProveFactorRequest.current_password": _note("Of the caller", format="password"),
    "ProveFactorRequest.code": _note("Six digits of the app, or a recovery code"),
    "RecoveryCodes.recovery_codes": _note("Each is good once in the place of a code of the app"),
    "SecondFactorState.enabled": _note("Whether a code is asked for at the next login"),
    "Me.second_factor": _note("Whether a code is asked for at the next login"),
    "ExplainRequest.permission": _note("A permission of the platform, without a key"),
    "ExplainRequest.user_id": _note("Whose decision; exactly one of `user_id` and `client_id`"),
    "ExplainRequest.client_id": _note("The client, when it acts for itself"),
    "ExplainRequest.lineage_id": _note("On which key; without one, whether it may be asked at all"),
    "Explanation.allowed": _note("The decision"),
    "Explanation.rule": _note("What makes it"),
    "Explanation.permission": _note("As asked"),
    "Explanation.resource": _note("As asked"),
    "Explanation.role": _note("The first role that allows it"),
    "Explanation.grant": _note("The name in that role"),
    "Explanation.hint": _note("What would have to be different"),
    "Me.permissions": _note("Held now, in alphabetical order"),
    "User.id": _note("`sub` of the user's tokens"),
    "User.username": _note("As written"),
    "User.roles": _note(_ROLES),
    "User.enabled": _note("Whether the user may sign in"),
    "User.email": _note("As written"),
    "TokenRequest.client_id": _note("Of the application that signs in"),
    "TokenRequest.client_secret": _note("Absent for public clients", format="password"),
    "TokenRequest.realm_id": _note("Realm of the client; may be left out with `client_credentials`"),
    "TokenRequest.grant_type": _note("`password` (default) or `client_credentials`"),
    "TokenRequest.username": _note("For `password`"),
    "TokenRequest.password": _note("For `password`", format="password"),
    "TokenRequest.totp_code": _note("One-time code of users who have a second factor; ignored for others"),
    "TokenRequest.scope": _note("Less than the client is registered for, separated by single spaces"),
    "TokenResponse.access_token": _note("JWT, to be sent as `Authorization: Bearer`"),
    "TokenResponse.token_type": _note("Always this"),
    "TokenResponse.expires_in": _note("Seconds until the access token expires", minimum=1),
    "TokenResponse.refresh_token": _note("Works once. Absent for client credentials."),
    "TokenResponse.scope": _note("Where one applies"),
    "RotateSigningKeyRequest.mode": _note(
        "`now` (default): the new key signs from the next token on, and the old one vouches for its tokens until the "
        "last has expired. `scheduled`: it is published now and signs once every remembered key set has it. "
        "`compromised`: every token of every other key is refused from the next request on"
    ),
    "RotatedSigningKey.kid": _note("RFC 7638 thumbprint of the key, as tokens and key set name it"),
    "IntrospectRequest.token": _note("An access or a refresh token"),
    "IntrospectRequest.token_type_hint": _note("Read and not needed: a token tells what it is"),
    "IntrospectRequest.client_id": _note("With its secret, where neither a bearer nor `Basic` is shown"),
    "IntrospectRequest.client_secret": _note("See `client_id`", format="password"),
    "Introspection.active": _note(
        "False for a token that is expired, revoked, malformed or of another realm"
    ),
    "Introspection.token_use": _note("What kind of token it is"),
    "Introspection.username": _note("Of the user; absent where a client acts for itself"),
    "Introspection.client_id": _note("Of the application it was given to"),
    "Introspection.realm": _note("Of the token"),
    "Introspection.scope": _note(
        "As granted, less what was taken from the client since; single spaces between"
    ),
    "Introspection.jti": _note("Id of the token"),
    "Introspection.sub": _note("The user's id; the client's own for client credentials"),
    "Introspection.roles": _note("Held now, whatever the token says"),
    "Introspection.permissions": _note("Held now, whatever the token says"),
    "Introspection.iat": _note("Seconds since 1970"),
    "Introspection.exp": _note("Seconds since 1970"),
    "RefreshRequest.refresh_token": _note("Spent by this call"),
    "RefreshRequest.client_id": _note("Must match the token where sent"),
    "RefreshRequest.client_secret": _note("Must match the client where sent", format="password"),
    "RevokeRequest.token": _note("Access or refresh token; holding it is enough"),
    "Revoked.revoked": _note("Always true, also for a token that is unknown or dead (RFC 7009)"),
    "JWKSet.keys": _note("Public keys (RFC 7517), newest first"),
}

_AUDIT: Final[dict[str, Note]] = {
    "AuditRecord.at": _note("RFC 3339, UTC, in microseconds", format="date-time"),
    "AuditRecord.event": _note("What was asked for: the operation, or `authentication.refused`"),
    "AuditRecord.outcome": _note("`ok`, `replayed`, or the code of the error that was answered"),
    "AuditRecord.id": _note("Of this record"),
    "AuditRecord.realm": _note("The realm it is about"),
    "AuditRecord.subject": _note("The user or client that acted"),
    "AuditRecord.client": _note("The client that the token was issued to"),
    "AuditRecord.token": _note("`jti` of the access token that was shown or issued"),
    "AuditRecord.key": _note("The key version that was used or changed"),
    "AuditRecord.version": _note("Its number", minimum=0),
    "AuditRecord.target": _note("Id of what was made, changed or ended"),
    "AuditRecord.items": _note("Operations that the request asked for", minimum=0),
    "AuditRecord.failed": _note("How many of them were refused", minimum=0),
    "AuditRecord.used": _note("The keys of a request of several operations"),
    "AuditRecord.request_id": _note("`X-Request-Id` of the answer"),
    "AuditRecord.address": _note("The peer; of IPv6 in counted refusals the /64"),
    "AuditRecord.count": _note("Requests that this record stands for", minimum=1),
    "AuditRecord.recovered": _note("Written later than its effect; whether it was answered is not known"),
    "KeyUse.key": _note("A key version"),
    "KeyUse.version": _note("Its number; 0 where no such version was found", minimum=0),
    "KeyUse.count": _note("Operations that asked for it", minimum=1),
    "AuditEventsQuery.realm_id": _note(_REALM),
    "AuditEventsQuery.event": _note("Only this operation"),
    "AuditEventsQuery.outcome": _note("Only this outcome"),
    "AuditEventsQuery.subject": _note("Only this user or client"),
    "AuditEventsQuery.client_id": _note("Only tokens of this client"),
    "AuditEventsQuery.key_id": _note("Only uses and changes of this key version"),
    "AuditEventsQuery.request_id": _note("Only this request"),
    "AuditEventsQuery.since": _note("From this time on, RFC 3339", format="date-time"),
    "AuditEventsQuery.until": _note("Before this time, RFC 3339", format="date-time"),
    "AuditEventsQuery.limit": _PAGE,
    "AuditEventsQuery.cursor": _CURSOR,
}

NOTES: Final[dict[str, Note]] = {
    "Request.realm_id": _note(_REALM),
    "Response.realm_id": _note("The realm it belongs to"),
    "Response.created_at": _note("RFC 3339, UTC", format="date-time"),
    "Status.status": _note("`ok`, or `ready`"),
    "NotReady.status": _note("`not ready`"),
    "NotReady.checks": _note("Name of the check that fails → reason"),
    "ServerInfo.name": _note("`qimem`"),
    "ServerInfo.versions": _note("Prefixes that it serves"),
    "ServerInfo.openapi": _note("Path of the OpenAPI document"),
    "Page.items": _note("What is on this page"),
    "Page.next_cursor": _note("Hand it back as `cursor`; null on the last page"),
    **_KEYS,
    **_AUTH,
    **_AUDIT,
}
"""`Struct.field` → what to add to the field's schema."""

PATH_PARAMETERS: Final[dict[str, Note]] = {
    "key_id": _note("A key version", format="uuid"),
    "user_id": _note("A user", format="uuid"),
    "client_id": _note("A client"),
    "realm_id": _note(
        "Id of the realm; operators alone may name another than their own", pattern=_REALM_PATTERN
    ),
    "role": _note("Name of the role", pattern=_NAME_PATTERN),
    "realm": _note("Id of the realm", pattern=_REALM_PATTERN),
}
"""Name of a path parameter → what to add to its schema."""


def note_on(struct: type[Any], field: str) -> Note:
    """What to add to the schema of a field; empty where the struct says everything."""
    return next(
        (NOTES[known] for base in struct.__mro__ if (known := f"{base.__name__}.{field}") in NOTES), {}
    )
