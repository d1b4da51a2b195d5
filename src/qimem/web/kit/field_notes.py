"""What the wire structs cannot say about their fields, in JSON Schema words, for the documentation alone.

Nothing is validated by these notes: the limits are read from where they are enforced, and the tests
send one more than each of them. A field is looked up by its struct and then by the struct's bases,
so `Request.realm_id` tells about it in every request.
"""

from __future__ import annotations

from typing import Any, Final

from qimem.kernel.limits import (
    BATCH_ITEMS_MAX,
    CURSOR_CHARS_MAX,
    DISPLAY_NAME_CHARS_MAX,
    EMAIL_CHARS_MAX,
    PAGE_DEFAULT,
    PAGE_MAX,
    PASSWORD_CHARS_MAX,
    PASSWORD_CHARS_MIN,
    PASSWORD_MIN_LENGTH_MAX,
    PERMISSIONS_PER_ROLE_MAX,
    REFRESH_GRACE_SECONDS_MAX,
    ROLES_PER_SUBJECT_MAX,
    USERNAME_CHARS_MAX,
)
from qimem.web.kit.client_notes import CLIENT_NOTES
from qimem.web.kit.note import Note, alike, note

_REALM = "The realm to act in, by default the caller's own. Operators alone may name another one."
_NAME = "`[a-z0-9][a-z0-9._-]{0,62}`, not in the form of a UUID"
_NAME_PATTERN = "^[a-z0-9][a-z0-9._-]{0,62}$"
_REALM_PATTERN = "^[a-z0-9][a-z0-9-]{0,62}$"
_PAGE = note(f"Items per page, {PAGE_DEFAULT} by default", minimum=1, maximum=PAGE_MAX, default=PAGE_DEFAULT)
_CURSOR = note("`next_cursor` of the page before", maxLength=CURSOR_CHARS_MAX)
_PASSWORD = note(
    "None of the commonest", minLength=PASSWORD_CHARS_MIN, maxLength=PASSWORD_CHARS_MAX, format="password"
)
_PASSWORD_MIN_LENGTH = note(
    "Characters of a new password, at least", minimum=PASSWORD_CHARS_MIN, maximum=PASSWORD_MIN_LENGTH_MAX
)
_GRACE = note(
    "How long a spent refresh token gives its successor once more, in seconds; 0: not at all",
    minimum=0,
    maximum=REFRESH_GRACE_SECONDS_MAX,
)
_PASSWORD_GRANT = note("Whether applications may take their users' passwords for tokens")
_ALGORITHM = "`aes256_gcm` or `chacha20_poly1305`"
_ROLES = "Names of roles of the realm"

