"""Readiness of a real server: it says no as soon as this process cannot decide, and what fails."""

from __future__ import annotations

import signal
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.api.raw import Raw
from tests.api.test_metrics import Watched
from tests.support.postgres import Cluster
from tests.support.processes import eventually
from tests.support.server import Server

READ = "SELECT {0} FROM {1}"
UNFINISHED = (
    b"POST /v1/auth/token HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
)
WRITE = "UPDATE {1} SET {0} = {2} RETURNING {0}"


@pytest.mark.parametrize(
    ("table", "column", "wrong", "check"),
    [
        ("schema_version", "version_num", "'9999'", "migrations"),
        ("root_key", "key_check", "'\\x00'::bytea", "root_key"),
        ("instance", "instance_id", "gen_random_uuid()", "root_key"),
    ],
    ids=["newer schema", "another root key", "another installation"],
)
def test_a_database_that_this_process_was_not_started_for_is_told(
    postgres_server: Server, postgres_cluster: Cluster, table: str, column: str, wrong: str, check: str
) -> None:
    assert postgres_server.database_url is not None
    database = urlsplit(postgres_server.database_url).path.strip("/")

    def run(statement: str) -> object:
        return postgres_cluster.execute(statement, database)[0][0]

    def failing() -> set[str]:
        answer = httpx.get(f"{postgres_server.url}/ready")
        assert answer.status_code == (503 if "checks" in answer.text else 200)
        return set(answer.json().get("checks", {}))

    eventually(lambda: failing() == set())
    before = run(READ.format(f"{column}::text", table))
    run(WRITE.format(column, table, wrong))
    try:
        eventually(lambda: failing() == {check})
        assert httpx.get(f"{postgres_server.url}/health").status_code == 200
    finally:
        cast = "bytea" if column == "key_check" else "uuid" if column == "instance_id" else "text"
        run(WRITE.format(column, table, f"'{before}'::{cast}"))
    eventually(lambda: failing() == set())


def test_a_server_that_ends_is_alive_and_not_ready(tmp_path: Path) -> None:
    watched = Watched(tmp_path, 1)
    admin = watched.url.removesuffix("/metrics")
    assert watched.server.process is not None
    with Raw(watched.server.url) as slow:
        slow.send(UNFINISHED)
        watched.server.process.send_signal(signal.SIGTERM)
        eventually(lambda: httpx.get(f"{admin}/ready").status_code == 503)
        told = httpx.get(f"{admin}/ready").json()["checks"]
        assert {name for name, check in told.items() if check["state"] != "ok"} == {"drain"}
        assert httpx.get(f"{admin}/health").status_code == 200
        assert httpx.get(watched.url).status_code == 200
        slow.send(b'"a": 1}.')
        assert slow.answer().status == 400
    assert watched.server.stop() == 0
