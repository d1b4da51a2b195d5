"""The record is on the disk before the answer, and no effect is without its record, whenever a worker dies."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest

from qimem.audit.record import decoded, encoded
from tests.support.api import World
from tests.support.audit_log import faults, logged, of_request
from tests.support.broken_server import broken
from tests.support.load import DATABASES, listeners, new_server, rows, worker_pids
from tests.support.processes import eventually
from tests.support.server import Server, ok

KEYS, ENCRYPT = "/v1/security/keys", "/v1/security/encrypt"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.stop()


def ids_of(server: Server, outcome: str = "ok") -> set[str]:
    return {record.request_id for record in logged(server.data) if record.outcome == outcome}


def test_a_kill_leaves_the_record_of_every_answer(place: Server) -> None:
    place.start()
    world = World(place)
    ok(world.operator.post(KEYS, json={"name": "k"}))
    answered = set()
    for number in range(50):
        answer = world.operator.post(ENCRYPT, json={"name": "k", "input": str(number)})
        answered.add(answer.headers["x-request-id"])
    place.kill()
    assert answered <= ids_of(place)
    place.start()
    assert answered <= ids_of(place)
    assert faults(place.data) == []


def test_records_that_nobody_waits_for_are_lost(tmp_path: Path) -> None:
    server = Server(tmp_path, environment={"QIMEM_AUDIT__MODE": "interval"}).start()
    try:
        world = World(server)
        ok(world.operator.post(KEYS, json={"name": "k"}))
        lost = False
        for _ in range(20):
            answer = world.operator.post(ENCRYPT, json={"name": "k", "input": "x"})
            lost = lost or answer.headers["x-request-id"] not in ids_of(server)
        assert lost
    finally:
        server.stop()


def test_answers_wait_for_a_slow_log_and_reads_do_not(tmp_path: Path) -> None:
    server = Server(tmp_path, environment=broken(tmp_path, "has_a_slow_log")).start()
    try:
        world = World(server)
        ok(world.operator.post(KEYS, json={"name": "k"}))
        for path, body, slow in ((ENCRYPT, {"name": "k", "input": "x"}, True), (KEYS, None, False)):
            begun = time.monotonic()
            answer = world.operator.get(path) if body is None else world.operator.post(path, json=body)
            assert (time.monotonic() - begun > 0.2) == slow
            ok(answer)
    finally:
        server.stop()


def key_without_record(server: Server, request_id: str = "died-here") -> str:
    """Make a key on a worker that dies before it logs it; the key's name."""
    with pytest.raises(httpx.HTTPError):
        World(server).operator.post(KEYS, json={"name": "orphan"}, headers={"X-Request-Id": request_id})
    assert server.process is not None
    server.process.wait(10)
    server.kill()
    server.environment.clear()
    return "orphan"