_KEYS: Final[dict[str, Note]] = {
    "CreateKeyRequest.algorithm": note(
        f"{_ALGORITHM}; by default the first",
        pattern="^(aes256_gcm|AES-256-GCM|chacha20_poly1305|ChaCha20-Poly1305)$",
    ),
    "CreateKeyRequest.name": note(f"Unique in the realm; {_NAME}", pattern=_NAME_PATTERN),
    "KeyMetadata.key_id": note("This version"),
    "KeyMetadata.lineage_id": note("All versions of the key: the `key_id` of the first one"),
    "KeyMetadata.version": note("Counted from 1", minimum=1),
    "KeyMetadata.active": note("Whether this is the version that encrypts; one of a lineage is"),
    "KeyMetadata.enabled": note("Whether this version may be used at all"),
    "KeyMetadata.algorithm": note(_ALGORITHM),
    "KeyMetadata.name": note("Shared by all versions"),
    "KeyDetails.versions": note("Every version of the lineage, oldest first"),
    "EncryptItem.input": note("Text, encrypted as UTF-8. Exactly one of `input` and `input_b64`."),
    "EncryptItem.input_b64": note("Any bytes, in standard base64 with padding"),
    "EncryptItem.key_id": note(
        "A version; it must be active. Exactly one of `key_id`, `lineage_id` and `name`."
    ),
    "EncryptItem.lineage_id": note("A key; its active version encrypts"),
    "EncryptItem.name": note("A key by its name; its active version encrypts"),
    "EncryptRequest.items": note(
        "Several at once instead of one. Key fields outside count for items without one.",
        minItems=1,
        maxItems=BATCH_ITEMS_MAX,
    ),
    "Encrypted.envelope": note("The envelope in standard base64; see the envelope format"),
    "Encrypted.version": note("Its number in the lineage"),
    "Encrypted.key_id": note("The version that encrypted"),
    "EncryptedItems.items": note("A result or an error each"),
    "DecryptItem.input": note("The envelope in standard base64. Exactly one of `input` and `envelope`."),
    "DecryptItem.envelope": note("The same as `input`"),
    "DecryptItem.encoding": note("How to answer: `text` (default; must be UTF-8) or `base64` for any bytes"),
    "DecryptItem.key_id": note("The version that is expected; at most one of the three key fields"),
    "DecryptItem.lineage_id": note("The key that is expected"),
    "DecryptItem.name": note("The key that is expected, by its name"),
    "DecryptRequest.items": note(
        "Several at once instead of one. Key fields and `encoding` outside count for items without one.",
        minItems=1,
        maxItems=BATCH_ITEMS_MAX,
    ),
    "Decrypted.plaintext": note("Text"),
    "Decrypted.version": note("Its number in the lineage"),
    "DecryptedBytes.version": note("Its number in the lineage"),
    "Decrypted.key_id": note("The version that decrypted"),
    "DecryptedBytes.key_id": note("The version that decrypted"),
    "DecryptedBytes.plaintext_b64": note("Standard base64 with padding"),
    "DecryptedItems.items": note("A result or an error each"),
    "RotateRequest.key_id": note(
        "The active version. Exactly one of `key_id`, `lineage_id` and `name`. Of several "
        "rotations at once by the same `key_id` one wins."
    ),
    "RotateRequest.lineage_id": note("The key"),
    "RotateRequest.name": note("The key, by its name"),
    "KeyStateRequest.scope": note("This `version` (default) or its whole `lineage`"),
    "ListKeysQuery.limit": _PAGE,
    "ListKeysQuery.cursor": _CURSOR,
    "ListKeysQuery.realm_id": note(_REALM),
    "RealmQuery.realm_id": note(_REALM),
    "Deleted.deleted": note("Always true"),
    "Grant.grant_id": note("One login through one client"),
    "Grant.client_id": note("The application"),
    "Grant.scope": note("As granted, separated by single spaces"),
    "Grant.created_at": note("RFC 3339, UTC"),
    "Grant.refreshed_at": note("RFC 3339, UTC; null before the first refresh"),
    "Grant.expires_at": note("RFC 3339, UTC; refreshing does not move it"),
    "RevokeGrantsRequest.grant_id": note("Only this one; all of the user's where it is left out"),
    "RevokedGrants.revoked": note("How many ended"),
    "ListQuery.limit": _PAGE,
    "ListQuery.cursor": _CURSOR,
    "ListQuery.realm_id": note(_REALM),
    "RolesRequest.roles": note(_ROLES, maxItems=ROLES_PER_SUBJECT_MAX),
}

