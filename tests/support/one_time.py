"""One-time passwords as an app makes them, from RFC 4226 and RFC 6238 alone."""

from __future__ import annotations

import base64
import hashlib
import hmac
import struct
import time


def code_of(secret: str, steps: int = 0) -> str:
    """The six digits of a secret in base32, so many steps from now."""
    key = base64.b32decode(secret + "=" * (-len(secret) % 8))
    counter = struct.pack(">Q", int(time.time()) // 30 + steps)
    tag = hmac.new(key, counter, hashlib.sha1).digest()
    start = tag[19] % 16
    (number,) = struct.unpack(">I", tag[start : start + 4])
    return str((number & (2**31 - 1)) % 10**6).rjust(6, "0")
