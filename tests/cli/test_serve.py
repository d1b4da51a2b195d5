"""`qimem serve` from outside."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.cli import PROGRAM, clean_environment, qimem
from tests.support.server import Server, ok

KEY_BYTES = 32


@pytest.fixture
def server(tmp_path: Path):
    server = Server(tmp_path)
    yield server
    server.stop()


def test_the_first_start_prints_the_path_three_lines_and_ready(server: Server) -> None:
    server.start()
    path = server.data.with_name("data.credentials.json")
    assert server.lines[0] == f"credentials {path}"
    assert len(server.lines) == 5
    assert server.lines[-1] == f"ready {server.url}"
    assert path.stat().st_mode & 0o777 == 0o600
    credentials = json.loads(path.read_text())
    assert credentials["external_url"] == server.url
    printed = "\n".join(server.lines) + server.log.read_text()
    assert credentials["password"] not in printed
    assert credentials["client_secret"] not in printed


def test_the_three_lines_work_verbatim_and_the_envelope_survives_a_crash(server: Server) -> None:
    assert shutil.which("curl"), "curl is needed for this test"
    server.start()

    def paste(line: str) -> dict[str, object]:
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True, timeout=30)
        return json.loads(done.stdout)

    create, encrypt, decrypt = server.lines[1:4]
    assert paste(create)["name"] == "first"
    assert paste(encrypt)["version"] == 1
    assert paste(decrypt)["plaintext"] == "hello"
    address = server.url.removeprefix("http://")
    server.kill()
    server.start(bind=address)
    assert paste(decrypt)["plaintext"] == "hello"


def test_lines_of_a_start_at_another_address_name_it(server: Server) -> None:
    server.start()
    server.stop()
    server.lines.clear()
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        server.start()
    if server.url != server.credentials["external_url"]:
        assert f"--server {server.url}" in server.lines[1]


def test_without_the_credentials_file_only_ready_is_printed(server: Server) -> None:
    server.start()
    server.stop()
    Path(f"{server.data}.credentials.json").unlink()
    server.lines.clear()
    server.start()
    assert server.lines == [f"ready {server.url}"]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_ends_with_zero(tmp_path: Path, workers: int, number: signal.Signals) -> None:
    server = Server(tmp_path, workers=workers).start()
    with server.client() as client:
        ok(client.get("/health"))
        process, started = server.process, time.monotonic()
        process.send_signal(number)
        assert process.wait(10) == 0
        # An idle kept-alive connection does not hold up the end.
        assert time.monotonic() - started < 5
    server._forget()


def test_a_request_in_flight_is_answered_before_the_end(server: Server) -> None:
    server.start()
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        body = b"{}"
        head = b"POST /v1/security/keys HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n"
        connection.sendall(head + body[:1])
        ok(httpx.get(f"{server.url}/health"))
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        connection.sendall(body[1:])
        assert connection.recv(4096).startswith(b"HTTP/1.1 401")
    assert server.process.wait(10) == 0
    server._forget()


@pytest.mark.parametrize("workers", [1, 2])
def test_the_root_key_is_in_no_environment_or_argument(tmp_path: Path, workers: int) -> None:
    server = Server(tmp_path, workers=workers).start()
    try:
        key = Path(f"{server.data}.root.key").read_bytes()
        processes = [
            server.process.pid,
            *(child.pid for child in psutil.Process(server.process.pid).children()),
        ]
        assert len(processes) == 1 + workers
        for pid in processes:
            content = Path(f"/proc/{pid}/environ").read_bytes() + Path(f"/proc/{pid}/cmdline").read_bytes()
            assert key not in content
            assert key.hex().encode() not in content
            assert (
                "Max core file size        0                    0 " in Path(f"/proc/{pid}/limits").read_text()
            )
    finally:
        server.stop()


def test_a_taken_port_is_refused(server: Server, tmp_path: Path) -> None:
    server.start()
    done = qimem("serve", "--data-dir", tmp_path / "other", "--bind", server.url.removeprefix("http://"))
    assert (done.code, done.out) == (78, "")
    assert "Address already in use" in done.err
    assert not (tmp_path / "other").exists()


def test_old_credentials_in_the_way_stop_a_new_installation(tmp_path: Path) -> None:
    (tmp_path / "data.credentials.json").write_text('{"old": true}')
    done = qimem("serve", "--data-dir", tmp_path / "data", "--bind", "127.0.0.1:0")
    assert done.code == 78
    assert "move the old credentials file away" in done.err
    assert (tmp_path / "data.credentials.json").read_text() == '{"old": true}'


def test_another_external_url_than_the_stored_one_is_refused(server: Server) -> None:
    server.start()
    server.stop()
    done = qimem(
        "serve", "--data-dir", server.data, "--bind", "127.0.0.1:0", "--external-url", "https://other.example"
    )
    assert done.code == 78
    assert "external_url" in done.err


def test_a_proxy_in_front_may_be_named_in_place_of_tls(tmp_path: Path) -> None:
    server = Server(tmp_path, environment={"QIMEM_SERVER__TRUSTED_PROXIES": "10.0.0.0/8"})
    try:
        server.start(bind="0.0.0.0:0")
        assert httpx.get(f"{server.url}/health").status_code == 200
    finally:
        server.stop()


def test_stateless_leaves_nothing_behind(tmp_path: Path) -> None:
    server = Server(
        tmp_path, environment={"QIMEM_MODE": "stateless", "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/x"}
    )
    server.start()
    path = Path(server.lines[0].removeprefix("credentials "))
    assert path.exists()
    assert not path.is_relative_to(tmp_path)
    # It may serve other machines: only `qimem dev`, which does not, has no rules for passwords.
    known = json.loads(path.read_text())
    body = {name: known[name] for name in ("client_id", "client_secret", "realm_id", "username", "password")}
    with server.client() as nobody:
        token = nobody.post("/v1/auth/token", json=body).json()["access_token"]
    with server.client(token) as client:
        made = client.post("/v1/auth/realms", json={"id": "acme", "name": "Acme"})
        assert made.json()["password_min_length"] == 8
    assert server.stop() == 0
    assert not path.parent.exists()
    assert {entry.name for entry in tmp_path.iterdir()} == {"log.txt"}


def test_qimem_bind_is_heard(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*PROGRAM, "serve", "--data-dir", str(tmp_path / "data")],
        env=clean_environment(QIMEM_BIND="127.0.0.2:0"), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    ready = next(line for line in process.stdout if line.startswith("ready "))
    assert ready.startswith("ready http://127.0.0.2:")
    process.terminate()
    process.communicate()
    assert process.returncode == 0


def test_an_unreachable_database_server_is_9_and_makes_no_key(tmp_path: Path) -> None:
    url = "postgresql://nobody:hunter2@127.0.0.1:1/x"
    done = qimem("serve", "--data-dir", tmp_path / "data", "--bind", "127.0.0.1:0", DATABASE_URL=url)
    assert (done.code, done.out, done.err) == (9, "", "error: storage unavailable\n")
    assert {entry.name for entry in tmp_path.iterdir()} == {"data"}


def unpublished(server: Server, **changes: str) -> Path:
    """Have it as a first start leaves it that ended before it could hand its credentials out."""
    file = Path(f"{server.data}.credentials.json")
    draft = file.with_name(f".{file.name}.new")
    server.stop()
    draft.write_text(json.dumps(server.credentials | changes))
    draft.chmod(0o600)
    file.write_text("")
    return draft


def test_credentials_that_were_not_handed_out_are_handed_out_by_the_next_start(server: Server) -> None:
    draft = unpublished(server.start(), external_url="http://127.0.0.1:1")
    server.start()
    assert server.credentials["external_url"] == server.url
    assert server.token()
    assert not draft.exists()


def test_credentials_of_an_installation_that_was_not_made_are_forgotten(server: Server) -> None:
    draft = unpublished(server.start(), client_id="3fa85f64-5717-4562-b3fc-2c963f66afa6")
    server.start()
    assert Path(f"{server.data}.credentials.json").read_text() == ""
    assert not draft.exists()