_AUTH: Final[dict[str, Note]] = {
    "CreateRealmRequest.id": note(
        "`[a-z0-9][a-z0-9-]{0,62}`, for ever", maxLength=63, pattern=_REALM_PATTERN
    ),
    "CreateRealmRequest.name": note("For people to read", minLength=1, maxLength=DISPLAY_NAME_CHARS_MAX),
    **alike("password_min_length", _PASSWORD_MIN_LENGTH, "CreateRealmRequest", "UpdateRealmRequest"),
    **alike("allow_password_grant", _PASSWORD_GRANT, "CreateRealmRequest", "UpdateRealmRequest", "Realm"),
    **alike("refresh_grace_seconds", _GRACE, "CreateRealmRequest", "UpdateRealmRequest", "Realm"),
    "Realm.password_min_length": note("Characters of a new password, at least"),
    "Realm.id": note("As chosen"),
    "Realm.name": note("For people to read"),
    "Realm.enabled": note("Whether anything works in it"),
    "UpdateRealmRequest.name": note("For people to read", minLength=1, maxLength=DISPLAY_NAME_CHARS_MAX),
    "ListRealmsQuery.limit": _PAGE,
    "ListRealmsQuery.cursor": _CURSOR,
    "DeleteRealmQuery.confirm": note("The id of the realm once more", example="{realm_id}"),
    "Realm.issuer": note("`iss` of the realm's tokens", format="uri"),
    "CreateRoleRequest.name": note(f"Unique in the realm; {_NAME}", maxLength=63, pattern=_NAME_PATTERN),
    "CreateRoleRequest.permissions": note(
        "Permissions of the platform that the caller holds, and names of the application's own",
        maxItems=PERMISSIONS_PER_ROLE_MAX,
    ),
    "UpdateRoleRequest.permissions": note(
        "All that it shall carry; see the creation of roles", maxItems=PERMISSIONS_PER_ROLE_MAX
    ),
    "Role.built_in": note("Whether it is the platform's own, which nobody changes"),
    "Role.name": note("As chosen"),
    "Role.permissions": note("In canonical spelling, each once"),
    "CreateUserRequest.username": note(
        "Unique in the realm in any case; no spaces (RFC 8265)", minLength=1, maxLength=USERNAME_CHARS_MAX
    ),
    "CreateUserRequest.password": _PASSWORD,
    "CreateUserRequest.password_hash": note(
        "In place of `password`: as another system stored it, of Argon2, bcrypt, scrypt or PBKDF2; replaced by one "
        "of ours at the first sign-in",
        format="password",
    ),
    "CreateUserRequest.roles": note(f"{_ROLES}; may be empty", maxItems=ROLES_PER_SUBJECT_MAX),
    "CreateUserRequest.email": note("ASCII", maxLength=EMAIL_CHARS_MAX),
    "UpdateUserRequest.username": note(
        "Unique in the realm in any case; no spaces (RFC 8265)", minLength=1, maxLength=USERNAME_CHARS_MAX
    ),
    "UpdateUserRequest.email": note("ASCII; null takes it away", maxLength=EMAIL_CHARS_MAX),
    "SetPasswordRequest.password": _PASSWORD,
    "ChangePasswordRequest.password": _PASSWORD,
    "ChangePasswordRequest.current_password": note("The one to be replaced", format="password"),
    "PasswordSet.revoked": note("How many sign-ins ended with the old one"),
    "Me.realm_id": note("Where the caller belongs"),
    "Me.sub": note("`sub` of the caller's tokens"),
    "Me.kind": note("Whether a user calls, or a client for itself"),
    "Me.client_id": note("The client that the token was issued to"),
    "Me.username": note("As written; null for a client"),
    "Me.email": note("As written"),
    "Me.roles": note("Held now"),
    "CreateUserRequest.totp_secret": note(
        "Of an app that the user has already, in base32 with at least 80 bits", format="password"
    ),
    "ChangePasswordRequest.totp_code": note("Of users who have a second factor; ignored for others"),
    "EnrolTotpRequest.current_password": note("Of the caller", format="password"),
    "TotpEnrolment.secret": note("In base32, for who types it in. Shown this once."),
    "TotpEnrolment.otpauth_uri": note("What apps read: SHA-1, 6 digits, 30 seconds (RFC 6238)"),
    "TotpEnrolment.qr_svg": note("The same as a picture"),
    "ConfirmTotpRequest.code": note("Six digits of the app"),
    "ProveFactorRequest.current_password": note("Of the caller", format="password"),
    "ProveFactorRequest.code": note("Six digits of the app, or a recovery code"),
    "RecoveryCodes.recovery_codes": note("Each is good once in the place of a code of the app"),
    "SecondFactorState.enabled": note("Whether a code is asked for at the next login"),
    "Me.second_factor": note("Whether a code is asked for at the next login"),
    "ExplainRequest.permission": note("A permission of the platform, without a key"),
    "ExplainRequest.user_id": note("Whose decision; exactly one of `user_id` and `client_id`"),
    "ExplainRequest.client_id": note("The client, when it acts for itself"),
    "ExplainRequest.lineage_id": note("On which key; without one, whether it may be asked at all"),
    "Explanation.allowed": note("The decision"),
    "Explanation.rule": note("What makes it"),
    "Explanation.permission": note("As asked"),
    "Explanation.resource": note("As asked"),
    "Explanation.role": note("The first role that allows it"),
    "Explanation.grant": note("The name in that role"),
    "Explanation.hint": note("What would have to be different"),
    "Me.permissions": note("Held now, in alphabetical order"),
    "User.id": note("`sub` of the user's tokens"),
    "User.username": note("As written"),
    "User.roles": note(_ROLES),
    "User.enabled": note("Whether the user may sign in"),
    "User.email": note("As written"),
    "TokenRequest.client_id": note("Of the application that signs in"),
    "TokenRequest.client_secret": note("Absent for public clients", format="password"),
    "TokenRequest.realm_id": note("Realm of the client; may be left out with `client_credentials`"),
    "TokenRequest.grant_type": note("`password` (default) or `client_credentials`"),
    "TokenRequest.username": note("For `password`"),
    "TokenRequest.password": note("For `password`", format="password"),
    "TokenRequest.totp_code": note("One-time code of users who have a second factor; ignored for others"),
    "TokenRequest.scope": note("Less than the client is registered for, separated by single spaces"),
    "TokenResponse.access_token": note("JWT, to be sent as `Authorization: Bearer`"),
    "TokenResponse.token_type": note("Always this"),
    "TokenResponse.expires_in": note("Seconds until the access token expires", minimum=1),
    "TokenResponse.refresh_token": note("Works once. Absent for client credentials."),
    "TokenResponse.scope": note("Where one applies"),
    "RotateSigningKeyRequest.mode": note(
        "`now` (default): the new key signs from the next token on, and the old one vouches for its tokens until the "
        "last has expired. `scheduled`: it is published now and signs once every remembered key set has it. "
        "`compromised`: every token of every other key is refused from the next request on"
    ),
    "RotatedSigningKey.kid": note("RFC 7638 thumbprint of the key, as tokens and key set name it"),
    "IntrospectRequest.token": note("An access or a refresh token"),
    "IntrospectRequest.token_type_hint": note("Read and not needed: a token tells what it is"),
    "IntrospectRequest.client_id": note("With its secret, where neither a bearer nor `Basic` is shown"),
    "IntrospectRequest.client_secret": note("See `client_id`", format="password"),
    "Introspection.active": note("False for a token that is expired, revoked, malformed or of another realm"),
    "Introspection.token_use": note("What kind of token it is"),
    "Introspection.username": note("Of the user; absent where a client acts for itself"),
    "Introspection.client_id": note("Of the application it was given to"),
    "Introspection.realm": note("Of the token"),
    "Introspection.scope": note(
        "As granted, less what was taken from the client since; single spaces between"
    ),
    "Introspection.jti": note("Id of the token"),
    "Introspection.sub": note("The user's id; the client's own for client credentials"),
    "Introspection.roles": note("Held now, whatever the token says"),
    "Introspection.permissions": note("Held now, whatever the token says"),
    "Introspection.iat": note("Seconds since 1970"),
    "Introspection.exp": note("Seconds since 1970"),
    "RefreshRequest.refresh_token": note("Spent by this call"),
    "RefreshRequest.client_id": note("Must match the token where sent"),
    "RefreshRequest.client_secret": note("Must match the client where sent", format="password"),
    "RevokeRequest.token": note("Access or refresh token; holding it is enough"),
    "Revoked.revoked": note("Always true, also for a token that is unknown or dead (RFC 7009)"),
    "JWKSet.keys": note("Public keys (RFC 7517), newest first"),
}

