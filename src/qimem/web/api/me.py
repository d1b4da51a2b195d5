"""`/v1/auth/me`: what callers may ask and change about themselves."""

from __future__ import annotations

from qimem.audit.schema import COUNTED, recorded
from qimem.kernel.secret import SecretText
from qimem.web.kit.endpoint import Call, Endpoint
from qimem.wire.factors import (
    ConfirmTotpRequest,
    EnrolTotpRequest,
    ProveFactorRequest,
    RecoveryCodes,
    SecondFactorState,
    TotpEnrolment,
)
from qimem.wire.users import ChangePasswordRequest, Me, PasswordSet


async def get_me(call: Call[None, None]) -> Me:
    """Who is calling, and what they may do now."""
    return await call.services.me.get(call.context)


async def change_password(call: Call[ChangePasswordRequest, None]) -> PasswordSet:
    """Replace one's own password; all that was signed in with the old one ends, this sign-in too."""
    body = call.body
    code = None if body.totp_code is None else SecretText(body.totp_code)
    return await call.services.passwords.change(
        call.context, SecretText(body.current_password), SecretText(body.password), code
    )


async def enrol_totp(call: Call[EnrolTotpRequest, None]) -> TotpEnrolment:
    """Begin with an app as second factor; it counts once a code of it has confirmed it."""
    return await call.services.own_factor.enrol(call.context, SecretText(call.body.current_password))


async def confirm_totp(call: Call[ConfirmTotpRequest, None]) -> RecoveryCodes:
    """Show that the app works; the recovery codes are for the day it does not."""
    return await call.services.own_factor.confirm(call.context, SecretText(call.body.code))


async def disable_totp(call: Call[ProveFactorRequest, None]) -> SecondFactorState:
    """Do without a second factor."""
    body = call.body
    return await call.services.own_factor.disable(
        call.context, SecretText(body.current_password), SecretText(body.code)
    )


async def renew_recovery_codes(call: Call[ProveFactorRequest, None]) -> RecoveryCodes:
    """Void the recovery codes and get others."""
    body = call.body
    return await call.services.own_factor.renew_recovery_codes(
        call.context, SecretText(body.current_password), SecretText(body.code)
    )


ENDPOINTS = (
    Endpoint(
        method="GET",
        path="/v1/auth/me",
        name="me.get",
        audit=COUNTED,
        handler=get_me,
        response=Me,
        signed_in=True,
        summary="Ask who one is",
    ),
    Endpoint(
        method="POST",
        path="/v1/auth/me/password",
        name="me.change-password",
        audit=recorded("target"),
        handler=change_password,
        request=ChangePasswordRequest,
        response=PasswordSet,
        signed_in=True,
        conflicts=True,
        summary="Change one's own password",
        example={"current_password": "{password}", "password": "another-long-phrase"},
    ),
    Endpoint(
        method="POST",
        path="/v1/auth/me/totp",
        name="me.enrol-totp",
        audit=recorded("target"),
        handler=enrol_totp,
        request=EnrolTotpRequest,
        response=TotpEnrolment,
        signed_in=True,
        conflicts=True,
        summary="Enrol an app as second factor",
        example={"current_password": "{password}"},
    ),
    Endpoint(
        method="POST",
        path="/v1/auth/me/totp/confirm",
        name="me.confirm-totp",
        audit=recorded("target"),
        handler=confirm_totp,
        request=ConfirmTotpRequest,
        response=RecoveryCodes,
        signed_in=True,
        conflicts=True,
        summary="Confirm the app",
        example={"code": "{pending_code}"},
    ),
    Endpoint(
        method="POST",
        path="/v1/auth/me/recovery-codes",
        name="me.renew-recovery-codes",
        audit=recorded("target"),
        handler=renew_recovery_codes,
        request=ProveFactorRequest,
        response=RecoveryCodes,
        signed_in=True,
        conflicts=True,
        summary="Renew the recovery codes",
        example={"current_password": "{password}", "code": "{code}"},
    ),
    Endpoint(
        method="POST",
        path="/v1/auth/me/totp/disable",
        name="me.disable-totp",
        audit=recorded("target"),
        handler=disable_totp,
        request=ProveFactorRequest,
        response=SecondFactorState,
        signed_in=True,
        conflicts=True,
        summary="Disable the second factor",
        example={"current_password": "{password}", "code": "{code}"},
    ),
)
"""Every operation of this resource."""
