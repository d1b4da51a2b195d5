"""The admin listener: metrics of all workers and health, on an address of its own and nowhere else."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.api.edge import Edge, only
from tests.api.raw import Raw, get, post
from tests.support.cli import qimem
from tests.support.load import listeners, spread, worker_pids
from tests.support.processes import eventually
from tests.support.server import Server, refused


class Watched:
    """A server with an admin listener."""

    def __init__(self, directory: Path, workers: int) -> None:
        self.server = Server(directory, workers=workers, extra=("--admin-bind", "127.0.0.1:0")).start()
        told = [line for line in self.server.lines if line.startswith("metrics ")]
        assert len(told) == 1
        self.url = told[0].removeprefix("metrics ")

    def scrape(self) -> dict[tuple[str, ...], float]:
        answer = httpx.get(self.url)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        return {
            (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
        }

    def answered(self, operation: str, status: int) -> float:
        return self.scrape().get(("qimem_http_requests_total", operation, str(status)), 0.0)


@pytest.fixture(scope="module", params=[1, 2], ids="{} workers".format)
def watched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    watched = Watched(tmp_path_factory.mktemp("watched"), request.param)
    yield watched
    watched.server.stop()


def test_every_answer_of_every_worker_is_counted_once(watched: Watched) -> None:
    before = watched.answered("realms.jwks", 200), watched.answered("none", 404)
    path = "/realms/system/jwks"
    with spread(watched.server) as wires:
        for wire in wires:
            assert wire.get(path).status == 200
            assert wire.get("/nowhere").status == 404
    after = watched.answered("realms.jwks", 200), watched.answered("none", 404)
    assert after == (before[0] + len(wires), before[1] + len(wires))


def test_each_worker_tells_how_it_is(watched: Watched) -> None:
    workers = {str(number) for number in range(1, watched.server.workers + 1)}

    def told() -> bool:
        seen = watched.scrape()
        return all(seen.get(("qimem_worker_resident_bytes", worker), 0) > 10_000_000 for worker in workers)

    eventually(told)
    seen = watched.scrape()
    for worker in workers:
        assert seen["qimem_worker_audit_writable", worker] == 1
        assert seen["qimem_worker_open_files", worker] > 5
        assert seen["qimem_worker_audit_free_bytes", worker] > 0
        assert seen["qimem_worker_passwords_waiting", worker] == 0
    assert seen["qimem_worker_starts_total",] >= watched.server.workers


def test_the_listeners_serve_nothing_of_each_other(watched: Watched) -> None:
    admin = watched.url.removesuffix("/metrics")
    refused(httpx.get(f"{watched.server.url}/metrics"), 404, "not_found")
    for path in ("/", "/v1/auth/me", "/docs", "/realms/system/jwks"):
        refused(httpx.get(admin + path), 404, "not_found")
    refused(httpx.post(watched.url), 405, "method_not_allowed")
    assert httpx.get(f"{admin}/health").json() == {"status": "ok"}
    head = httpx.head(watched.url)
    assert (head.status_code, head.content) == (200, b"")


def test_every_check_of_readiness_is_told_on_the_admin_listener_alone(watched: Watched) -> None:
    told = httpx.get(watched.url.replace("/metrics", "/ready"))
    checks = {name: {"state": "ok"} for name in ("storage", "migrations", "root_key", "audit", "drain")}
    assert (told.status_code, told.json()) == (200, {"status": "ready", "checks": checks})
    assert httpx.get(f"{watched.server.url}/ready").json() == {"status": "ready"}


def test_nothing_of_the_metrics_names_anybody(watched: Watched) -> None:
    token = watched.server.token()
    httpx.get(f"{watched.server.url}/v1/auth/me", headers={"Authorization": f"Bearer {token}"})
    text = httpx.get(watched.url).text
    known = watched.server.credentials
    for secret in (
        token,
        known["client_secret"],
        known["password"],
        known["client_id"],
        known["realm_id"] + '"',
    ):
        assert secret not in text


def test_counts_do_not_go_back_when_workers_are_replaced(tmp_path: Path) -> None:
    watched = Watched(tmp_path, 2)
    try:
        with spread(watched.server) as wires:
            for wire in wires:
                wire.get("/nowhere")
        before = watched.answered("none", 404)
        assert before >= 8
        pids = worker_pids(watched.server)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        # Both ports of both.
        eventually(lambda: not set(pids) & set(worker_pids(watched.server)), seconds=30)
        eventually(lambda: len(listeners(watched.server)) == 2, seconds=30)
        httpx.get(f"{watched.server.url}/nowhere")
        assert watched.answered("none", 404) == before + 1
        assert watched.scrape()["qimem_worker_starts_total",] == 4
        assert sum(key[0] == "qimem_worker_open_files" for key in watched.scrape()) == 2
    finally:
        assert watched.server.stop() == 0


def test_an_answer_is_counted_with_the_time_until_it_left() -> None:
    with Edge(only()) as edge, Raw(edge.url) as client:
        for text in (b'{"text":"one"}', b"{"):
            client.send(post("/v1/echo", text, "Authorization: Bearer good"))
            client.answer()
        client.send(get("/nowhere"))
        client.answer()
        counted = {sample.operation: sample for sample in edge.metrics.samples()}
    assert counted["edge.echo"].statuses == {200: 1, 400: 1}
    assert sum(counted["edge.echo"].buckets) == 2
    assert 0 < counted["edge.echo"].seconds < 1
    assert counted["none"].statuses == {404: 1}


@pytest.mark.parametrize("workers", [1, 2])
def test_the_address_of_the_server_is_not_taken_for_metrics(tmp_path: Path, workers: int) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{taken.getsockname()[1]}"
    done = qimem(
        "serve",
        "--data-dir",
        tmp_path / "data",
        "--bind",
        place,
        "--admin-bind",
        place,
        "--workers",
        str(workers),
    )
    assert done.code == 78
    assert "where the server itself listens" in done.err


def test_an_address_that_is_taken_is_refused(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        done = qimem("serve", "--data-dir", tmp_path / "data", "--bind", "127.0.0.1:0", "--admin-bind", place)
    assert done.code == 78
    assert f"cannot listen on {place}" in done.err


def test_metrics_are_there_as_soon_as_the_server_says_so(tmp_path: Path) -> None:
    for workers in (1, 2):
        place = tmp_path / str(workers)
        place.mkdir()
        watched = Watched(place, workers)
        try:
            assert watched.scrape()
        finally:
            assert watched.server.stop() == 0


def test_a_scraper_that_holds_its_connection_does_not_hold_up_the_end(tmp_path: Path) -> None:
    watched = Watched(tmp_path, 1)
    with httpx.Client() as client:
        assert client.get(watched.url).status_code == 200
        began = time.monotonic()
        assert watched.server.stop() == 0
        assert time.monotonic() - began < 5
