"""The public error tree. The domain raises these; it never names a status code.

    QimemError                 code, message, hint, kind
    ├── Invalid                the request cannot be served as it is written
    │   └── InvalidFields      … because of named fields (JSON pointer and reason each)
    ├── Unauthenticated        nobody, or nobody valid, is calling
    ├── Forbidden              the caller is known and lacks a permission
    ├── NotFound               no such object that this caller may know of
    ├── Conflict               it exists already, or its state forbids the call
    ├── PreconditionFailed     it is not what the caller saw any more
    ├── Mismatch               an idempotency key came back with another body
    ├── Limited                too many, too fast
    ├── Unavailable            cannot serve now; trying again later can help
    └── Internal               our fault; details are in the log under the request id

`code` is the stable machine word of the wire contract, `message` is safe to show to the caller,
`hint` says what to do next. The cause of an error goes to the log, never into the message.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar


class Kind(StrEnum):
    """What class of failure an error is. Transports map it: HTTP status, CLI exit code."""

    INVALID = "invalid"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    PRECONDITION = "precondition"
    MISMATCH = "mismatch"
    LIMITED = "limited"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"


class QimemError(Exception):
    """Root of every error that may be shown to a caller.

    Args:
        message: Text safe to show; no secret, path, SQL or stack.
        code: Stable slug, one of those listed in the wire contract.
        hint: What the caller can do next, or None.
    """

    kind: ClassVar[Kind] = Kind.INTERNAL
    default_code: ClassVar[str] = "internal"

    def __init__(self, message: str, *, code: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.hint = hint


class Invalid(QimemError):
    """The request cannot be served as written: bad value, wrong state, failed verification."""

    kind = Kind.INVALID
    default_code = "invalid_field"


class InvalidFields(Invalid):
    """One or more fields are unusable.

    Args:
        fields: JSON pointer → reason, at least one entry.
    """

    def __init__(self, fields: dict[str, str], *, hint: str | None = None) -> None:
        pointer, reason = next(iter(fields.items()))
        super().__init__(f"{pointer or 'body'}: {reason}", code="invalid_field", hint=hint)
        self.fields = fields


class Unauthenticated(QimemError):
    """No credential, or none that is valid."""

    kind = Kind.UNAUTHENTICATED
    default_code = "invalid_token"


class Forbidden(QimemError):
    """The caller is authenticated and lacks a permission.

    Args:
        permission: The permission that was needed.
        resource: What it was needed on, where that helps.
    """

    kind = Kind.FORBIDDEN
    default_code = "permission_denied"

    def __init__(self, permission: str, *, resource: str | None = None, hint: str | None = None) -> None:
        super().__init__(f"permission denied: {permission}", hint=hint)
        self.permission = permission
        self.resource = resource


class NotFound(QimemError):
    """No such object that this caller may know of."""

    kind = Kind.NOT_FOUND
    default_code = "not_found"


class Conflict(QimemError):
    """It exists already, a concurrent change won, or its state forbids the call.

    Args:
        object_id: Id of the object that an earlier call made, where the caller should look it up.
    """

    kind = Kind.CONFLICT
    default_code = "conflict"

    def __init__(
        self, message: str, *, code: str | None = None, hint: str | None = None, object_id: str | None = None
    ) -> None:
        super().__init__(message, code=code, hint=hint)
        self.object_id = object_id


class PreconditionFailed(QimemError):
    """The object is not what the caller saw any more (`If-Match`)."""

    kind = Kind.PRECONDITION
    default_code = "precondition_failed"


class Mismatch(QimemError):
    """An idempotency key was reused with another body."""

    kind = Kind.MISMATCH
    default_code = "idempotency_mismatch"


class Limited(QimemError):
    """Too many requests.

    Args:
        retry_after_seconds: Whole seconds, at least 1.
    """

    kind = Kind.LIMITED
    default_code = "rate_limited"

    def __init__(self, message: str, *, retry_after_seconds: int, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.retry_after_seconds = retry_after_seconds


class Unavailable(QimemError):
    """Cannot serve now.

    `code` tells why: sealed, overloaded, storage_unavailable, audit_unavailable, outcome_unknown.
    """

    kind = Kind.UNAVAILABLE
    default_code = "storage_unavailable"
    retry_after_seconds = 1


class Internal(QimemError):
    """Our fault. The message is always the same; the log has the rest."""

    def __init__(self) -> None:
        super().__init__("internal error", code="internal")


def outcome_unknown() -> Unavailable:
    """The write may or may not have happened; only a repeat with the same Idempotency-Key is safe."""
    return Unavailable(
        "outcome unknown",
        code="outcome_unknown",
        hint="repeat the request with the same Idempotency-Key",
    )


def storage_unavailable() -> Unavailable:
    """Storage cannot be read or written; nothing was changed."""
    return Unavailable("storage unavailable", code="storage_unavailable")


def audit_unavailable() -> Unavailable:
    """The audit log cannot be written; nothing was done that would have to stand in it."""
    return Unavailable("audit log unavailable", code="audit_unavailable")


def realm_not_found(realm_id: str) -> NotFound:
    """The realm is absent, or the caller may not know of it: one answer for both."""
    return NotFound(f"realm not found: {realm_id}", code="realm_not_found")
