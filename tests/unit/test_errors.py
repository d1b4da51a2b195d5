"""Every error has its HTTP status and exit code, and no secret can stand in its text."""

from __future__ import annotations

import ast
import builtins
import json
import re
from collections.abc import Iterator

import click
import pytest

from qimem import errors
from qimem.cli.output import ServerRefused, Unreachable, exit_code
from qimem.errors import (
    Conflict,
    Forbidden,
    Internal,
    Invalid,
    InvalidFields,
    Kind,
    Limited,
    Mismatch,
    NotFound,
    PreconditionFailed,
    QimemError,
    Unauthenticated,
    Unavailable,
    outcome_unknown,
    realm_not_found,
    storage_unavailable,
)
from qimem.kernel.refusal import Refused
from qimem.kernel.secret import SecretBytes, SecretText
from qimem.web.kit.errors import STATUS, TransportError, body_of, encode, headers_of, item_error, status_of
from tests.architecture.sources import Module, modules

OUTSIDE = {
    Kind.INVALID: (400, 2),
    Kind.UNAUTHENTICATED: (401, 4),
    Kind.FORBIDDEN: (403, 5),
    Kind.NOT_FOUND: (404, 6),
    Kind.CONFLICT: (409, 7),
    Kind.PRECONDITION: (412, 7),
    Kind.MISMATCH: (422, 2),
    Kind.LIMITED: (429, 8),
    Kind.UNAVAILABLE: (503, 9),
    Kind.INTERNAL: (500, 70),
}
"""Kind → HTTP status and exit code, as the contract and the command's help promise them."""

SAMPLES: dict[type[QimemError], QimemError] = {
    QimemError: QimemError("text"),
    Invalid: Invalid("text"),
    InvalidFields: InvalidFields({"/name": "taken", "/limit": "too large"}),
    Unauthenticated: Unauthenticated("text"),
    Forbidden: Forbidden("keys:read", resource="lineage x"),
    NotFound: NotFound("text"),
    Conflict: Conflict("text", object_id="x"),
    PreconditionFailed: PreconditionFailed("text"),
    Mismatch: Mismatch("text"),
    Limited: Limited("text", retry_after_seconds=7),
    Unavailable: Unavailable("text"),
    Internal: Internal(),
}

SECRET = "correct horse battery staple"


def every_class(root: type[QimemError] = QimemError) -> Iterator[type[QimemError]]:
    yield root
    for child in root.__subclasses__():
        yield from every_class(child)


each_class = pytest.mark.parametrize("kind_of_error", list(every_class()), ids=lambda found: found.__name__)


def test_every_kind_has_a_status_and_an_exit_code() -> None:
    assert set(OUTSIDE) == set(Kind) == set(STATUS)
    assert {error.kind for error in SAMPLES.values()} == set(Kind)


@each_class
def test_every_class_is_answered_and_exits_as_promised(kind_of_error: type[QimemError]) -> None:
    error = SAMPLES[kind_of_error]
    status, code = OUTSIDE[kind_of_error.kind]
    assert type(error) is kind_of_error
    assert (status_of(error), exit_code(error)) == (status, code)


@each_class
def test_an_error_of_a_server_exits_as_the_same_error_does_here(kind_of_error: type[QimemError]) -> None:
    error = SAMPLES[kind_of_error]
    assert exit_code(ServerRefused(status_of(error), {})) == exit_code(error)


@pytest.mark.parametrize(
    ("status", "code"),
    [(405, 2), (413, 2), (415, 2), (418, 2), (412, 7), (428, 7), (502, 9), (504, 9), (599, 9)],
)
def test_statuses_that_only_http_knows_have_an_exit_code(status: int, code: int) -> None:
    assert exit_code(ServerRefused(status, {})) == code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Refused("not like this"), 78),
        (Unreachable(), 3),
        (click.UsageError("what?"), 2),
        (ZeroDivisionError(), 70),
        (KeyError("x"), 70),
        (OSError("x"), 70),
    ],
)
def test_what_is_no_error_of_ours_has_an_exit_code(error: Exception, code: int) -> None:
    assert exit_code(error) == code


@each_class
def test_every_class_has_a_body_with_text_code_and_request_id(kind_of_error: type[QimemError]) -> None:
    error = SAMPLES[kind_of_error]
    body = json.loads(encode(body_of(error, "r-1")))
    assert (body["error"], body["code"], body["request_id"]) == (error.message, error.code, "r-1")
    assert body["error"] == str(error) != ""
    assert re.fullmatch(r"[a-z][a-z_]*", body["code"])
    assert set(body) <= {
        "error", "code", "request_id", "hint", "fields", "permission", "resource", "object_id",
    }  # fmt: skip
    assert item_error(error).code == error.code


@each_class
def test_headers_tell_how_to_go_on(kind_of_error: type[QimemError]) -> None:
    error = SAMPLES[kind_of_error]
    lines = headers_of(error)
    assert (b"www-authenticate: Bearer" in lines) is (status_of(error) == 401)
    waits = re.findall(rb"^retry-after: ([1-9]\d*)\r\n", lines, re.MULTILINE)
    assert len(waits) == (status_of(error) in {429, 503})


