"""How large a body may be, and that whatever was encrypted can be decrypted again."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.api import Person, World
from tests.support.kms import DECRYPT, ENCRYPT, KEYS, ROTATE, new_key
from tests.support.server import ok, refused

LIMIT = 4 * 1024 * 1024
DECRYPT_LIMIT = 6 * 1024 * 1024
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def key(admin: Person) -> dict[str, Any]:
    return new_key(admin, name="large")


def filled(template: str, size: int, filling: str = "x") -> bytes:
    """A body of exactly this size, filled where the template has a `*`."""
    return template.replace("*", filling * (size - len(template) + 1)).encode()


def in_chunks(body: bytes) -> Iterator[bytes]:
    """The body without its length told in advance."""
    for start in range(0, len(body), 256 * 1024):
        yield body[start : start + 256 * 1024]


def post(client: httpx.Client, path: str, content: Any) -> httpx.Response:
    return client.post(path, content=content, headers=JSON)


def test_the_largest_plaintext_decrypts_again(admin: Person, key: dict[str, Any]) -> None:
    body = filled('{"name":"large","input":"*"}', LIMIT)
    assert len(body) == LIMIT
    envelope = ok(post(admin.http, ENCRYPT, body))["envelope"]
    opened = ok(admin.post(DECRYPT, {"envelope": envelope, "name": "large", "encoding": "text"}))
    assert opened["plaintext"] == json.loads(body)["input"]


def test_the_largest_plaintext_decrypts_again_in_base64(admin: Person, key: dict[str, Any]) -> None:
    envelope = ok(post(admin.http, ENCRYPT, filled('{"name":"large","input":"*"}', LIMIT)))["envelope"]
    opened = ok(admin.post(DECRYPT, {"input": envelope, "encoding": "base64"}))
    assert set(base64.b64decode(opened["plaintext_b64"])) == {ord("x")}


def test_the_largest_batch_decrypts_again(admin: Person, key: dict[str, Any]) -> None:
    each = (LIMIT - len('{"name":"large","items":[]}')) // 1000 - len('{"input":""},')
    body = json.dumps(
        {"name": "large", "items": [{"input": "y" * each}] * 1000}, separators=(",", ":")
    ).encode()
    assert LIMIT - 1000 <= len(body) <= LIMIT
    sealed = ok(post(admin.http, ENCRYPT, body))["items"]
    opened = ok(admin.post(DECRYPT, {"items": [{"envelope": item["envelope"]} for item in sealed]}))["items"]
    assert {item["plaintext"] for item in opened} == {"y" * each}
    assert len(opened) == 1000


@pytest.mark.parametrize(
    ("path", "template", "limit"),
    [
        (ENCRYPT, '{"name":"large","input":"*"}', LIMIT),
        (DECRYPT, '{"input":"*"}', DECRYPT_LIMIT),
        (ROTATE, '{"name":"*"}', LIMIT),
        (KEYS, '{"name":"*"}', LIMIT),
    ],
)
@pytest.mark.parametrize("sent", ["declared", "in chunks"])
def test_one_byte_more_than_the_limit_is_too_large(
    admin: Person, key: dict[str, Any], path: str, template: str, limit: int, sent: str
) -> None:
    for size, too_large in ((limit, False), (limit + 1, True)):
        body = filled(template, size)
        answer = post(admin.http, path, body if sent == "declared" else in_chunks(body))
        assert (answer.status_code == 413) is too_large
    assert refused(answer, 413, "payload_too_large")["error"] == f"body larger than {limit} bytes"


def test_a_large_body_may_arrive_together_with_its_head(world: World) -> None:
    body = b" " * LIMIT
    head = f"POST {ENCRYPT} HTTP/1.1\r\nHost: x\r\nContent-Length: {LIMIT}\r\nContent-Type: application/json\r\n\r\n"
    address = httpx.URL(world.server.url)
    with socket.create_connection((address.host, address.port), timeout=10) as connection:
        connection.sendall(head.encode() + body)
        assert connection.recv(100).startswith(b"HTTP/1.1 401 ")


def test_the_declared_length_is_judged_before_the_token(world: World) -> None:
    refused(post(world.anonymous(), ENCRYPT, b" " * (LIMIT + 1)), 413, "payload_too_large")
    refused(post(world.anonymous(), ENCRYPT, b" " * LIMIT), 401, "unauthenticated")


def test_a_body_that_is_too_large_encrypts_nothing_and_the_connection_goes_on(
    admin: Person, key: dict[str, Any]
) -> None:
    refused(
        post(admin.http, ENCRYPT, filled('{"name":"large","input":"*"}', LIMIT + 1)), 413, "payload_too_large"
    )
    assert ok(admin.post(ENCRYPT, {"name": "large", "input": "x"}))["version"] == 1
