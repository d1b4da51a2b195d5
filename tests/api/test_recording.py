"""Nothing is answered before it is recorded, and what waits for its record holds up nobody else."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from qimem.errors import audit_unavailable, outcome_unknown, storage_unavailable
from qimem.kernel.metering import Charge
from tests.api.edge import Edge, only
from tests.api.raw import Raw, get, post
from tests.support.processes import eventually

TOKEN = "Authorization: Bearer good"


@pytest.fixture
def edge() -> Iterator[Edge]:
    with Edge(only()) as edge:
        yield edge


def recorded(word: str) -> bytes:
    return post("/v1/recorded", b'{"text":"%s"}' % word.encode(), TOKEN)


def hold(edge: Edge) -> None:
    edge.call(lambda: setattr(edge.recorder, "held", []))


def let_go(edge: Edge, error: object = None) -> None:
    def release() -> None:
        held, edge.recorder.held = edge.recorder.held or [], None
        for done in held:
            done(error)  # type: ignore[arg-type]

    edge.call(release)


def test_the_answer_waits_for_the_record(edge: Edge) -> None:
    hold(edge)
    with Raw(edge.url, seconds=0.3) as client:
        client.send(recorded("one"))
        with pytest.raises(TimeoutError):
            client.answer()
        client.socket.settimeout(5)
        assert edge.served == ["one"]
        let_go(edge)
        assert client.answer().json == {"status": "one"}


@pytest.mark.parametrize("error", [audit_unavailable(), outcome_unknown()], ids=lambda error: error.code)
def test_what_could_not_be_recorded_is_not_given_away(edge: Edge, error: object) -> None:
    hold(edge)
    with Raw(edge.url) as client:
        client.send(recorded("secret"))
        eventually(lambda: len(edge.recorder.held or []) == 1)
        let_go(edge, error)
        answer = client.answer()
    assert (answer.status, answer.json["code"]) == (503, error.code)  # type: ignore[attr-defined]
    assert answer.header("retry-after") == "1"
    assert answer.header("x-request-id") == answer.json["request_id"]
    assert b"secret" not in answer.body


def test_what_is_done_is_not_said_to_have_changed_nothing(edge: Edge) -> None:
    with Raw(edge.url) as client:
        client.send(post("/v1/done", b'{"text":"unavailable"}', TOKEN))
        answer = client.answer()
        assert (answer.status, answer.json["code"]) == (503, "outcome_unknown")
        assert answer.header("retry-after") == "1"
        # Of another refusal the effect is a part: a grant that ended because its token was a copy.
        client.send(post("/v1/done", b'{"text":"conflict"}', TOKEN))
        assert client.answer().json["code"] == "conflict"
    assert [outcome for _, outcome in edge.recorder.records] == ["storage_unavailable", "conflict"]


def test_what_cannot_be_recorded_is_not_begun(edge: Edge) -> None:
    edge.recorder.broken = audit_unavailable()
    with Raw(edge.url) as client:
        client.send(recorded("one"))
        assert client.answer().json["code"] == "audit_unavailable"
        client.send(post("/v1/echo", b'{"text":"public"}'))
        assert client.answer().status == 200
    assert edge.served == ["public"]


def test_requests_behind_one_another_are_answered_in_order(edge: Edge) -> None:
    hold(edge)
    with Raw(edge.url) as client:
        client.send(recorded("one") + post("/v1/echo", b'{"text":"two"}') + recorded("three"))
        time.sleep(0.1)
        assert edge.served == ["one"]
        let_go(edge)
        assert [client.answer().json["status"] for _ in range(3)] == ["one", "two", "three"]


def test_other_connections_go_on(edge: Edge) -> None:
    hold(edge)
    with Raw(edge.url) as waiting, Raw(edge.url) as other:
        waiting.send(recorded("one"))
        other.send(get("/health"))
        assert other.answer().status == 200
        let_go(edge)
        assert waiting.answer().status == 200


def test_a_client_that_leaves_meanwhile_harms_nobody(edge: Edge) -> None:
    hold(edge)
    with Raw(edge.url) as client:
        client.send(recorded("one"))
        eventually(lambda: len(edge.recorder.held or []) == 1)
    time.sleep(0.1)
    let_go(edge)
    with Raw(edge.url) as client:
        client.send(recorded("two"))
        assert client.answer().status == 200
    assert [outcome for _, outcome in edge.recorder.records] == ["ok", "ok"]


def test_the_drain_waits_for_the_record(edge: Edge) -> None:
    hold(edge)
    with Raw(edge.url) as client:
        client.send(recorded("one"))
        eventually(lambda: len(edge.recorder.held or []) == 1)
        edge.server.should_exit = True
        time.sleep(0.3)
        assert edge.alive
        let_go(edge)
        answer = client.answer()
    assert (answer.status, answer.closes) == (200, True)


@pytest.mark.parametrize(
    ("request_bytes", "outcome"),
    [
        (recorded("ok"), "ok"),
        (post("/v1/recorded", b'{"text":1}', TOKEN), "invalid_field"),
        (post("/v1/recorded", b"{", TOKEN), "invalid_json"),
        (
            post("/v1/recorded", b"{}", TOKEN).replace(b"application/json", b"text/plain"),
            "unsupported_media_type",
        ),
    ],
)
def test_the_record_has_the_code_that_is_answered(edge: Edge, request_bytes: bytes, outcome: str) -> None:
    with Raw(edge.url) as client:
        client.send(request_bytes)
        answer = client.answer()
    ((draft, recorded_as),) = edge.recorder.records
    assert (draft.event, recorded_as) == ("edge.recorded", outcome)
    assert draft.request_id == answer.header("x-request-id")


def test_a_stranger_is_counted_and_not_recorded(edge: Edge) -> None:
    with Raw(edge.url) as client:
        client.send(post("/v1/recorded", b"{}"))
        assert client.answer().status == 401
    assert edge.recorder.records == []
    ((address, event, _),) = edge.recorder.refusals
    assert (address, event) == ("127.0.0.1", "edge.recorded")


def test_what_nobody_records_has_no_record(edge: Edge) -> None:
    with Raw(edge.url) as client:
        for request in (get("/health"), get("/none"), get("/v1/broken"), get("/v1/address", TOKEN)):
            client.send(request)
            client.answer()
    assert (edge.recorder.records, edge.recorder.refusals) == ([], [])


class NothingLeft:
    """Limits of which everything is used up."""

    async def charge_client(self, *_: object) -> Charge:
        return Charge(False, 5, 0, 100, 7)

    async def charge_address(self, *_: object) -> Charge:
        return Charge(False, 5, 0, 100, 7)


@pytest.mark.parametrize("token", [TOKEN, ""], ids=["a client", "a stranger"])
def test_who_asks_too_much_is_counted_and_not_recorded(edge: Edge, token: str) -> None:
    edge.app._limits = NothingLeft()
    with Raw(edge.url) as client:
        client.send(post("/v1/recorded", b'{"text":"one"}', *([token] if token else [])))
        answer = client.answer()
    assert (answer.status, answer.json["code"]) == (429, "rate_limited")
    assert [pair for pair in answer.headers if "rate" in pair[0] or "retry" in pair[0]] == [
        ("retry-after", "7"), ("x-ratelimit-limit", "5"), ("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "100"),
    ]  # fmt: skip
    assert edge.served == []
    assert edge.recorder.records == []
    assert edge.recorder.refusals == [("127.0.0.1", "edge.recorded", "rate_limited")]


def test_our_own_failure_is_told_also_to_who_has_nothing_left(edge: Edge) -> None:
    edge.app._limits = NothingLeft()
    edge.app._gate.authenticate = _away  # type: ignore[method-assign]
    with Raw(edge.url) as client:
        client.send(recorded("one"))
        answer = client.answer()
    assert (answer.status, answer.json["code"]) == (503, "storage_unavailable")
    assert answer.header("x-ratelimit-remaining") == "0"


async def _away(authorization: bytes | None) -> None:
    raise storage_unavailable()
