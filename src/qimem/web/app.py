"""The HTTP application: one ASGI callable that judges every request in the order of the contract.

Too much to do 503 · path 404 · method 405 · declared length 413 · limit of the address 429 · token 401 · limit of the client 429
· permission 403 · media type 415 · body 400 · realm 404 · and then whatever the handler finds. What has to be recorded
is recorded before its answer. Every endpoint of every resource passes through the same lines below; a handler never
authenticates, decodes or renders anything itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, NamedTuple

from qimem.authz.permissions import Permission
from qimem.errors import Forbidden, Internal, QimemError, Unavailable, outcome_unknown
from qimem.kernel import freshness
from qimem.kernel.audit_draft import AuditDraft
from qimem.kernel.context import Actor, RequestContext
from qimem.kernel.epochs import RealmCache
from qimem.kernel.limits import BODY_BYTES_FREE, LARGE_BODY_BYTES
from qimem.observability.logging import report_unexpected
from qimem.observability.metrics import Metrics
from qimem.web.kit import errors, json_guard
from qimem.web.kit.admission import Admission, Body
from qimem.web.kit.asked import Asked, RateLimits, Receive, Scope, Send, exchange_of
from qimem.web.kit.cors import Cors
from qimem.web.kit.endpoint import Call, Endpoint, RawAnswer
from qimem.web.kit.errors import TransportError
from qimem.web.kit.forwarded import Peers
from qimem.web.kit.gate import Gate, is_no_client
from qimem.web.kit.media_types import check_media
from qimem.web.kit.reading import check_head, checked_body, declared, idempotency_key, query_of, read_body
from qimem.web.kit.recording import Recorder, code_of, note_refusal, waits_for_record
from qimem.web.kit.router import Router, allow_header
from qimem.web.services import Services
from qimem.wire.preconditions import entity_tag

_JSON_ANSWER = errors.JSON_ANSWER
_CACHEABLE = b"cache-control: public, max-age=300\r\n"
_JSON_CACHEABLE = errors.JSON + _CACHEABLE + errors.API
_LIMIT_LINES = b"x-ratelimit-limit: %d\r\nx-ratelimit-remaining: %d\r\nx-ratelimit-reset: %d\r\n"
_REPLAYED = b"idempotency-replayed: true\r\n"

Answer = tuple[int, bytes, bytes]
"""Status, rendered header lines, body."""


class Around(NamedTuple):
    """What stands around every handler: who comes in and from where, what is recorded, charged and counted."""

    gate: Gate
    recorder: Recorder
    limits: RateLimits
    metrics: Metrics
    peers: Peers


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
        around: Around,
        *,
        cors_origins: Sequence[str] = (),
    ) -> None:
        self.admission = Admission(around.metrics)
        self._always = frozenset(endpoint.path for endpoint in endpoints if endpoint.unmetered)
        self._router = Router(endpoints)
        self._services = services
        self._gate = around.gate
        self._recorder = around.recorder
        self._limits = around.limits
        self._metrics = around.metrics
        self._peers = around.peers
        self._cors = Cors(cors_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            raise RuntimeError(f"unsupported protocol: {scope['type']}")
        asked = Asked(scope, receive, self._limits, self._peers, monotonic())
        request_id, exchange = asked.request_id, asked.exchange
        failure: QimemError | TransportError | None = None
        try:
            answer = await self._judge(asked)
        except asyncio.CancelledError:
            # The drain is over and the work was cut off in the middle; the caller must not guess.
            if asked.owes_charge:
                await asked.charge_unproven(None)
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
        if asked.owes_charge:
            limited = await asked.charge_unproven(failure)
            if limited is not None:
                failure, answer = limited, _refusal(limited, request_id)
        if exchange is not None:
            self._settle(asked, answer, failure, lambda given: exchange.answer(*given))
            return
        settled: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._settle(asked, answer, failure, settled.set_result)
        await _respond(scope, send, await settled)

    def _settle(
        self,
        asked: Asked,
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

    def _completed(self, asked: Asked, answer: Answer) -> Answer:
        status, lines, body = answer
        lines += self._cors.headers(asked.headers.get(b"origin"))
        if asked.charge is not None:
            lines += _LIMIT_LINES % (asked.charge.limit, asked.charge.remaining, asked.charge.reset)
        endpoint = asked.endpoint
        self._metrics.answered(None if endpoint is None else endpoint.name, status, monotonic() - asked.began)
        return status, lines + b"x-request-id: " + asked.request_id + b"\r\n", body

    async def _judge(self, asked: Asked) -> Answer:
        scope, headers = asked.scope, asked.headers
        self._look_at(asked)
        if scope["method"] == "OPTIONS":
            return await self._options(asked)
        endpoint, parameters = self._router.find(scope["method"], scope["path"])
        asked.endpoint = endpoint
        freshness.begin(may_lag=endpoint.may_lag)
        check_head(asked, endpoint)
        asked.heard = True
        draft = AuditDraft(endpoint.name, asked.request_id.decode(), asked.address)
        admitted = await self._admit(asked, endpoint, draft)
        raw, body = b"", None
        if endpoint.request is not None:
            check_media(headers, endpoint)
            whole = asked.exchange.whole_body() if asked.exchange is not None else None
            if whole is None or len(whole) > LARGE_BODY_BYTES:
                whole = await self._awaited_body(asked, endpoint, whole, known=admitted is not None)
                if admitted is not None:
                    # Seconds may have passed, and with them the token or the key: decide on what is now.
                    admitted = await self._gate.authenticate(headers.get(b"authorization"))
                    self._require(admitted[0], endpoint.permission)
            raw = checked_body(endpoint, headers, whole)
            body = json_guard.decode(raw, endpoint.request)
            if admitted is not None and endpoint.batched and body.items is not None:
                await asked.charge_items(admitted[0], len(body.items))
        query = query_of(endpoint, asked)
        call = Call(self._services, parameters, body, query, draft, asked)
        if admitted is not None:
            actor, state = admitted
            named = _named_realm(endpoint, call) if endpoint.names_realm else None
            if named is not None and named != actor.realm_id:
                actor, state = await self._gate.other_realm(actor, named)
                self._require(actor, endpoint.permission)
                draft.realm_id = state.realm_id
            idempotency = idempotency_key(endpoint, headers, raw, call.path) if endpoint.idempotent else None
            call.context = RequestContext(draft.request_id, actor, state, draft, idempotency)
        if endpoint.audit.recorded:
            self._recorder.require_writable()
            asked.draft = draft
        return _rendered(endpoint, call, await endpoint.handler(call))

    def _look_at(self, asked: Asked) -> None:
        """Refuse what nothing is done for: it comes when there is too much to do, or its path is no path.

        Raises:
            Unavailable: `overloaded`.
            TransportError: 400.
        """
        scope = asked.scope
        if not self.admission.admits(asked.began) and scope["path"] not in self._always:
            asked.turn_away()
            raise self.admission.refusal()
        raw_path = scope.get("raw_path")
        if raw_path is not None and b"%" in raw_path:
            # No path of ours needs escapes; an escaped one is a second spelling of something.
            raise TransportError(400, "path is not canonical", "invalid_request")

    async def _awaited_body(
        self, asked: Asked, endpoint: Endpoint, whole: bytes | None, *, known: bool
    ) -> bytes:
        """The body when all of it is there, and there is time for one of its size."""
        # Of a chunked one nobody knows; it may become as large as is allowed.
        size = 0 if whole is not None else declared(asked) or endpoint.body_bytes_max
        counted = size if size > BODY_BYTES_FREE else 0
        sender = Body.KNOWN if known else Body.ANONYMOUS
        try:
            self.admission.keep_body(sender, counted)
        except Unavailable:
            asked.turn_away()
            raise
        try:
            if whole is None:
                whole = await read_body(endpoint, asked.receive)
            if len(whole) > LARGE_BODY_BYTES:
                await self.admission.begin_large(len(whole))
        finally:
            self.admission.drop_body(sender, counted)
        return whole

    async def _admit(
        self, asked: Asked, endpoint: Endpoint, draft: AuditDraft
    ) -> tuple[Actor, RealmCache] | None:
        """The caller by their bearer, charged and with the permission; None where none is asked for."""
        authorization = asked.headers.get(b"authorization")
        if not (endpoint.needs_bearer or (endpoint.any_caller and is_no_client(authorization))):
            if not (endpoint.unmetered or endpoint.proves_client):
                await asked.charge_address()
            return None
        admitted = await self._gate.authenticate(authorization)
        actor = admitted[0]
        draft.by(actor)
        asked.draft = draft
        await asked.charge_client(actor.realm_id, actor.client_id, actor.tier)
        self._require(actor, endpoint.permission)
        return admitted

    def _require(self, actor: Actor, permission: Permission | None) -> None:
        if permission is not None and not self._gate.permits(actor, permission):
            raise Forbidden(permission, hint=f"ask an administrator for {permission}")

    async def _options(self, asked: Asked) -> Answer:
        path, headers = asked.scope["path"], asked.headers
        methods = self._router.allowed(path)
        if not methods:
            self._router.find("OPTIONS", path)
        await asked.charge_address()
        allow = allow_header(methods)
        listed = allow.removeprefix(b"allow: ").rstrip()
        preflight = self._cors.preflight(headers.get(b"origin"), listed)
        return 204, errors.NO_STORE + errors.API + allow + preflight, b""


def create_app(
    endpoints: Sequence[Endpoint], services: Services, around: Around, *, cors_origins: Sequence[str] = ()
) -> App:
    """The application for these endpoints."""
    return App(endpoints, services, around, cors_origins=cors_origins)


def _named_realm(endpoint: Endpoint, call: Call[Any, Any]) -> str | None:
    if endpoint.realm_in_path:
        return call.path["realm_id"]
    named: str | None = (call.body if call.body is not None else call.query).realm_id
    return named


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
    exchange = exchange_of(scope)
    if exchange is not None:
        exchange.answer(status, lines, body)
        return
    headers = [tuple(line.split(b": ", 1)) for line in lines.split(b"\r\n") if line]
    if status != 204:
        headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