def test_what_helps_stands_in_the_body() -> None:
    assert body_of(SAMPLES[InvalidFields], "r").fields == {"/name": "taken", "/limit": "too large"}
    forbidden = body_of(SAMPLES[Forbidden], "r")
    assert (forbidden.permission, forbidden.resource) == ("keys:read", "lineage x")
    assert body_of(SAMPLES[Conflict], "r").object_id == "x"
    assert body_of(NotFound("text", hint="look there"), "r").hint == "look there"


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (outcome_unknown(), Kind.UNAVAILABLE, "outcome_unknown"),
        (storage_unavailable(), Kind.UNAVAILABLE, "storage_unavailable"),
        (realm_not_found("acme"), Kind.NOT_FOUND, "realm_not_found"),
        (Internal(), Kind.INTERNAL, "internal"),
    ],
)
def test_errors_that_are_made_in_many_places_are_made_alike(error: QimemError, kind: Kind, code: str) -> None:
    assert (error.kind, error.code) == (kind, code)


def test_a_cause_stays_out_of_the_answer() -> None:
    with pytest.raises(QimemError) as caught:
        raise storage_unavailable() from ValueError(SECRET)
    assert SECRET.encode() not in encode(body_of(caught.value, "r"))


@pytest.mark.parametrize("secret", [SecretText(SECRET), SecretBytes(SECRET.encode())], ids=["text", "bytes"])
@each_class
def test_a_secret_that_is_put_into_a_text_does_not_stand_there(
    kind_of_error: type[QimemError], secret: SecretText | SecretBytes
) -> None:
    text = f"{secret} {secret!s} {secret!r} {secret:>60} %s %r {{}}".format(secret) % (secret, secret)
    made = {
        InvalidFields: lambda: InvalidFields({f"/{secret}": text}, hint=text),
        Forbidden: lambda: Forbidden(text, resource=text, hint=text),
        Limited: lambda: Limited(text, retry_after_seconds=1),
        Internal: Internal,
    }.get(kind_of_error, lambda: kind_of_error(text, hint=text))()
    body = encode(body_of(made, "r"))
    assert b"correct" not in body
    assert "correct" not in repr(made)


# What must not be put into an error's text where it is made: a revealed secret, something whose name
# says that it is one, and the text of somebody else's exception, which repeats the values it was given.
_SECRET_WORDS = {
    "authorization", "bearer", "credential", "input", "jwk", "material", "passphrase", "password", "pepper",
    "plaintext", "private", "secret", "token", "totp", "wrapped",
}  # fmt: skip
_TELLS_NO_SECRET = re.compile(r"_(file|id|name|type|max)$", re.IGNORECASE)
_MADE = {name for name, found in vars(errors).items() if isinstance(found, type)} | {
    "Refused",
    "TransportError",
}


def told(module: Module) -> Iterator[str]:
    """What errors are made with that must not be told."""
    caught = {
        node.name for node in ast.walk(module.tree) if isinstance(node, ast.ExceptHandler) and node.name
    }
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in _MADE:
            for inner in ast.walk(node):
                yield from (f"{module.path}:{node.lineno}: {fault}" for fault in _faults(inner, caught))


def _faults(node: ast.AST, caught: set[str]) -> Iterator[str]:
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".reveal"):
        yield f"reveals {ast.unparse(node)}"
    if isinstance(node, ast.FormattedValue):
        shown = node.value
        if isinstance(shown, ast.Name) and shown.id in caught:
            yield f"tells the text of {shown.id}"
        for name in re.findall(r"\w+", ast.unparse(shown)):
            if _SECRET_WORDS & set(name.lower().split("_")) and not _TELLS_NO_SECRET.search(name):
                yield f"tells {name}"


def test_no_error_is_made_with_a_secret() -> None:
    assert [fault for module in modules() for fault in told(module)] == []


@pytest.mark.parametrize(
    "line",
    [
        'raise Invalid(f"wrong: {password}")',
        'raise Invalid("wrong: " + secret.reveal())',
        'raise errors.NotFound(f"no {client_secret!r}", hint="look")',
        'raise Conflict("x", object_id=token.reveal())',
        'raise InvalidFields({"/totp_secret": f"not base32: {totp_secret}"})',
        'raise Refused("x", f"use {root_key.reveal()}")',
        'raise TransportError(400, f"bad {authorization}", "x")',
        'def f():\n  try: g()\n  except ValueError as error: raise Invalid(f"bad: {error}")',
    ],
)
def test_a_planted_secret_is_found(line: str) -> None:
    assert len(list(told(Module("qimem/kms/a.py", line)))) >= 1


@pytest.mark.parametrize(
    "line",
    [
        'raise Invalid(f"key is inactive: {version.key_id}")',
        'raise Refused(f"cannot read {password_file}: {error.strerror}")',
        'raise NotFound("no token") from error',
        'log(f"{password}")',
    ],
)
def test_what_tells_nothing_is_allowed(line: str) -> None:
    assert list(told(Module("qimem/kms/a.py", line))) == []


def test_no_error_of_ours_hides_behind_one_of_the_language() -> None:
    assert not {found.__name__ for found in [*every_class(), TransportError, Refused]} & set(dir(builtins))