_AUDIT: Final[dict[str, Note]] = {
    "AuditRecord.at": note("RFC 3339, UTC, in microseconds", format="date-time"),
    "AuditRecord.event": note("What was asked for: the operation, or `authentication.refused`"),
    "AuditRecord.outcome": note("`ok`, `replayed`, or the code of the error that was answered"),
    "AuditRecord.id": note("Of this record"),
    "AuditRecord.realm": note("The realm it is about"),
    "AuditRecord.subject": note("The user or client that acted"),
    "AuditRecord.client": note("The client that the token was issued to"),
    "AuditRecord.token": note("`jti` of the access token that was shown or issued"),
    "AuditRecord.key": note("The key version that was used or changed"),
    "AuditRecord.version": note("Its number", minimum=0),
    "AuditRecord.target": note("Id of what was made, changed or ended"),
    "AuditRecord.items": note("Operations that the request asked for", minimum=0),
    "AuditRecord.failed": note("How many of them were refused", minimum=0),
    "AuditRecord.used": note("The keys of a request of several operations"),
    "AuditRecord.request_id": note("`X-Request-Id` of the answer"),
    "AuditRecord.address": note("The peer; of IPv6 in counted refusals the /64"),
    "AuditRecord.count": note("Requests that this record stands for", minimum=1),
    "AuditRecord.recovered": note("Written later than its effect; whether it was answered is not known"),
    "KeyUse.key": note("A key version"),
    "KeyUse.version": note("Its number; 0 where no such version was found", minimum=0),
    "KeyUse.count": note("Operations that asked for it", minimum=1),
    "AuditEventsQuery.realm_id": note(_REALM),
    "AuditEventsQuery.event": note("Only this operation"),
    "AuditEventsQuery.outcome": note("Only this outcome"),
    "AuditEventsQuery.subject": note("Only this user or client"),
    "AuditEventsQuery.client_id": note("Only tokens of this client"),
    "AuditEventsQuery.key_id": note("Only uses and changes of this key version"),
    "AuditEventsQuery.request_id": note("Only this request"),
    "AuditEventsQuery.since": note("From this time on, RFC 3339", format="date-time"),
    "AuditEventsQuery.until": note("Before this time, RFC 3339", format="date-time"),
    "AuditEventsQuery.limit": _PAGE,
    "AuditEventsQuery.cursor": _CURSOR,
}

