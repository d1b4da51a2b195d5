"""One id finds a request everywhere: in its answer, in the server's log and in the audit record."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from qimem.observability.logging import configure
from tests.api.edge import Edge, only
from tests.api.raw import Raw, get, post


@pytest.fixture
def logged(capfd: pytest.CaptureFixture[str]) -> Iterator[Any]:
    handlers, level = logging.getLogger().handlers, logging.getLogger().level
    configure(level="info", format="json")
    yield lambda: [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    structlog.reset_defaults()
    logging.getLogger().handlers, _ = handlers, logging.getLogger().setLevel(level)


@pytest.mark.parametrize("given", [None, "client-made-17"])
def test_a_failure_is_logged_under_the_id_of_its_answer(logged: Any, given: str | None) -> None:
    more = ["Authorization: Bearer good", *([f"X-Request-Id: {given}"] if given else [])]
    with Edge(only()) as edge, Raw(edge.url) as client:
        client.send(get("/v1/broken", *more))
        answer = client.answer()
    assert answer.status == 500
    told = answer.header("x-request-id")
    assert given in (None, told)
    (line,) = [line for line in logged() if line["event"] == "unexpected error"]
    assert line["request_id"] == answer.json["request_id"] == told
    assert "passwd" not in json.dumps(line)


def test_failures_of_several_requests_keep_their_ids_apart(logged: Any) -> None:
    with Edge(only()) as edge, Raw(edge.url) as client:
        for number in range(5):
            client.send(get("/v1/broken", "Authorization: Bearer good", f"X-Request-Id: r-{number}"))
        assert [client.answer().header("x-request-id") for _ in range(5)] == [f"r-{n}" for n in range(5)]
    assert [line["request_id"] for line in logged()] == [f"r-{n}" for n in range(5)]


def test_the_audit_record_has_the_id_of_the_answer() -> None:
    with Edge(only()) as edge, Raw(edge.url) as client:
        client.send(post("/v1/recorded", b'{"text":"x"}', "Authorization: Bearer good", "X-Request-Id: r-9"))
        assert client.answer().header("x-request-id") == "r-9"
    ((draft, outcome),) = edge.recorder.records
    assert (draft.request_id, outcome) == ("r-9", "ok")


@pytest.mark.parametrize("forged", ["a b", 'x"y', "x" * 129, "x\ty", "ä"])
def test_an_id_that_could_forge_a_line_is_replaced(logged: Any, forged: str) -> None:
    with Edge(only()) as edge, Raw(edge.url) as client:
        client.send(get("/v1/broken", "Authorization: Bearer good", f"X-Request-Id: {forged}"))
        answer = client.answer()
    told = answer.header("x-request-id")
    assert told not in (None, forged)
    assert [line["request_id"] for line in logged()] == [told]
