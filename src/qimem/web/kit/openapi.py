"""The OpenAPI 3.1 document, made from the endpoint table.

What an operation can answer follows from the order of judgement (docs: the wire contract), so it is
derived here once from what an endpoint declares, never listed by hand beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, get_args

import msgspec

from qimem.kernel.limits import IDEMPOTENCY_KEY_CHARS_MAX, IDEMPOTENCY_SECONDS, REQUEST_ID_CHARS_MAX
from qimem.web.kit.endpoint import Endpoint
from qimem.web.kit.field_notes import PATH_PARAMETERS
from qimem.web.kit.schemas import Schema, component_schemas, query_parameters, summary_of
from qimem.wire.common import ErrorBody, NotReady

_MERGE_PATCH: Final = "application/merge-patch+json"

TITLE: Final = "QIMEM HTTP API"

TAGS: Final = {
    "keys": "Keys of a realm, and what is done with them. A `key_id` names one version; all versions of a "
    "key share the `lineage_id` and the optional `name`.",
    "realms": "Realms keep everything apart: keys, roles, clients and users. They are made and ended by who runs the "
    "platform.",
    "roles": "A role is a named list of permissions.",
    "clients": "Applications that ask for tokens.",
    "users": "People of a realm.",
    "me": "Whoever calls.",
    "authz": "Why somebody may do something, or may not.",
    "tokens": "Signing in, staying signed in, and ending it.",
    "signing-keys": "The keys that sign a realm's tokens: published before they sign, and as long as a token of theirs lives.",
    "audit": "What was done, by whom, to what: a record of each change and each use of a key, durable before its answer.",
    "security": "Health of the key service.",
    "system": "The server itself.",
}
"""Resource → what it is, in the order in which documentation shows them."""

DESCRIPTION: Final = (
    "JSON in, JSON out, UTF-8. Success is 200. Unknown fields of a request are refused, and `null` for an "
    "optional field means absent; answers may get further fields. UUIDs are read in any case, with or without "
    "hyphens. HEAD works wherever GET does. Every answer carries `X-Request-Id`: the one that was sent, if it "
    f"is 1 to {REQUEST_ID_CHARS_MAX} of `A-Za-z0-9._-`, otherwise a new one."
)

BEARER: Final = (
    "An access token of `POST /v1/auth/token`; on the server's machine `qimem token` prints the operator's. "
    "Each operation names the permission that its holder needs."
)

CLIENT: Final = "`client_id` and `client_secret`, each form-encoded first (RFC 6749 §2.3.1)."

# These answer from memory; nothing that they need can be unavailable.
_ALWAYS_SERVED: Final = frozenset({"system.root", "system.health", "system.openapi", "system.docs"})
_NOT_READY: Final = frozenset({"system.ready"})

_REFUSALS: Final = {
    "400": ("BadRequest", "Not JSON, a field that cannot be used (`fields` names it), or an object in no state for it"),
    "401": ("Unauthorized", "No token, or an expired, revoked or malformed one; wrong client credentials"),
    "403": ("Forbidden", "The caller lacks the permission; `permission` names it"),
    "404": ("NotFound", "No such object that this caller may know of"),
    "409": ("Conflict", "It exists already, a concurrent change won, or its state forbids it"),
    "412": ("PreconditionFailed", "It is not what `If-Match` names any more: somebody changed it meanwhile"),
    "413": ("ContentTooLarge", "The body is larger than this operation takes"),
    "415": ("UnsupportedMediaType", "The body is not `application/json`, or is compressed"),
    "422": ("IdempotencyMismatch", "The `Idempotency-Key` was used before with another body"),
    "428": ("PreconditionRequired", "`If-Match` is missing"),
    "429": ("TooManyRequests", "Too many requests, or too many attempts; `Retry-After` says how long to wait"),
    "500": ("InternalError", "A failure of the server; its log knows more under the request id"),
    "503": ("Unavailable", "It cannot serve now, or does not know whether the change happened; repeat later"),
    "default": ("InvalidRequest", "The HTTP request itself cannot be read: its framing, size or headers"),
}  # fmt: skip
"""Status → component of the refusal, and when it is given."""

_HEADERS: Final[dict[str, Schema]] = {
    "X-Request-Id": {
        "description": "The id under which the server's log knows this request",
        "schema": {"type": "string", "maxLength": REQUEST_ID_CHARS_MAX},
    },
    "Idempotency-Replayed": {
        "description": "Present when this is the answer of an earlier request with the same key",
        "schema": {"type": "string", "enum": ["true"]},
    },
    "ETag": {
        "description": "What this representation is; for `If-Match`",
        "required": True,
        "schema": {"type": "string"},
    },
    "X-RateLimit-Limit": {
        "description": "What the client, or without one the address, may ask for in a window",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    },
    "X-RateLimit-Remaining": {
        "description": "What is left of that after this request",
        "required": True,
        "schema": {"type": "integer", "minimum": 0},
    },
    "X-RateLimit-Reset": {
        "description": "Unix second at which the window ends",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    },
    "Retry-After": {
        "description": "Seconds to wait",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    },
    "WWW-Authenticate": {
        "description": "`Bearer`, with the reason where a token was sent",
        "required": True,
        "schema": {"type": "string"},
    },
}

_LIMITS: Final = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")

_IDEMPOTENCY_KEY: Final[Schema] = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "Makes a repetition safe: the same key from the same caller within "
    f"{IDEMPOTENCY_SECONDS // 3600} hours changes nothing again and gets the first answer. An answer that held "
    "a secret is not kept: its repetition is 409 `already_done`.",
    "schema": {"type": "string", "pattern": "^[!-~]+$", "maxLength": IDEMPOTENCY_KEY_CHARS_MAX},
}

_IF_MATCH: Final[Schema] = {
    "name": "If-Match",
    "in": "header",
    "required": True,
    "description": "The `ETag` of what the change is meant for, or `*` for whatever is there (RFC 9110 §13.1.1)",
    "schema": {"type": "string"},
    "example": "*",
}

_PATH_PARAMETER = re.compile(r"\{(\w+)\}")


def render(endpoints: Sequence[Endpoint], version: str) -> bytes:
    """The document as JSON.

    Args:
        endpoints: Every operation, in the order of the document.
        version: Of the product.
    """
    return msgspec.json.encode(describe(endpoints, version))


def describe(endpoints: Sequence[Endpoint], version: str) -> dict[str, Any]:
    """The document."""
    shapes = [shape for endpoint in endpoints for shape in (endpoint.request, endpoint.response) if shape]
    known, schemas = component_schemas([*shapes, ErrorBody, NotReady])
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, known)
    used = {_resource(endpoint) for endpoint in endpoints}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": TITLE,
            "version": version,
            "description": DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}],
        "tags": [{"name": name, "description": text} for name, text in TAGS.items() if name in used],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": BEARER},
                "client": {"type": "http", "scheme": "basic", "description": CLIENT},
            },
            "parameters": {"IdempotencyKey": _IDEMPOTENCY_KEY, "IfMatch": _IF_MATCH},
            "headers": _HEADERS,
            "responses": {name: _refusal(status, known) for status, (name, _) in _REFUSALS.items()},
            "schemas": schemas,
        },
    }


def _operation(endpoint: Endpoint, known: Mapping[Any, Schema]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "tags": [_resource(endpoint)],
        "operationId": endpoint.name,
        "summary": endpoint.summary,
        "description": summary_of(endpoint.handler),
    }
    if endpoint.any_caller:
        operation["security"] = [{"bearer": []}, {"client": []}, {}]
    elif not endpoint.needs_bearer:
        operation["security"] = []
    if endpoint.permission is not None:
        operation["x-permission"] = endpoint.permission.value
    parameters = list(_parameters(endpoint))
    if parameters:
        operation["parameters"] = parameters
    if endpoint.request is not None:
        media: dict[str, Any] = {"schema": known[endpoint.request]}
        if endpoint.example is not None:
            media["example"] = dict(endpoint.example)
        operation["requestBody"] = {
            "description": f"At most {endpoint.body_bytes_max:,} bytes",
            "required": not endpoint.optional_body,
            "content": {"application/json": media} | ({_MERGE_PATCH: media} if endpoint.merges else {}),
        }
    operation["responses"] = {"200": _success(endpoint, known)} | {
        status: {"$ref": f"#/components/responses/{_REFUSALS[status][0]}"}
        for status in [*sorted(_statuses(endpoint)), "default"]
    }
    if endpoint.name in _NOT_READY:
        operation["responses"]["503"] = _answer(
            "A check fails", {"schema": known[NotReady]}, "X-Request-Id", "Retry-After"
        )
    return operation


def _parameters(endpoint: Endpoint) -> Iterator[Schema]:
    for name in _PATH_PARAMETER.findall(endpoint.path):
        schema = {"type": "string"} | PATH_PARAMETERS.get(name, {})
        yield {"name": name, "in": "path", "required": True, **_with_description(schema)}
    if endpoint.query is not None:
        for name, schema in query_parameters(endpoint.query).items():
            yield {"name": name, "in": "query", **_with_description(schema)}
    if endpoint.idempotent:
        yield {"$ref": "#/components/parameters/IdempotencyKey"}
    if endpoint.merges:
        yield {"$ref": "#/components/parameters/IfMatch"}


def _with_description(schema: Schema) -> Schema:
    described = {"schema": {word: value for word, value in schema.items() if word != "description"}}
    return described | ({"description": schema["description"]} if "description" in schema else {})


def _statuses(endpoint: Endpoint) -> set[str]:
    """The refusals that this endpoint can give, in no order."""
    takes_body = endpoint.request is not None
    # Endpoints that take a secret from the body authenticate the client by it.
    takes_secret = takes_body and "client_secret" in endpoint.request.__struct_fields__  # type: ignore[union-attr]
    in_path = "{" in endpoint.path
    possible = {
        # A parameter of the path that would need escapes makes the path another spelling of something; and who is
        # known is told of a query that nobody reads.
        "400": takes_body or endpoint.query is not None or in_path or endpoint.needs_bearer,
        "401": endpoint.needs_bearer or takes_secret,
        "403": endpoint.permission is not None or endpoint.any_caller,
        "404": endpoint.names_realm or in_path,
        "409": endpoint.idempotent or endpoint.conflicts,
        "412": endpoint.merges,
        "413": takes_body,
        "415": takes_body,
        "422": endpoint.idempotent,
        "428": endpoint.merges,
        "429": not endpoint.unmetered,
        "500": True,
        "503": endpoint.name not in _ALWAYS_SERVED,
    }
    return {status for status, can in possible.items() if can}


def _success(endpoint: Endpoint, known: Mapping[Any, Schema]) -> Schema:
    headers = [
        "X-Request-Id",
        *([] if endpoint.unmetered else _LIMITS),
        *(["Idempotency-Replayed"] if endpoint.idempotent else []),
        *(["ETag"] if endpoint.versioned else []),
    ]
    if endpoint.response is str:
        return _answer("The page", {"schema": {"type": "string"}}, *headers, media_type="text/html")
    if endpoint.response is dict:
        return _answer("The document", {"schema": {"type": "object"}}, *headers)
    shapes = [endpoint.response] if endpoint.response in known else get_args(endpoint.response)
    arms = [known[shape] for shape in shapes]
    return _answer("Done", {"schema": arms[0] if len(arms) == 1 else {"anyOf": arms}}, *headers)


def _refusal(status: str, known: Mapping[Any, Schema]) -> Schema:
    more = {"401": ["WWW-Authenticate"], "429": ["Retry-After"], "503": ["Retry-After"]}.get(status, [])
    # 500 and 503 are also answers of what is not counted, and what cannot be read is not counted either.
    limits = [] if status in ("500", "503", "default") else _LIMITS
    return _answer(_REFUSALS[status][1], {"schema": known[ErrorBody]}, "X-Request-Id", *limits, *more)


def _answer(
    description: str, media: Schema, *headers: str, media_type: str = "application/json"
) -> dict[str, Any]:
    told = {name: {"$ref": f"#/components/headers/{name}"} for name in headers}
    return {"description": description, "headers": told, "content": {media_type: media}}


def _resource(endpoint: Endpoint) -> str:
    return endpoint.name.partition(".")[0]