NOTES: Final[dict[str, Note]] = {
    "Request.realm_id": note(_REALM),
    "Response.realm_id": note("The realm it belongs to"),
    "Response.created_at": note("RFC 3339, UTC", format="date-time"),
    "Status.status": note("`ok`, or `ready`"),
    "NotReady.status": note("`not ready`"),
    "NotReady.checks": note("Name of the check that fails → reason"),
    "ServerInfo.name": note("`qimem`"),
    "ServerInfo.versions": note("Prefixes that it serves"),
    "ServerInfo.openapi": note("Path of the OpenAPI document"),
    "Page.items": note("What is on this page"),
    "Page.next_cursor": note("Hand it back as `cursor`; null on the last page"),
    **_KEYS,
    **_AUTH,
    **CLIENT_NOTES,
    **_AUDIT,
}
"""`Struct.field` → what to add to the field's schema."""

PATH_PARAMETERS: Final[dict[str, Note]] = {
    "key_id": note("A key version", format="uuid"),
    "user_id": note("A user", format="uuid"),
    "client_id": note("A client"),
    "realm_id": note(
        "Id of the realm; operators alone may name another than their own", pattern=_REALM_PATTERN
    ),
    "role": note("Name of the role", pattern=_NAME_PATTERN),
    "realm": note("Id of the realm", pattern=_REALM_PATTERN),
}
"""Name of a path parameter → what to add to its schema."""


def note_on(struct: type[Any], field: str) -> Note:
    """What to add to the schema of a field; empty where the struct says everything."""
    return next(
        (NOTES[known] for base in struct.__mro__ if (known := f"{base.__name__}.{field}") in NOTES), {}
    )
