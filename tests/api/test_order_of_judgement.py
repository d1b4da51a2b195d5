"""A request with several faults is answered for the first of them in the order of the contract."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import combinations

import pytest

from qimem.kernel.limits import BODY_BYTES_MAX
from tests.api.raw import Answer, Raw
from tests.support.api import Person, World
from tests.support.server import Server, ok

ORDER = {
    "framing": (400, "invalid_request"),
    "path": (404, "not_found"),
    "method": (405, "method_not_allowed"),
    "repeated header": (400, "invalid_request"),
    "length": (413, "payload_too_large"),
    "token": (401, "unauthenticated"),
    "permission": (403, "permission_denied"),
    "encoding": (415, "unsupported_media_type"),
    "media type": (415, "unsupported_media_type"),
    "body": (400, "invalid_field"),
    "realm": (404, "realm_not_found"),
    "object": (404, "key_not_found"),
}
"""Fault → its answer, in the order of judgement."""

PAIRS = [pair for pair in combinations(ORDER, 2) if pair != ("token", "permission")]


@dataclass(frozen=True)
class Callers:
    """Who asks: one with all rights in the realm, one without the right, and a key of the realm."""

    able: Person
    unable: Person
    key_id: str


@pytest.fixture(scope="module")
def callers(world: World) -> Callers:
    able = world.person()
    unable = world.person("keys:read", realm_id=able.realm_id)
    return Callers(able, unable, ok(able.post("/v1/security/keys", {}))["key_id"])


def send(server: Server, callers: Callers, faults: set[str]) -> Answer:
    """Rotate a key, with these faults in the request."""
    body = {"lineage_id": "00000000-0000-4000-8000-000000000000" if "object" in faults else callers.key_id}
    body |= {"realm_id": "system"} if "realm" in faults else {}
    body |= {"nonsense": 1} if "body" in faults else {}
    content = json.dumps(body).encode()
    token = (callers.unable if "permission" in faults else callers.able).access_token
    method = "DELETE" if "method" in faults else "POST"
    lines = [
        f"{method} /v1/security/{'nothing' if 'path' in faults else 'rotate'} HTTP/1.1",
        "Host: a.example",
        *(["Host: a.example"] if "framing" in faults else []),
        *(["Idempotency-Key: a", "Idempotency-Key: b"] if "repeated header" in faults else []),
        *([] if "token" in faults else [f"Authorization: Bearer {token}"]),
        *(["Content-Encoding: gzip"] if "encoding" in faults else []),
        f"Content-Type: {'text/plain' if 'media type' in faults else 'application/json'}",
        f"Content-Length: {BODY_BYTES_MAX + 1 if 'length' in faults else len(content)}",
    ]
    with Raw(server.url) as connection:
        connection.send("\r\n".join([*lines, "", ""]).encode() + content)
        return connection.answer()


def test_a_request_without_a_fault_is_served(sqlite_server: Server, callers: Callers) -> None:
    assert send(sqlite_server, callers, set()).status == 200


@pytest.mark.parametrize("fault", ORDER)
def test_each_fault_has_its_answer(sqlite_server: Server, callers: Callers, fault: str) -> None:
    answer = send(sqlite_server, callers, {fault})
    assert (answer.status, answer.json["code"]) == ORDER[fault]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_of_two_faults_the_first_is_answered(
    sqlite_server: Server, callers: Callers, first: str, second: str
) -> None:
    answer = send(sqlite_server, callers, {first, second})
    assert (answer.status, answer.json["code"]) == ORDER[first]


@pytest.mark.parametrize("first", ORDER)
def test_of_all_faults_from_one_on_that_one_is_answered(
    sqlite_server: Server, callers: Callers, first: str
) -> None:
    names = list(ORDER)
    answer = send(sqlite_server, callers, set(names[names.index(first) :]))
    assert (answer.status, answer.json["code"]) == ORDER[first]
