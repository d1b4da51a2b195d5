"""Calls of one caller: signs in, renews the token before and after it expires, reads answers.

What the token endpoint refused is not shown to it again: each attempt counts there, and many lock the account.
"""

from __future__ import annotations

import math
import os
import threading
import weakref
from dataclasses import dataclass, replace
from typing import Final, Generic, TypeVar
from urllib.parse import quote, urlencode
from uuid import uuid4

import msgspec

from qimem.client.answers import NOT_OURS, decoded, refusal
from qimem.client.errors import ApiError, BadRequest, Unauthorized, error_of
from qimem.client.transport import HttpAnswer, HttpRequest, Transport
from qimem.kernel.clock import SystemClock
from qimem.kernel.secret import SecretText
from qimem.wire.auth import RefreshRequest, TokenRequest, TokenResponse
from qimem.wire.common import ErrorBody, Request

T = TypeVar("T")

_SESSIONS: Final[weakref.WeakSet[Session]] = weakref.WeakSet()

_EARLY_SECONDS: Final = 30
"""A token is renewed this long before it expires: a request that is under way then must not fail."""
_REFUSED_SECONDS: Final = 300
"""Seldom enough to lock out nobody, who may try once a minute; and whoever is enabled again needs no hand."""
_DEFINITE: Final = frozenset({400, 401})
"""Statuses with which the token endpoint says that the credentials are not good, and will not be by themselves."""


@dataclass(frozen=True, slots=True)
class Operation(Generic[T]):
    """One operation of the API.

    Args:
        path: With `{}` for each part that varies.
        answer: What 200 carries.
        idempotent: Sent with an Idempotency-Key, and so repeatable.
        repeatable: Sent twice it has the effect of once.
        signed_in: Whether a token is shown.
    """

    method: str
    path: str
    answer: type[T]
    idempotent: bool = False
    repeatable: bool = False
    signed_in: bool = True


@dataclass(frozen=True, slots=True)
class Credentials:
    """What is signed in with: a client for itself, or a user through a client."""

    client_id: str
    client_secret: SecretText | None
    realm_id: str | None = None
    username: str | None = None
    password: SecretText | None = None
    totp_code: SecretText | None = None

    def request(self) -> TokenRequest:
        """What the token endpoint is asked for."""
        return TokenRequest(
            client_id=self.client_id,
            client_secret=_revealed(self.client_secret),
            realm_id=self.realm_id,
            grant_type="client_credentials" if self.username is None else "password",
            username=self.username,
            password=_revealed(self.password),
            totp_code=_revealed(self.totp_code),
        )


_ISSUE: Final = Operation("POST", "/v1/auth/token", TokenResponse, repeatable=True, signed_in=False)
# Repeated within its grace it answers with the same successor.
_REFRESH: Final = Operation("POST", "/v1/auth/token/refresh", TokenResponse, repeatable=True, signed_in=False)


@dataclass(frozen=True, slots=True)
class _Refused:
    """What the token endpoint said, and until when, on the monotonic clock, it is not asked again."""

    status: int
    body: ErrorBody
    until: float


