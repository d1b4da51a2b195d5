"""Time-based one-time passwords (RFC 6238) with HMAC-SHA-1, six digits and steps of 30 seconds: what every app reads."""

from __future__ import annotations

import hmac
from typing import Final

from qimem.kernel.secret import SecretBytes

STEP_SECONDS: Final = 30
DIGITS: Final = 6
_MODULUS: Final = 10**DIGITS
_DRIFT_STEPS: Final = (0, -1, 1)


def one_time_password(secret: SecretBytes, step: int) -> str:
    """The password of a step: six digits (RFC 4226 §5.3).

    Args:
        secret: Shared with the app.
        step: Whole steps of 30 seconds since 1970.
    """
    tag = hmac.digest(secret.reveal(), step.to_bytes(8, "big"), "sha1")
    offset = tag[-1] & 0x0F
    number = int.from_bytes(tag[offset : offset + 4], "big") & 0x7FFFFFFF
    return f"{number % _MODULUS:0{DIGITS}d}"


def matching_step(secret: SecretBytes, password: str, now_seconds: int) -> int | None:
    """The step that a password belongs to: the current one, or the one before or after it (RFC 6238 §5.2).

    All three are compared, whatever the first says, in constant time.
    """
    found = None
    for drift in _DRIFT_STEPS:
        step = now_seconds // STEP_SECONDS + drift
        if step >= 0 and hmac.compare_digest(one_time_password(secret, step).encode(), password.encode()):
            found = step if found is None else found
    return found