@pytest.mark.parametrize("kind", DATABASES)
def test_an_effect_whose_record_was_not_logged_is_logged_at_the_next_start(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    server = new_server(request, tmp_path, kind)
    server.workers = 1
    server.environment = broken(tmp_path, "dies_between_commit_and_log")
    server.start()
    try:
        name = key_without_record(server)
        assert of_request(server.data, "died-here") == []
        for _ in range(2):
            server.start()
            (record,) = of_request(server.data, "died-here")
            assert (record["event"], record["outcome"], record["recovered"]) == ("keys.create", "ok", True)
            sealed = ok(World(server).operator.post(ENCRYPT, json={"name": name, "input": "x"}))
            assert sealed["key_id"] == record["key"]
            server.stop()
        assert faults(server.data) == []
    finally:
        server.stop()


def test_a_server_without_intents_has_an_effect_without_record(tmp_path: Path) -> None:
    server = Server(tmp_path, environment=broken(tmp_path, "keeps_intents_to_itself")).start()
    try:
        key_without_record(server)
        server.start()
        assert of_request(server.data, "died-here") == []
    finally:
        server.stop()


def test_the_stream_of_a_dead_worker_is_taken_up_by_the_next_one(tmp_path: Path) -> None:
    server = Server(tmp_path, workers=2).start()
    try:
        world = World(server)
        ok(world.operator.post(KEYS, json={"name": "k"}))
        streams = sorted((server.data / "audit").glob("s*"))
        assert len(streams) == 2
        for _ in range(3):
            pids = worker_pids(server)
            os.kill(pids[0], signal.SIGKILL)
            eventually(lambda pids=pids: len(set(worker_pids(server)) - {pids[0]}) == 2)  # type: ignore[misc]
            eventually(lambda: len(listeners(server)) == 2)
        answers = [
            httpx.post(
                server.url + ENCRYPT, json={"name": "k", "input": "x"}, headers=dict(world.operator.headers)
            )
            for _ in range(32)
        ]
        assert {answer.headers["x-request-id"] for answer in answers} <= ids_of(server)
        # The replacement starts while the old process is not yet gone from the table: one more at most.
        assert len(sorted((server.data / "audit").glob("s*"))) <= 3
        server.stop()
        assert faults(server.data) == []
    finally:
        server.stop()


@pytest.mark.parametrize("signed", [True, False])
def test_a_changed_stream_is_left_for_examination_and_service_goes_on(place: Server, signed: bool) -> None:
    place.start()
    world = World(place)
    ok(world.operator.post(KEYS, json={"name": "k"}))
    if signed:
        place.stop()
    else:
        eventually(lambda: b'{"checkpoint":' in segment_of(place).read_bytes())
        ok(world.operator.post("/v1/security/rotate", json={"name": "k"}))
        place.kill()
    segment, event = segment_of(place), b"keys.create" if signed else b"keys.rotate"
    assert event in segment.read_bytes()
    segment.write_bytes(segment.read_bytes().replace(event, b"keys.delete"))
    place.start()
    ok(World(place).operator.post(ENCRYPT, json={"name": "k", "input": "x"}))
    place.stop()
    # What was signed is not read again by a start; that it was changed is as visible afterwards.
    assert len(list((place.data / "audit").glob("s*"))) == (1 if signed else 2)
    assert ("was changed by somebody" in place.log.read_text()) != signed
    (fault,) = faults(place.data)
    assert "not what was written" in fault


def segment_of(server: Server) -> Path:
    (stream,) = (server.data / "audit").glob("s*")
    return stream / "00000001.jsonl"


def test_records_that_were_not_logged_are_logged_together(tmp_path: Path) -> None:
    # Each that waits its fifth of a second by itself would hold up the start for a minute.
    server = Server(tmp_path, environment={"QIMEM_AUDIT__MODE": "interval"}).start()
    try:
        ok(World(server).operator.post(KEYS, json={"name": "k"}))
        server.stop()
        lost = {f"{number:024x}" for number in range(300)}
        leave_intents(server, lost)
        server.start()
        content = segment_of(server).read_bytes()
        assert lost <= {record.id for record in logged(server.data)}
        batches = content.split(b'{"chain":')
        assert sum(b'"recovered":true' in batch for batch in batches) <= 2
        assert faults(server.data) == []
    finally:
        server.stop()


def leave_intents(server: Server, record_ids: set[str]) -> None:
    """As a crash does between commits and their records."""
    line = next(line for line in segment_of(server).read_bytes().splitlines() if b"keys.create" in line)
    known = decoded(line)
    stream = segment_of(server).parent.name
    for record_id in record_ids:
        line = encoded(msgspec.structs.replace(known, id=record_id))
        put = "INSERT INTO audit_intent (stream, record_id, segment, line) VALUES (?, ?, 1, ?)"
        rows(server, put, stream, record_id, line)


@pytest.mark.parametrize("name", ["00000001.jsonl", "spare"])
def test_a_pipe_in_the_place_of_a_file_blocks_nobody(place: Server, name: str) -> None:
    place.start()
    ok(World(place).operator.post(KEYS, json={"name": "k"}))
    place.stop()
    (stream,) = (place.data / "audit").glob("s*")
    (stream / name).unlink()
    os.mkfifo(stream / name)
    begun = time.monotonic()
    place.start()
    ok(World(place).operator.post(ENCRYPT, json={"name": "k", "input": "x"}))
    # A stream that cannot be read is left for examination.
    assert ("was changed by somebody" in place.log.read_text()) == (name != "spare")
    assert time.monotonic() - begun < 10


def test_the_log_is_its_owners_alone(place: Server) -> None:
    place.start()
    ok(World(place).operator.post(KEYS, json={"name": "k"}))
    place.stop()
    log = place.data / "audit"
    assert [path for path in [log, *log.rglob("*")] if path.stat().st_mode & 0o077] == []