class Session:
    """Everything one caller asks for.

    Args:
        transport: To one server.
        token: A token that somebody else renews, or None.
        credentials: What to sign in with, or None.
    """

    def __init__(
        self, transport: Transport, token: SecretText | None, credentials: Credentials | None
    ) -> None:
        self._transport = transport
        self._credentials = credentials
        self._clock = SystemClock()
        self._lock = threading.Lock()
        self._token = token
        self._refresh: SecretText | None = None
        self._expires = math.inf
        self._refused: _Refused | None = None
        _SESSIONS.add(self)

    def forget_parent(self) -> None:
        """Have a process that was forked renew its tokens by itself, and its parent's go on undisturbed."""
        # Another thread may have held it at the fork, and does not run here.
        self._lock = threading.Lock()
        # Each of two processes that refresh in turn shows a token that the other has spent, and that ends the
        # grant of both.
        self._refresh = None

    def use(self, credentials: Credentials) -> None:
        """Sign in with these from the next call on."""
        with self._lock:
            self._credentials = credentials
            self._token = self._refresh = self._refused = None

    def call(
        self,
        operation: Operation[T],
        *parts: object,
        body: Request | None = None,
        query: msgspec.Struct | None = None,
        if_match: str | None = None,
        idempotency_key: str | None = None,
    ) -> T:
        """The answer to one call.

        Args:
            operation: What is asked.
            parts: Of the path, in order.
            body: The JSON body.
            query: Fields of the query; None leaves one out.
            if_match: Entity tag of what was seen, or `*`.
            idempotency_key: Of an idempotent operation, 1 to 255 printable ASCII characters; None: one is made up.

        Raises:
            ApiError: the server refused, or did not answer; it has the key that was used.
            ValueError: the key cannot stand in a header.
        """
        return self.call_tagged(
            operation, *parts, body=body, query=query, if_match=if_match, idempotency_key=idempotency_key
        )[0]

    def call_tagged(
        self,
        operation: Operation[T],
        *parts: object,
        body: Request | None = None,
        query: msgspec.Struct | None = None,
        if_match: str | None = None,
        idempotency_key: str | None = None,
    ) -> tuple[T, str]:
        """The answer to one call, and its entity tag, which may be empty. See `call`."""
        assert operation.idempotent or idempotency_key is None
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if if_match is not None:
            headers["If-Match"] = if_match
        if operation.idempotent and idempotency_key is None:
            idempotency_key = str(uuid4())
        if idempotency_key is not None:
            headers["Idempotency-Key"] = idempotency_key
        request = HttpRequest(
            operation.method,
            operation.path.format(*(quote(str(part), safe="") for part in parts)) + _written(query),
            headers,
            None if body is None else msgspec.json.encode(body),
            operation.repeatable or operation.idempotent or operation.method == "GET",
        )
        try:
            answer = self._signed(request) if operation.signed_in else self._transport.exchange(request)
            if answer.status != 200:
                raise refusal(answer)
            return decoded(answer, operation.answer), answer.headers.get("ETag", "")
        except ApiError as error:
            error.idempotency_key = idempotency_key
            raise

    def _signed(self, request: HttpRequest) -> HttpAnswer:
        token = self._current()
        answer = self._transport.exchange(_bearing(request, token))
        if answer.status == 401 and self._credentials is not None:
            # Nothing was done. The token was revoked, or the server restored.
            answer = self._transport.exchange(_bearing(request, self._renewed(token)))
        return answer

    def _current(self) -> SecretText | None:
        token = self._token
        if self._credentials is not None and (
            token is None or self._clock.monotonic_seconds() > self._expires
        ):
            return self._renewed(token)
        return token

    def _renewed(self, old: SecretText | None) -> SecretText:
        with self._lock:
            if self._token is not None and self._token is not old:
                # Another thread was first.
                return self._token
            assert self._credentials is not None
            self._refuse_again()
            try:
                pair = self._pair(self._credentials)
            except ApiError as error:
                self._remember(error)
                raise
            return self._take(pair)

    def _refuse_again(self) -> None:
        if self._refused is None:
            return
        left = self._refused.until - self._clock.monotonic_seconds()
        if left > 0:
            wait = math.ceil(left) if self._refused.status == 429 else None
            raise error_of(self._refused.status, self._refused.body, wait)
        self._refused = None

    def _remember(self, error: ApiError) -> None:
        if error.status in _DEFINITE and error.code != NOT_OURS:
            until = self._clock.monotonic_seconds() + _REFUSED_SECONDS
            self._refused = _Refused(error.status, error.body, until)
            # Shown once more it would only be refused once more.
            self._token = None
        elif error.status == 429 and error.retry_after is not None:
            until = self._clock.monotonic_seconds() + error.retry_after
            self._refused = _Refused(error.status, error.body, until)

    def _pair(self, credentials: Credentials) -> TokenResponse:
        if self._refresh is not None:
            shown = RefreshRequest(
                refresh_token=self._refresh.reveal(),
                client_id=credentials.client_id if credentials.client_secret is not None else None,
                client_secret=_revealed(credentials.client_secret),
            )
            try:
                return self.call(_REFRESH, body=shown)
            except (BadRequest, Unauthorized):
                self._refresh = None
        return self.call(_ISSUE, body=credentials.request())

    def _take(self, pair: TokenResponse) -> SecretText:
        self._token = token = SecretText(pair.access_token)
        self._refresh = None if pair.refresh_token is None else SecretText(pair.refresh_token)
        self._expires = self._clock.monotonic_seconds() + max(pair.expires_in - _EARLY_SECONDS, 1)
        return token


def _bearing(request: HttpRequest, token: SecretText | None) -> HttpRequest:
    if token is None:
        return request
    return replace(request, headers={**request.headers, "Authorization": f"Bearer {token.reveal()}"})


def _written(query: msgspec.Struct | None) -> str:
    if query is None:
        return ""
    fields = [(name, value) for name, value in msgspec.to_builtins(query).items() if value is not None]
    return "?" + urlencode(fields) if fields else ""


def _revealed(secret: SecretText | None) -> str | None:
    return None if secret is None else secret.reveal()


def _forget_parent() -> None:
    for session in _SESSIONS:
        session.forget_parent()


os.register_at_fork(after_in_child=_forget_parent)
