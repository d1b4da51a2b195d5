"""The HTTP application: one ASGI callable that judges every request in the order of the contract.

Path 404 · method 405 · declared length 413 · token 401 · permission 403 · media type 415 · body 400
· realm 404 · and then whatever the handler finds. What has to be recorded is recorded before its answer. Every endpoint of every resource passes through
the same lines below; a handler never authenticates, decodes or renders anything itself.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

from qimem.authz.permissions import Permission
from qimem.crypto.mac import digest
from qimem.errors import Forbidden, Internal, Invalid, QimemError, Unavailable, outcome_unknown
from qimem.kernel.audit_draft import AuditDraft
from qimem.kernel.context import Actor, IdempotencyKey, RequestContext
from qimem.kernel.limits import IDEMPOTENCY_KEY_CHARS_MAX
from qimem.observability.logging import report_unexpected
from qimem.web.kit import errors, json_guard
from qimem.web.kit.cors import Cors
from qimem.web.kit.endpoint import Call, Endpoint, RawAnswer
from qimem.web.kit.errors import TransportError
from qimem.web.kit.gate import Gate, is_no_client
from qimem.web.kit.media_types import check_media, check_media_type
from qimem.web.kit.recording import Recorder, code_of, note_refusal, waits_for_record
from qimem.web.kit.router import Router, allow_header
from qimem.web.services import Services
from qimem.wire.preconditions import entity_tag

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]

_IDEMPOTENCY_KEY = re.compile(rb"[!-~]{1,%d}" % IDEMPOTENCY_KEY_CHARS_MAX)
_SINGLE = frozenset(
    {b"authorization", b"content-type", b"idempotency-key", b"if-match", b"origin", b"x-request-id"}
)

_JSON_ANSWER = errors.JSON_ANSWER
_CACHEABLE = b"cache-control: public, max-age=300\r\n"
_JSON_CACHEABLE = errors.JSON + _CACHEABLE + errors.API
_REPLAYED = b"idempotency-replayed: true\r\n"

Answer = tuple[int, bytes, bytes]
"""Status, rendered header lines, body."""


class _Asked:
    """One request before anything was made of it; headers of the same name show the last value."""

    __slots__ = ("draft", "endpoint", "exchange", "headers", "receive", "request_id", "scope")

    def __init__(
        self, scope: Scope, headers: Mapping[bytes, bytes], receive: Receive, request_id: bytes, exchange: Any
    ) -> None:
        self.scope = scope
        self.headers = headers
        self.receive = receive
        self.request_id = request_id
        self.exchange = exchange
        self.endpoint: Endpoint | None = None
        self.draft: AuditDraft | None = None

    @property
    def address(self) -> str:
        """The peer's address as text."""
        peer = self.scope.get("client")
        return peer[0] if peer else ""


