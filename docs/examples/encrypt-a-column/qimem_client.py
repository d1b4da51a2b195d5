"""Encrypts and decrypts with QIMEM, as a client that acts for itself.

One `Vault` for the process, whatever the number of threads. It says in two ways that something failed:
`Unavailable` is worth repeating later, `Refused` is not before somebody has changed something.
"""

import threading
import time
from collections.abc import Sequence
from typing import Any

import httpx

TOKEN_MARGIN_SECONDS = 60
BATCH_ITEMS = 500
"""QIMEM takes 1,000 items and 4 MiB: with 500, values of up to 8,000 characters fit."""
PASSING = {
    "audit_unavailable",
    "outcome_unknown",
    "overloaded",
    "rate_limited",
    "sealed",
    "storage_unavailable",
}


class Unavailable(Exception):
    """QIMEM cannot do it now, or cannot be reached. Repeat after `retry_after` seconds."""

    def __init__(self, reason: str, retry_after: int = 1) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class Refused(Exception):
    """QIMEM says no, and why. `code` is one of its error codes, such as `key_disabled`."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{reason} ({code})")
        self.code = code


class Envelope(str):
    """What is encrypted already, so that a column stores it as it is."""

    __slots__ = ()


class Vault:
    """The keys of one realm, as far as this client may use them.

    Args:
        url: Of QIMEM.
        client_id: Of a client whose roles permit `keys:encrypt` and `keys:decrypt`.
        client_secret: Of the same client; from a secret store, not from the code.
    """

    def __init__(self, url: str, client_id: str, client_secret: str) -> None:
        # For each step. A transaction is open meanwhile: better to fail soon than to hold its locks.
        self._http = httpx.Client(base_url=url, timeout=5)
        self._credentials = {"client_id": client_id, "client_secret": client_secret}
        self._lock = threading.Lock()
        self._token, self._renew_at = "", 0.0

    def encrypt(self, key: str, value: str) -> Envelope:
        """The envelope of a value, by the active version of the named key."""
        answer = self._call("/v1/security/encrypt", {"name": key, "input": value})
        return Envelope(answer["envelope"])

    def decrypt(self, key: str, envelope: str) -> str:
        """The value, if the envelope is of this key, whatever its version."""
        answer = self._call("/v1/security/decrypt", {"name": key, "envelope": envelope})
        plaintext: str = answer["plaintext"]
        return plaintext

    def encrypt_all(self, key: str, values: Sequence[str]) -> list[Envelope]:
        """The same for many, a few requests in all; raises if one of them fails."""
        items = self._batches("/v1/security/encrypt", key, "input", values)
        return [Envelope(item["envelope"]) for item in items]

    def decrypt_all(self, key: str, envelopes: Sequence[str]) -> list[str]:
        """The same for many, a few requests in all; raises if one of them fails."""
        items = self._batches("/v1/security/decrypt", key, "envelope", envelopes)
        return [item["plaintext"] for item in items]

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _batches(self, path: str, key: str, field: str, values: Sequence[str]) -> list[dict[str, Any]]:
        done: list[dict[str, Any]] = []
        for start in range(0, len(values), BATCH_ITEMS):
            items = [{field: value} for value in values[start : start + BATCH_ITEMS]]
            done += self._call(path, {"name": key, "items": items})["items"]
        # The batch is answered with 200 although items of it failed.
        for position, item in enumerate(done):
            if "code" in item:
                raise failure(item["code"], f"item {position}: {item['error']}")
        return done

    def _call(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        token = self._current()
        answer = self._send(path, body, token)
        if answer.status_code == 401:
            # Revoked before its time, as by a rotation of the signing keys with `compromised`.
            answer = self._send(path, body, self._current(dead=token))
        return judged(answer)

    def _current(self, dead: str = "") -> str:
        with self._lock:
            if self._token == dead or time.monotonic() >= self._renew_at:
                body = self._credentials | {"grant_type": "client_credentials"}
                fresh = judged(self._send("/v1/auth/token", body, None))
                self._token = fresh["access_token"]
                self._renew_at = time.monotonic() + fresh["expires_in"] - TOKEN_MARGIN_SECONDS
            return self._token

    def _send(self, path: str, body: dict[str, Any], token: str | None) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            return self._http.post(path, json=body, headers=headers)
        except httpx.TransportError as error:
            raise Unavailable(f"QIMEM cannot be reached: {type(error).__name__}") from None


def judged(answer: httpx.Response) -> dict[str, Any]:
    """The JSON of a 200; anything else is raised."""
    # A proxy in between answers 502 and 504, and not in JSON.
    if answer.status_code in (429, 502, 503, 504):
        seconds = answer.headers.get("Retry-After", "")
        raise Unavailable(f"QIMEM answers {answer.status_code}", int(seconds) if seconds.isdecimal() else 1)
    body: dict[str, Any] = answer.json()
    if answer.status_code != 200:
        raise failure(body["code"], body["error"])
    return body


def failure(code: str, reason: str) -> Exception:
    """What an error of QIMEM means to the caller."""
    return Unavailable(reason) if code in PASSING else Refused(code, reason)


def bound(owner: object, value: str) -> str:
    """The value with its owner in front of it, so that nobody else's row can have it."""
    if owner is None:
        raise ValueError("the row has no id yet")
    return f"{owner}\0{value}"


def unbound(owner: object, text: str) -> str:
    """The value, if it is this owner's.

    Raises:
        Refused: `moved`: it comes from another row.
    """
    found, _, value = text.partition("\0")
    if found != str(owner):
        raise Refused("moved", "the value belongs to another row")
    return value
