"""A server that speaks TLS, from outside: its start, its clients, and another certificate while it runs."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from qimem.client import Client, Unreachable, Wire
from tests.cli.test_dev import dev
from tests.support.certificates import Authority, Issued, authority, trusting
from tests.support.cli import qimem
from tests.support.server import Server, ok

PATIENCE_SECONDS = 20.0


@pytest.fixture(scope="module")
def clients() -> Authority:
    return Authority("Clients")


def until(happened: Callable[[], bool]) -> None:
    started = time.monotonic()
    while not happened():
        assert time.monotonic() - started < PATIENCE_SECONDS
        time.sleep(0.05)


def shown(url: str) -> bytes:
    """The certificate that a new connection is shown."""
    place = urlsplit(url)
    with (
        socket.create_connection((place.hostname, place.port), timeout=10) as plain,
        trusting().wrap_socket(plain, server_hostname=place.hostname) as secured,
    ):
        return secured.getpeercert(binary_form=True) or b""


def secured(directory: Path, issued: Issued, **more: object) -> Server:
    cert, key = issued.write(directory)
    extra = ("--tls-cert", str(cert), "--tls-key", str(key), *more.pop("extra", ()))
    return Server(directory, extra=extra, verify=trusting(), **more)


# --- start ------------------------------------------------------------------------------------


def test_what_cannot_be_served_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    cert, key = authority().issue().write(tmp_path)
    other = authority().issue().write(tmp_path, "other")[1]
    loose = tmp_path / "loose.key"
    shutil.copy(key, loose)
    loose.chmod(0o644)
    for given, reason in (
        (("--tls-cert", cert, "--tls-key", other), "the key is not that of the first certificate"),
        (("--tls-cert", cert, "--tls-key", loose, "--workers", "2"), "is open to others"),
    ):
        done = qimem("serve", "--data-dir", tmp_path / "data", "--bind", "127.0.0.1:0", *given)
        assert (done.code, done.out) == (78, "")
        assert reason in done.err
        assert not (tmp_path / "data").exists()


def test_a_certificate_that_ended_is_served_with_a_warning_and_lines_name_what_it_is_for(
    tmp_path: Path,
) -> None:
    extra = ("--external-url", "https://kms.example")
    server = secured(tmp_path, authority().issue(begins=-2, ends=-1), extra=extra).start()
    try:
        assert server.url.startswith("https://127.0.0.1:")
        assert "the certificate has ended" in server.log.read_text()
        assert httpx.get(f"{server.url}/health", verify=False).json() == {"status": "ok"}
        lines = [line for line in server.lines if "curl" in line]
        assert len(lines) == 3
        assert all("https://kms.example/v1/" in line for line in lines)
    finally:
        server.stop()


# --- clients ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("tls")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        admin = f"127.0.0.1:{free.getsockname()[1]}"
    server = secured(directory, authority().issue(), extra=("--admin-bind", admin)).start()
    (directory / "ca.pem").write_bytes(authority().pem)
    yield server
    server.stop()


def test_the_lines_of_the_first_start_work_where_the_authority_is_named(server: Server) -> None:
    names = ("SSL_CERT_FILE", "CURL_CA_BUNDLE")
    environment = os.environ | dict.fromkeys(names, str(server.directory / "ca.pem"))
    assert server.credentials["external_url"] == server.url
    line = next(line for line in server.lines if "/v1/security/keys" in line)
    done = subprocess.run(["bash", "-c", line], env=environment, capture_output=True, text=True, check=True)
    assert '"name":"first"' in done.stdout


def test_a_token_is_got_over_tls_from_a_server_that_is_trusted_alone(server: Server) -> None:
    credentials = f"{server.data}.credentials.json"
    token = qimem("token", "--credentials", credentials, SSL_CERT_FILE=str(server.directory / "ca.pem"))
    assert token.code == 0
    with server.client(token.out.strip()) as client:
        ok(client.get("/v1/auth/me"))
    stranger = qimem("token", "--credentials", credentials)
    assert (stranger.code, stranger.out) == (3, "")
    assert "certificate not trusted" in stranger.err
    assert "SSL_CERT_FILE" in stranger.err


def test_the_python_client_speaks_to_it(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(server.directory / "ca.pem"))
    for wire in (Wire(), Wire(tls=trusting())):
        with Client(server.url, server.token(), wire) as client:
            assert isinstance(list(client.keys.list()), list)
    monkeypatch.delenv("SSL_CERT_FILE")
    with Client(server.url, server.token()) as stranger, pytest.raises(Unreachable):
        list(stranger.keys.list())


def test_dev_speaks_tls_with_its_own_certificate_whatever_it_is_for(tmp_path: Path) -> None:
    cert, key = Authority().issue("elsewhere.example").write(tmp_path)
    with dev("--tls-cert", str(cert), "--tls-key", str(key), scheme="https") as (told, url, _):
        assert told["access_token"]
        assert httpx.get(f"{url}/health", verify=False).json() == {"status": "ok"}


def test_forwarded_headers_of_a_stranger_are_counted_and_doctor_tells(
    server: Server, clean_doctor: None
) -> None:
    with server.client() as client:
        for _ in range(3):
            ok(client.get("/health", headers={"X-Forwarded-For": "6.6.6.6"}))
    admin = next(word for word in server.extra if word.startswith("127.0.0.1:"))
    rows = examined(server, admin)
    assert rows["forwarded headers"]["state"] == "warn"
    assert "3 requests" in rows["forwarded headers"]["detail"]
    assert "server.trusted_proxies" in rows["forwarded headers"]["advice"]
    assert server.log.read_text().count("forwarded headers of a peer that is no trusted proxy") == 1


@pytest.fixture
def clean_doctor(server: Server) -> None:
    admin = next(word for word in server.extra if word.startswith("127.0.0.1:"))
    rows = examined(server, admin)
    assert rows["forwarded headers"]["state"] == "ok"
    assert rows["certificate"]["state"] == "ok"
    assert rows["listener"]["detail"].endswith("TLS 1.3")


def examined(server: Server, admin: str) -> dict[str, dict[str, str]]:
    place = server.directory
    arguments = ("--tls-cert", place / "server.pem", "--tls-key", place / "server.key", "--admin-bind", admin)
    done = qimem("doctor", "--data-dir", server.data, "-o", "json", *arguments)
    return {row["check"]: row for row in done.json}


# --- another certificate ----------------------------------------------------------------------


def workers_of(server: Server) -> set[int]:
    assert server.process is not None
    return {child.pid for child in psutil.Process(server.process.pid).children()}


def hang_up(server: Server, line: str, count: int) -> None:
    """Send SIGHUP and wait until so many processes have logged the line since."""
    assert server.process is not None
    before = server.log.read_text().count(line)
    server.process.send_signal(signal.SIGHUP)
    until(lambda: server.log.read_text().count(line) >= before + count)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_new_certificate_is_taken_at_sighup_and_a_broken_one_is_not(tmp_path: Path, workers: int) -> None:
    first, second, third = (authority().issue(name) for name in ("first", "second", "third"))
    server = secured(tmp_path, first, workers=workers).start(bind="0.0.0.0:0")
    takers = 1 if workers == 1 else workers + 1
    try:
        with server.client() as old:
            ok(old.get("/health"))
            second.write(tmp_path)
            assert shown(server.url) == first.der
            hang_up(server, "certificate taken", takers)
            assert {shown(server.url) for _ in range(8)} == {second.der}
            # The connection that stood goes on.
            ok(old.get("/health"))
            third.write(tmp_path)
            (tmp_path / "server.key").write_bytes(first.key)
            hang_up(server, "certificate not taken", 1)
            assert {shown(server.url) for _ in range(8)} == {second.der}
            if workers == 2:
                # The files are of no use now, and who takes a place shows what the others show.
                victim, *_ = workers_of(server)
                os.kill(victim, signal.SIGKILL)
                until(lambda: victim not in workers_of(server) and len(workers_of(server)) == workers)
                until(lambda: all(connects(server) for _ in range(20)))
                assert {shown(server.url) for _ in range(20)} == {second.der}
            third.write(tmp_path)
            hang_up(server, "certificate taken", takers)
            assert {shown(server.url) for _ in range(8)} == {third.der}
    finally:
        assert server.stop() == 0
    assert "PRIVATE" not in server.log.read_text()


def connects(server: Server) -> bool:
    try:
        return bool(shown(server.url))
    except (OSError, ssl.SSLError):
        return False


@pytest.mark.parametrize("workers", [1, 2])
def test_a_server_without_tls_outlives_sighup(tmp_path: Path, workers: int) -> None:
    server = Server(tmp_path, workers=workers).start()
    try:
        before = workers_of(server)
        hang_up(server, "no certificate to take", 1)
        # As the end of a terminal does: to every process of the group.
        for pid in before:
            os.kill(pid, signal.SIGHUP)
        ok(httpx.get(f"{server.url}/health"))
        assert workers_of(server) == before
    finally:
        assert server.stop() == 0


# --- client certificates ----------------------------------------------------------------------


def test_metrics_for_other_machines_are_for_those_with_a_certificate(
    tmp_path: Path, clients: Authority
) -> None:
    authorities = tmp_path / "clients.pem"
    authorities.write_bytes(clients.pem)
    extra = ("--tls-client-ca", str(authorities), "--admin-bind", "0.0.0.0:0")
    server = secured(tmp_path, authority().issue(), extra=extra)
    server.environment["QIMEM_TLS__CLIENT_CERTIFICATES"] = "required"
    server.start()
    try:
        metrics = next(line.split()[1] for line in server.lines if line.startswith("metrics https://"))
        own = authority().trusting(clients.issue("prometheus").write(tmp_path, "own"))
        for url in (metrics, f"{server.url}/health"):
            assert httpx.get(url, verify=own).status_code == 200
            with pytest.raises(httpx.TransportError, match=r"(?i)certificate required|reset"):
                httpx.get(url, verify=trusting())
    finally:
        server.stop()
