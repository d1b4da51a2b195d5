"""JSON that is valid and unreasonable: numbers beyond every range, text and objects beyond every need.

In every field of every operation that takes a body. What cannot be read at all is in `test_error_shape`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from qimem.bootstrap.serving import ENDPOINTS
from qimem.web.kit.endpoint import Endpoint
from tests.api.examples import JSON, Stage, stage
from tests.support.api import World
from tests.support.paths import filled
from tests.support.server import refused

LONG = '"' + "a" * (64 * 1024 + 1) + '"'
UNREASONABLE = {
    "2^63": str(2**63),
    "2^64": str(2**64),
    "below -2^63": str(-(2**63) - 1),
    "5,000 digits": "9" * 5_000,
    "1e400": "1e400",
    "-1e400": "-1e400",
    "1e-400": "1e-400",
    "a long text": LONG,
    "1,001 keys": json.dumps({f"k{number}": 1 for number in range(1_001)}),
    "1,001 items": json.dumps(["a"] * 1_001),
    "20 long texts": "[" + ",".join([LONG] * 20) + "]",
}
TAKEN_AT_ANY_LENGTH = {("keys.encrypt", "input"), ("tokens.revoke", "token")}
"""A plaintext may be as long as a body; and whatever is no token is revoked already."""

WRITES = [endpoint for endpoint in ENDPOINTS if endpoint.request is not None]


@pytest.fixture(scope="module")
def place(world: World) -> Stage:
    return stage(world)


def fields() -> Iterator[tuple[Endpoint, str]]:
    for endpoint in WRITES:
        assert endpoint.request is not None
        for name in endpoint.request.__struct_fields__:
            yield endpoint, name


def label(value: object) -> str | None:
    return value.name if isinstance(value, Endpoint) else None


def with_field(endpoint: Endpoint, name: str, text: str) -> bytes:
    """The example with this text of JSON as the value of a field."""
    body: dict[str, Any] = dict(endpoint.example or {}) | {name: "\ue000"}
    return json.dumps(body).replace('"\\ue000"', text).encode()


def send(place: Stage, endpoint: Endpoint, content: bytes) -> httpx.Response:
    return place.call(endpoint, path=filled(endpoint.path), content=content, headers={"Content-Type": JSON})


@pytest.mark.parametrize(("endpoint", "name"), [*fields()], ids=label)
def test_an_unreasonable_value_is_refused_in_every_field(place: Stage, endpoint: Endpoint, name: str) -> None:
    for kind, text in UNREASONABLE.items():
        content = with_field(endpoint, name, text)
        answer = send(place, endpoint, content)
        if kind == "a long text" and (endpoint.name, name) in TAKEN_AT_ANY_LENGTH:
            assert answer.status_code in {200, 404}, (kind, answer.text)
            continue
        # 409: who calls has no second factor to prove or to confirm.
        assert answer.status_code in {400, 401, 403, 404, 409}, (kind, answer.text)
        assert len(answer.content) < 2_000, kind


@pytest.mark.parametrize("endpoint", WRITES, ids=label)
def test_more_than_a_thousand_fields_are_refused(place: Stage, endpoint: Endpoint) -> None:
    content = json.dumps({f"k{number}": 1 for number in range(1_001)}).encode()
    refused(send(place, endpoint, content), 400, "invalid_field")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
@pytest.mark.parametrize("endpoint", WRITES, ids=label)
def test_a_body_in_another_encoding_is_refused(place: Stage, endpoint: Endpoint, encoding: str) -> None:
    content = json.dumps(dict(endpoint.example or {})).encode(encoding)
    refused(send(place, endpoint, content), 400, "invalid_json")
