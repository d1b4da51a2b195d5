"""nginx as deployed, before a real server, over TLS."""

from __future__ import annotations

import http.client
import json
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from qimem.kernel.limits import BATCH_SECONDS, DECRYPT_BODY_BYTES_MAX, HEADER_BYTES_MAX, KEEP_ALIVE_SECONDS
from tests.support.processes import eventually
from tests.support.proxy import FILES, Proxy, furnish, program, proxy
from tests.support.server import Server, ok, refused

TRUST = {"QIMEM_SERVER__TRUSTED_PROXIES": "127.0.0.1", "QIMEM_LIMITS__ADDRESS": "30/3600"}
NODE = "127.0.0.1:8080"


def one_node(server: Server) -> str:
    text = (FILES / "nodes.conf").read_text()
    assert NODE in text
    return text.replace(NODE, server.url.removeprefix("http://"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(tmp_path_factory.mktemp("node"), limited=True, environment=TRUST).start()
    yield started
    started.stop()


@pytest.fixture(scope="module")
def front(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with proxy(tmp_path_factory.mktemp("proxy") / "nginx", one_node(server)) as running:
        yield running


@pytest.fixture
def operator(server: Server, front: Proxy) -> Iterator[httpx.Client]:
    with httpx.Client(
        base_url=front.url,
        verify=front.trust,
        timeout=30,
        headers={"Authorization": f"Bearer {server.token()}"},
    ) as client:
        yield client


def from_address(front: Proxy, address: str, **headers: str) -> httpx.Response:
    """An anonymous request by a client of that address."""
    transport = httpx.HTTPTransport(local_address=address, verify=front.trust)
    with httpx.Client(base_url=front.url, transport=transport) as client:
        return client.get("/v1/security/keys", headers=headers)


def limits() -> dict[str, str]:
    text = (FILES / "qimem.conf").read_text() + (FILES / "nodes.conf").read_text()
    return dict(re.findall(r"^\s*(\w+) ([^;{]+);$", text, flags=re.MULTILINE))


@pytest.mark.parametrize("nodes", ["nodes.conf", "nodes.cluster.conf"])
def test_nginx_takes_the_files(tmp_path: Path, nodes: str) -> None:
    text = (FILES / nodes).read_text().replace("qimem-a:", "127.0.0.2:").replace("qimem-b:", "127.0.0.3:")
    main = furnish(tmp_path / "nginx", 443, text)
    done = subprocess.run(
        [program(), "-t", "-e", "stderr", "-p", tmp_path, "-c", main],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "[warn]" not in done.stderr


def test_its_limits_are_wider_than_those_of_the_server() -> None:
    found = limits()
    for name in ("client_max_body_size", "client_body_buffer_size"):
        assert int(found[name].removesuffix("m")) << 20 > DECRYPT_BODY_BYTES_MAX
    assert found["large_client_header_buffers"] == f"4 {HEADER_BYTES_MAX >> 10}k"
    assert int(found["proxy_read_timeout"].removesuffix("s")) > BATCH_SECONDS
    nodes = dict(re.findall(r"^\s*(\w+) ([^;{]+);$", (FILES / "nodes.conf").read_text(), flags=re.MULTILINE))
    assert int(nodes["keepalive_timeout"].removesuffix("s")) < KEEP_ALIVE_SECONDS


def test_keys_work_through_it(operator: httpx.Client) -> None:
    ok(operator.post("/v1/security/keys", json={"name": "proxied"}))
    sealed = ok(operator.post("/v1/security/encrypt", json={"name": "proxied", "input": "4111"}))
    answer = operator.post("/v1/security/decrypt", json={"envelope": sealed["envelope"]})
    assert ok(answer)["plaintext"] == "4111"
    assert answer.headers["strict-transport-security"]
    assert answer.headers["x-request-id"]


def test_nobody_is_served_in_the_clear(front: Proxy) -> None:
    answer = httpx.get(f"http://127.0.0.1:{front.port}/health")
    assert answer.status_code == 400
    assert "qimem" not in answer.text


def test_who_asks_is_charged_by_their_own_address(front: Proxy) -> None:
    first = from_address(front, "127.0.0.2")
    again = from_address(front, "127.0.0.2")
    other = from_address(front, "127.0.0.3")
    left = [int(answer.headers["x-ratelimit-remaining"]) for answer in (first, again, other)]
    assert left == [29, 28, 29]


@pytest.mark.parametrize("name", ["X-Forwarded-For", "Forwarded", "X-Real-IP"])
def test_nobody_chooses_whom_they_are_charged_to(front: Proxy, name: str) -> None:
    address = {"X-Forwarded-For": "127.0.0.4", "Forwarded": "127.0.0.5", "X-Real-IP": "127.0.0.6"}[name]
    left = []
    for number in (7, 8):
        forged = f"for=10.9.8.{number}" if name == "Forwarded" else f"10.9.8.{number}"
        left.append(from_address(front, address, **{name: forged}).headers["x-ratelimit-remaining"])
    assert left == ["29", "28"]


def test_a_body_as_large_as_the_server_takes_comes_through_and_never_on_the_disk(
    operator: httpx.Client, front: Proxy
) -> None:
    ok(operator.post("/v1/security/keys", json={"name": "large"}))
    plaintext = "x" * (4 * 1024 * 1024 - 200)
    sealed = ok(operator.post("/v1/security/encrypt", json={"name": "large", "input": plaintext}))
    answer = ok(operator.post("/v1/security/decrypt", json={"envelope": sealed["envelope"]}))
    assert answer["plaintext"] == plaintext
    errors = (front.directory / "error.log").read_text()
    assert "buffered to a temporary file" not in errors


def test_a_body_that_is_too_large_is_told_of_by_the_server(operator: httpx.Client) -> None:
    refused(
        operator.post("/v1/security/encrypt", content=b"x" * (4 * 1024 * 1024 + 1)), 413, "payload_too_large"
    )


def test_a_long_token_reaches_the_server(front: Proxy) -> None:
    with httpx.Client(base_url=front.url, verify=front.trust) as client:
        answer = client.get("/v1/auth/me", headers={"Authorization": f"Bearer {'x' * 24_000}"})
    refused(answer, 401, "invalid_token")


def test_nothing_secret_is_in_its_log(operator: httpx.Client, server: Server, front: Proxy) -> None:
    operator.get("/v1/security/keys?name=hidden-word")
    eventually(lambda: "/v1/security/keys" in front.log)
    token = str(operator.headers["Authorization"]).split()[1]
    assert "hidden-word" not in front.log
    assert token not in front.log


def test_a_server_that_is_away_and_back_is_told_of_and_found_again(tmp_path: Path) -> None:
    server = Server(tmp_path, environment={"QIMEM_SERVER__TRUSTED_PROXIES": "127.0.0.1"}).start()
    bind = server.url.removeprefix("http://")
    with proxy(tmp_path / "nginx", one_node(server)) as front:
        with httpx.Client(base_url=front.url, verify=front.trust, timeout=30) as client:
            ok(client.get("/ready"))
            server.stop()
            answer = client.post("/v1/security/encrypt", json={})
            body = refused(answer, 503, "outcome_unknown")
            assert body["request_id"] == answer.headers["x-request-id"]
            assert answer.headers["retry-after"] == "1"
            assert answer.headers["cache-control"] == "no-store"
            server.start(bind)
            ok(client.get("/ready"))
            server.stop()


def silent_node() -> socket.socket:
    """It takes connections and closes each one when a request has come."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    return listener


def test_a_node_is_asked_when_the_whole_request_is_there(tmp_path: Path) -> None:
    with silent_node() as node:
        text = (FILES / "nodes.conf").read_text().replace(NODE, f"127.0.0.1:{node.getsockname()[1]}")
        with proxy(tmp_path / "nginx", text) as front:
            plain = socket.create_connection(("127.0.0.1", front.port))
            with front.trust.wrap_socket(plain, server_hostname="127.0.0.1") as slow:
                slow.sendall(b"POST /v1/security/keys HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{")
                node.settimeout(0.5)
                with pytest.raises(TimeoutError):
                    node.accept()
                slow.sendall(b"}")
                asked = reached(node)
                assert asked.recv(65536).endswith(b"\r\n\r\n{}")
                asked.close()


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/v1/security/rotate"), ("PATCH", "/v1/auth/users/u"), ("DELETE", "/v1/auth/users/u")],
)
def test_a_change_is_not_sent_to_a_second_node(tmp_path: Path, method: str, path: str) -> None:
    with silent_node() as first, silent_node() as second:
        text = (FILES / "nodes.cluster.conf").read_text()
        for name, node in (("qimem-a:8080", first), ("qimem-b:8080", second)):
            assert name in text
            text = text.replace(name, f"127.0.0.1:{node.getsockname()[1]}")
        with proxy(tmp_path / "nginx", text) as front:
            raw = http.client.HTTPSConnection("127.0.0.1", front.port, context=front.trust, timeout=30)
            raw.request(method, path, b"{}", {"Content-Type": "application/json"})
            node = reached(first, second)
            asked = node.recv(65536)
            assert asked.startswith(f"{method} {path} HTTP/1.1\r\n".encode())
            assert b"\r\nX-Forwarded-For: 127.0.0.1\r\n" in asked
            node.close()
            answer = raw.getresponse()
            assert (answer.status, json.loads(answer.read())["code"]) == (503, "outcome_unknown")
            for other in (first, second):
                other.settimeout(0.3)
                with pytest.raises(TimeoutError):
                    other.accept()
            raw.close()


def reached(*nodes: socket.socket) -> socket.socket:
    """The connection that one of them got."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for node in nodes:
            node.settimeout(0.05)
            try:
                return node.accept()[0]
            except TimeoutError:
                continue
    raise AssertionError("no node was asked")
