"""`qimem token`: a token on stdout, or an exit code that tells why not."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.support.cli import qimem

CREDENTIALS = {"realm_id": "system", "client_id": "c", "client_secret": "qcs_s"}


@contextmanager
def answering(status: int, body: bytes) -> Iterator[tuple[str, list[dict[str, str]]]]:
    asked: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/base/v1/auth/token"
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/base", asked
        finally:
            server.shutdown()
            thread.join()


def file(tmp_path: Path, content: dict[str, object]) -> Path:
    path = tmp_path / "data.credentials.json"
    path.write_text(json.dumps(content))
    path.chmod(0o600)
    return path


def test_the_token_alone_is_printed(tmp_path: Path) -> None:
    with answering(200, b'{"access_token":"ey.x.y"}') as (url, asked):
        file(tmp_path, CREDENTIALS | {"username": "admin", "password": "pw", "external_url": url})
        done = qimem("token", cwd=tmp_path)
    assert (done.code, done.out, done.err) == (0, "ey.x.y\n", "")
    assert asked == [CREDENTIALS | {"username": "admin", "password": "pw"}]


def test_without_a_password_the_client_signs_in(tmp_path: Path) -> None:
    with answering(200, b'{"access_token":"t"}') as (url, asked):
        path = file(tmp_path, CREDENTIALS | {"username": "admin", "external_url": None})
        assert qimem("token", "--credentials", path, "--server", url).out == "t\n"
    assert asked == [CREDENTIALS | {"grant_type": "client_credentials"}]


@pytest.mark.parametrize(
    ("status", "body", "code", "message"),
    [
        (400, b'{"error":"invalid credentials","code":"invalid_grant"}', 2, "invalid credentials"),
        (401, b'{"error":"invalid client credentials","hint":"h"}', 4, "invalid client credentials\nhint: h"),
        (403, b"{}", 5, "the server answered 403"),
        (404, b"not json", 6, "the server answered 404"),
        (429, b'{"error":"rate limited"}', 8, "rate limited"),
        (500, b"[]", 70, "the server answered 500"),
        (503, b'{"error":"sealed"}', 9, "sealed"),
        (502, b"<html>", 9, "the server answered 502"),
    ],
)
def test_a_refusal_becomes_an_exit_code(
    tmp_path: Path, status: int, body: bytes, code: int, message: str
) -> None:
    with answering(status, body) as (url, _):
        done = qimem("token", "--credentials", file(tmp_path, CREDENTIALS), "--server", url)
    assert (done.code, done.out) == (code, "")
    assert done.err == f"error: {message}\n"


def test_nobody_there_is_3(tmp_path: Path) -> None:
    done = qimem("token", "--credentials", file(tmp_path, CREDENTIALS), "--server", "http://127.0.0.1:1")
    assert (done.code, done.out) == (3, "")
    assert "no answer from http://127.0.0.1:1" in done.err


@pytest.mark.parametrize("missing", ["client_id", "client_secret", "realm_id"])
def test_incomplete_credentials_are_refused(tmp_path: Path, missing: str) -> None:
    content = {name: value for name, value in CREDENTIALS.items() if name != missing}
    done = qimem("token", "--credentials", file(tmp_path, content), "--server", "http://127.0.0.1:1")
    assert done.code == 78
    assert missing in done.err


def test_an_open_file_is_not_used(tmp_path: Path) -> None:
    path = file(tmp_path, CREDENTIALS)
    path.chmod(0o644)
    assert qimem("token", "--credentials", path).code == 78


def test_credentials_without_an_address_ask_for_one(tmp_path: Path) -> None:
    done = qimem("token", "--credentials", file(tmp_path, CREDENTIALS))
    assert done.code == 78
    assert "--server" in done.err
