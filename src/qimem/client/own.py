"""`/v1/auth/me` and tokens: what is about the caller. Every method raises `ApiError` where the server refuses."""

from __future__ import annotations

from typing import Final

from qimem.client.pages import Part
from qimem.client.session import Operation
from qimem.wire.auth import (
    Introspection,
    IntrospectRequest,
    JWKSet,
    RefreshRequest,
    Revoked,
    RevokeRequest,
    RotatedSigningKey,
    RotateSigningKeyRequest,
    TokenRequest,
    TokenResponse,
)
from qimem.wire.factors import (
    ConfirmTotpRequest,
    EnrolTotpRequest,
    ProveFactorRequest,
    RecoveryCodes,
    SecondFactorState,
    TotpEnrolment,
)
from qimem.wire.users import ChangePasswordRequest, Me, PasswordSet

_ME: Final = "/v1/auth/me"
_TOKEN: Final = "/v1/auth/token"  # noqa: S105 - a path


class Own(Part):
    """The caller's own account."""

    def get(self) -> Me:
        """Who the caller is, as of this request."""
        return self._call(Operation("GET", _ME, Me))

    def change_password(self, request: ChangePasswordRequest) -> PasswordSet:
        """Replace the password; every sign-in ends, this one too."""
        return self._call(Operation("POST", f"{_ME}/password", PasswordSet), body=request)

    def enrol_totp(self, request: EnrolTotpRequest) -> TotpEnrolment:
        """A secret for an app; it counts once it is confirmed."""
        return self._call(Operation("POST", f"{_ME}/totp", TotpEnrolment), body=request)

    def confirm_totp(self, request: ConfirmTotpRequest) -> RecoveryCodes:
        """Have the app count from now on."""
        return self._call(Operation("POST", f"{_ME}/totp/confirm", RecoveryCodes), body=request)

    def renew_recovery_codes(self, request: ProveFactorRequest) -> RecoveryCodes:
        """Other recovery codes; the old ones are void."""
        return self._call(Operation("POST", f"{_ME}/recovery-codes", RecoveryCodes), body=request)

    def disable_totp(self, request: ProveFactorRequest) -> SecondFactorState:
        """Have no code be asked for."""
        return self._call(Operation("POST", f"{_ME}/totp/disable", SecondFactorState), body=request)


class Tokens(Part):
    """Tokens of others: for a service that signs people in, or judges what it is shown."""

    def issue(self, request: TokenRequest) -> TokenResponse:
        """Sign in."""
        return self._call(Operation("POST", _TOKEN, TokenResponse, signed_in=False), body=request)

    def refresh(self, request: RefreshRequest) -> TokenResponse:
        """The next pair."""
        operation = Operation("POST", f"{_TOKEN}/refresh", TokenResponse, repeatable=True, signed_in=False)
        return self._call(operation, body=request)

    def revoke(self, request: RevokeRequest) -> Revoked:
        """End a token; with a refresh token, all of its grant."""
        operation = Operation("POST", f"{_TOKEN}/revoke", Revoked, repeatable=True, signed_in=False)
        return self._call(operation, body=request)

    def introspect(self, request: IntrospectRequest) -> Introspection:
        """What a token is good for now."""
        operation = Operation("POST", f"{_TOKEN}/introspect", Introspection, repeatable=True)
        return self._call(operation, body=request)

    def key_set(self, realm_id: str) -> JWKSet:
        """The public keys of a realm."""
        return self._call(Operation("GET", "/realms/{}/jwks", JWKSet, signed_in=False), realm_id)

    def rotate_signing_key(
        self, request: RotateSigningKeyRequest, *, idempotency_key: str | None = None
    ) -> RotatedSigningKey:
        """Have the realm sign with another key. `idempotency_key`: see `qimem.client.management`."""
        operation = Operation("POST", "/v1/auth/keys/rotate", RotatedSigningKey, idempotent=True)
        return self._call(operation, body=request, idempotency_key=idempotency_key)