class App:
    """ASGI 3 application.

    Args:
        endpoints: Every operation.
        cors_origins: Exact origins that browsers may call from.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        services: Services,
        gate: Gate,
        recorder: Recorder,
        cors_origins: Sequence[str] = (),
    ) -> None:
        self._router = Router(endpoints)
        self._services = services
        self._gate = gate
        self._recorder = recorder
        self._cors = Cors(cors_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            raise RuntimeError(f"unsupported protocol: {scope['type']}")
        exchange = _exchange(scope)
        headers: dict[bytes, bytes] = dict(scope["headers"]) if exchange is None else exchange.framing.fields
        request_id = errors.request_id(headers.get(b"x-request-id"))
        asked = _Asked(scope, headers, receive, request_id, exchange)
        failure: QimemError | TransportError | None = None
        try:
            answer = await self._judge(asked)
        except asyncio.CancelledError:
            # The drain is over and the work was cut off in the middle; the caller must not guess.
            await _respond(scope, send, self._completed(asked, _refusal(outcome_unknown(), request_id)))
            raise
        except TransportError as error:
            failure = error
            answer = error.status, _JSON_ANSWER + error.headers, _with_id(error, request_id)
        except QimemError as error:
            failure = error
            answer = _refusal(error, request_id)
        except Exception as error:  # noqa: BLE001 - the one place where the unexpected ends: logged, never shown
            report_unexpected(request_id.decode(), error)
            failure = Internal()
            answer = _refusal(failure, request_id)
        if exchange is not None:
            self._settle(asked, answer, failure, lambda given: exchange.answer(*given))
            return
        settled: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._settle(asked, answer, failure, settled.set_result)
        await _respond(scope, send, await settled)

    def _settle(
        self,
        asked: _Asked,
        answer: Answer,
        failure: QimemError | TransportError | None,
        reply: Callable[[Answer], None],
    ) -> None:
        """Answer once all is recorded that has to be."""
        draft, endpoint, recorder = asked.draft, asked.endpoint, self._recorder
        if draft is not None and draft.intent is not None and isinstance(failure, Unavailable):
            # It is done; only what was to be told of it could not be had. Not "nothing was changed".
            answer = _refusal(outcome_unknown(), asked.request_id)
        if endpoint is not None:
            outcome = draft.outcome if failure is None and draft is not None else code_of(failure)
            if draft is not None and waits_for_record(endpoint, draft, failure):

                def recorded(error: QimemError | None) -> None:
                    given = answer if error is None else _refusal(error, asked.request_id)
                    reply(self._completed(asked, given))

                recorder.record(draft, outcome, recorded)
                # Only now: if that failed, nobody answers any more, and the connection has to be closed.
                if asked.exchange is not None:
                    # The answer is on its way, though this request's own code ends here.
                    asked.exchange.owed = True
                return
            note_refusal(recorder, endpoint, draft, failure, asked.address)
        reply(self._completed(asked, answer))

    def _completed(self, asked: _Asked, answer: Answer) -> Answer:
        status, lines, body = answer
        lines += self._cors.headers(asked.headers.get(b"origin"))
        return status, lines + b"x-request-id: " + asked.request_id + b"\r\n", body

    async def _judge(self, asked: _Asked) -> Answer:
        scope, headers = asked.scope, asked.headers
        raw_path = scope.get("raw_path")
        if raw_path is not None and b"%" in raw_path:
            # No path of ours needs escapes; an escaped one is a second spelling of something.
            raise TransportError(400, "path is not canonical", "invalid_request")
        if scope["method"] == "OPTIONS":
            return self._options(scope["path"], headers)
        endpoint, parameters = self._router.find(scope["method"], scope["path"])
        asked.endpoint = endpoint
        _check_head(asked, endpoint)
        admitted = None
        draft = AuditDraft(endpoint.name, asked.request_id.decode(), asked.address)
        authorization = headers.get(b"authorization")
        shown = endpoint.needs_bearer or (endpoint.any_caller and is_no_client(authorization))
        if shown:
            admitted = await self._gate.authenticate(authorization)
            draft.by(admitted[0])
            asked.draft = draft
            self._require(admitted[0], endpoint.permission)
        raw, body = b"", None
        if endpoint.request is not None:
            check_media(headers, endpoint)
            whole = asked.exchange.whole_body() if asked.exchange is not None else None
            if whole is None:
                whole = await _read(endpoint, asked.receive)
                if shown:
                    # Seconds may have passed, and with them the token or the key: decide on what is now.
                    admitted = await self._gate.authenticate(authorization)
                    self._require(admitted[0], endpoint.permission)
            raw = _checked(endpoint, headers, whole)
            body = json_guard.decode(raw, endpoint.request)
        query = _query_of(endpoint, asked)
        call = Call(self._services, parameters, body, query, draft, headers)
        if admitted is not None:
            actor, state = admitted
            named = _named_realm(endpoint, call) if endpoint.names_realm else None
            if named is not None and named != actor.realm_id:
                actor, state = await self._gate.other_realm(actor, named)
                self._require(actor, endpoint.permission)
                draft.realm_id = state.realm_id
            idempotency = _idempotency_key(endpoint, headers, raw, call.path) if endpoint.idempotent else None
            call.context = RequestContext(draft.request_id, actor, state, draft, idempotency)
        if endpoint.audit.recorded:
            self._recorder.require_writable()
            asked.draft = draft
        return _rendered(endpoint, call, await endpoint.handler(call))

    def _require(self, actor: Actor, permission: Permission | None) -> None:
        if permission is not None and not self._gate.permits(actor, permission):
            raise Forbidden(permission, hint=f"ask an administrator for {permission}")

    def _options(self, path: str, headers: Mapping[bytes, bytes]) -> Answer:
        methods = self._router.allowed(path)
        if not methods:
            self._router.find("OPTIONS", path)
        allow = allow_header(methods)
        listed = allow.removeprefix(b"allow: ").rstrip()
        preflight = self._cors.preflight(headers.get(b"origin"), listed)
        return 204, errors.NO_STORE + errors.API + allow + preflight, b""


def create_app(
    endpoints: Sequence[Endpoint],
    services: Services,
    gate: Gate,
    recorder: Recorder,
    *,
    cors_origins: Sequence[str] = (),
) -> App:
    """The application for these endpoints."""
    return App(endpoints, services, gate, recorder, cors_origins)


async def _read(endpoint: Endpoint, receive: Receive) -> bytes:
    message = await receive()
    body: bytes = message.get("body", b"")
    if message.get("more_body", False):
        parts = [body]
        size = len(body)
        while message.get("more_body", False):
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > endpoint.body_bytes_max:
                raise _too_large(endpoint)
        body = b"".join(parts)
    if message["type"] == "http.disconnect":
        # Half a request must not be taken for a whole one.
        raise TransportError(400, "the request ended early", "invalid_request")
    return body


def _checked(endpoint: Endpoint, headers: Mapping[bytes, bytes], body: bytes) -> bytes:
    if len(body) > endpoint.body_bytes_max:
        raise _too_large(endpoint)
    if not body:
        if endpoint.optional_body:
            return b"{}"
        raise json_guard.invalid_json("a body is required")
    if b"content-type" not in headers:
        check_media_type(b"", endpoint)
    return body


def _exchange(scope: Scope) -> Any:
    # Our own protocol offers a way past the messages of ASGI; other servers do not.
    extensions = scope.get("extensions")
    return None if extensions is None else extensions.get("qimem.exchange")


def _check_head(asked: _Asked, endpoint: Endpoint) -> None:
    if len(asked.headers) != len(asked.scope["headers"]):
        _refuse_repeated(asked.scope["headers"])
    if endpoint.request is not None and _declared(asked) > endpoint.body_bytes_max:
        raise _too_large(endpoint)


def _declared(asked: _Asked) -> int:
    if asked.exchange is not None:
        told: int = asked.exchange.framing.length
        return told
    length = asked.headers.get(b"content-length")
    return int(length) if length is not None and length.isdigit() else 0


def _too_large(endpoint: Endpoint) -> TransportError:
    return TransportError(
        413, f"body larger than {endpoint.body_bytes_max} bytes", "payload_too_large", headers=b""
    )


def _refuse_repeated(headers: Sequence[tuple[bytes, bytes]]) -> None:
    seen: set[bytes] = set()
    for name, _ in headers:
        # Two values for one of these are two requests in one; which one counts must not be guessed.
        if name in seen and name in _SINGLE:
            raise TransportError(400, f"repeated header: {name.decode('latin-1')}", "invalid_request")
        seen.add(name)


def _named_realm(endpoint: Endpoint, call: Call[Any, Any]) -> str | None:
    if endpoint.realm_in_path:
        return call.path["realm_id"]
    named: str | None = (call.body if call.body is not None else call.query).realm_id
    return named


def _query_of(endpoint: Endpoint, asked: _Asked) -> Any:
    text = asked.scope["query_string"]
    if endpoint.method == "DELETE" and _declared(asked):
        # As below.
        raise Invalid("a body is not read here", hint="fields go into the query")
    if endpoint.query is not None:
        return json_guard.convert_query(_query(text), endpoint.query)
    if text and (endpoint.request is not None or endpoint.needs_bearer):
        # A realm named here by mistake, and ignored, would be work done in another realm.
        hint = None if endpoint.request is None else "fields go into the body"
        raise Invalid("query parameters are not read here", hint=hint)
    return None


def _query(text: bytes) -> dict[str, str]:
    try:
        pairs = parse_qsl(
            text.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(text),
            max_num_fields=32,
            errors="strict",
        )
    except ValueError:
        raise Invalid("malformed query string") from None
    values = dict(pairs)
    if len(values) != len(pairs):
        raise Invalid("a query parameter stands twice")
    return values


def _idempotency_key(
    endpoint: Endpoint, headers: Mapping[bytes, bytes], body: bytes, path: Mapping[str, str]
) -> IdempotencyKey | None:
    key = headers.get(b"idempotency-key")
    if key is None:
        return None
    if _IDEMPOTENCY_KEY.fullmatch(key) is None:
        raise Invalid(f"Idempotency-Key: 1 to {IDEMPOTENCY_KEY_CHARS_MAX} visible characters")
    # The object in the path is part of what is asked for: the same for another one is another request.
    asked = b"\0".join([body, *(value.encode() for value in path.values())])
    return IdempotencyKey(key.decode(), f"{endpoint.method} {endpoint.path}", digest(asked))


def _rendered(endpoint: Endpoint, call: Call[Any, Any], result: Any) -> Answer:
    if isinstance(result, RawAnswer):
        return _raw(endpoint, result)
    lines = _JSON_ANSWER if not endpoint.cacheable else _JSON_CACHEABLE
    if endpoint.idempotent and call.context.idempotency is not None and call.context.idempotency.replayed:
        lines += _REPLAYED
    body = errors.encode(result)
    if endpoint.versioned:
        lines += b"etag: " + entity_tag(body).encode() + b"\r\n"
    return 200, lines, body


def _raw(endpoint: Endpoint, answer: RawAnswer) -> Answer:
    lines = b"content-type: " + answer.content_type.encode() + b"\r\n"
    # A page brings a policy of its own.
    lines += errors.API if answer.content_type == "application/json" else errors.SECURITY
    lines += _CACHEABLE if endpoint.cacheable else errors.NO_STORE
    return answer.status, lines + answer.headers, answer.body


def _refusal(error: QimemError, request_id: bytes) -> Answer:
    body = errors.encode(errors.body_of(error, request_id.decode()))
    return errors.status_of(error), _JSON_ANSWER + errors.headers_of(error), body


def _with_id(error: TransportError, request_id: bytes) -> bytes:
    shown = {name: getattr(error.body, name) for name in error.body.__struct_fields__}
    return errors.encode(type(error.body)(**(shown | {"request_id": request_id.decode()})))


async def _respond(scope: Scope, send: Send, answer: Answer) -> None:
    status, lines, body = answer
    exchange = _exchange(scope)
    if exchange is not None:
        exchange.answer(status, lines, body)
        return
    headers = [tuple(line.split(b": ", 1)) for line in lines.split(b"\r\n") if line]
    if status != 204:
        headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
