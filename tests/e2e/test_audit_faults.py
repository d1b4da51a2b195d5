"""The log's disk is full, hangs, or its process is gone: no change, no key use, no secret; the rest goes on."""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Callable, Iterator

import httpx
import psutil
import pytest

from tests.support.api import PASSWORD, World
from tests.support.audit_log import faults, logged
from tests.support.load import DATABASES, new_server
from tests.support.processes import alive, eventually
from tests.support.server import Server, ok

KEYS, ENCRYPT, DECRYPT = "/v1/security/keys", "/v1/security/encrypt", "/v1/security/decrypt"
Fault = Callable[[psutil.Process], contextlib.AbstractContextManager[None]]
ANSWERED_SECONDS = 1.5
"""Promised is one; the rest is for a machine that is shared with other tests."""


@contextlib.contextmanager
def full(disk: psutil.Process) -> Iterator[None]:
    disk.rlimit(psutil.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
    yield
    disk.rlimit(psutil.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@contextlib.contextmanager
def hanging(disk: psutil.Process) -> Iterator[None]:
    disk.suspend()
    yield
    disk.resume()


def disk_of(server: Server) -> psutil.Process:
    """The process that writes the log of a server with one worker."""
    assert server.process is not None
    # One that was killed a moment ago can be a zombie until the next one is started.
    (disk,) = [child for child in psutil.Process(server.process.pid).children() if alive(child.pid)]
    assert "qimem.audit.disk" in disk.cmdline()
    return disk


@pytest.fixture(params=DATABASES)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    server = new_server(request, tmp_path_factory.mktemp("faults"), request.param)
    server.workers = 1
    server.start()
    world = World(server)
    yield world
    world.close()
    server.stop()


def timed(call: Callable[[], httpx.Response]) -> httpx.Response:
    begun = time.monotonic()
    answer = call()
    assert time.monotonic() - begun < ANSWERED_SECONDS, answer.text
    return answer


def recorded_calls(world: World, name: str, envelope: str) -> list[Callable[[], httpx.Response]]:
    post = world.operator.post
    user = {"realm_id": "system", "username": name, "password": PASSWORD, "roles": []}
    return [
        lambda: post(ENCRYPT, json={"name": "k", "input": "a plaintext"}),
        lambda: post(DECRYPT, json={"input": envelope}),
        lambda: post(KEYS, json={"name": name}),
        lambda: post("/v1/security/rotate", json={"name": "k"}),
        lambda: post("/v1/auth/users", json=user),
    ]


@pytest.mark.parametrize("fault", [full, hanging])
def test_nothing_is_done_that_cannot_be_recorded_and_the_rest_goes_on(place: World, fault: Fault) -> None:
    world, get = place, place.operator.get
    ok(world.operator.post(KEYS, json={"name": "k"}))
    envelope = ok(world.operator.post(ENCRYPT, json={"name": "k", "input": "a plaintext"}))["envelope"]
    pids = {disk_of(world.server).pid}
    with fault(disk_of(world.server)):
        for number in range(2):
            for call in recorded_calls(world, f"n{number}", envelope):
                answer = timed(call)
                assert answer.status_code == 503, answer.text
                assert answer.json()["code"] in {"audit_unavailable", "outcome_unknown"}
                assert int(answer.headers["retry-after"]) >= 1
                assert "a plaintext" not in answer.text
        for path in ("/health", "/realms/system/jwks", "/v1/openapi.json", KEYS):
            assert timed(lambda path=path: get(path)).status_code == 200  # type: ignore[misc]
        ready = timed(lambda: get("/ready"))
        assert (ready.status_code, set(ready.json()["checks"])) == (503, {"audit"})
    eventually(lambda: get("/ready").status_code == 200, seconds=5)
    for number, call in enumerate(recorded_calls(world, "after", envelope)):
        assert call().status_code == 200, number
    assert {disk_of(world.server).pid} == pids
    assert faults(world.server.data) == []


def test_who_writes_the_log_is_replaced(place: World) -> None:
    world = place
    ok(world.operator.post(KEYS, json={"name": "k"}))
    for _ in range(3):
        disk = disk_of(world.server)
        disk.kill()
        eventually(lambda pid=disk.pid: not alive(pid))  # type: ignore[misc]
        answers = []
        eventually(
            lambda: (
                answers.append(world.operator.post(ENCRYPT, json={"name": "k", "input": "x"}))
                or answers[-1].status_code == 200
            ),
            seconds=5,
        )
        assert {answer.status_code for answer in answers} <= {200, 503}
    assert world.server.process is not None
    assert faults(world.server.data) == []


def test_a_change_whose_record_failed_is_recorded_once_the_disk_is_back(place: World) -> None:
    world = place
    once = {"Idempotency-Key": "once"}
    ok(world.operator.post(KEYS, json={"name": "k"}))
    with hanging(disk_of(world.server)):
        answer = timed(lambda: world.operator.post(KEYS, json={"name": "late"}, headers=once))
        assert answer.json()["code"] == "outcome_unknown"
    eventually(lambda: world.operator.get("/ready").status_code == 200, seconds=5)
    again = world.operator.post(KEYS, json={"name": "late"}, headers=once)
    assert again.headers["idempotency-replayed"] == "true"
    request_id = answer.headers["x-request-id"]

    def found() -> list[tuple[str, bool]]:
        return [
            (record.outcome, record.recovered)
            for record in logged(world.server.data)
            if record.request_id == request_id
        ]

    eventually(lambda: found() != [], seconds=5)
    assert found() == [("ok", True)]
    time.sleep(2.5)
    assert found() == [("ok", True)]
