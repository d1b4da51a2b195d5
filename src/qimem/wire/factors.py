"""`/v1/auth/me/totp` and `/v1/auth/me/recovery-codes`: the second factor."""

from __future__ import annotations

from qimem.wire.common import Request, Response


class EnrolTotpRequest(Request, frozen=True, kw_only=True):
    """POST /v1/auth/me/totp."""

    current_password: str


class TotpEnrolment(Response, frozen=True, kw_only=True):
    """What goes into the app, shown this once. It counts when a code of the app has confirmed it."""

    secret: str
    otpauth_uri: str
    qr_svg: str


class ConfirmTotpRequest(Request, frozen=True, kw_only=True):
    """POST /v1/auth/me/totp/confirm."""

    code: str


class ProveFactorRequest(Request, frozen=True, kw_only=True):
    """POST /v1/auth/me/totp/disable and /v1/auth/me/recovery-codes."""

    current_password: str
    code: str


class RecoveryCodes(Response, frozen=True, kw_only=True):
    """Each of them is good once in the place of a code of the app. Shown this once; earlier ones are void."""

    recovery_codes: list[str]


class SecondFactorState(Response, frozen=True, kw_only=True):
    """Whether a code is asked for at the next login."""

    enabled: bool
