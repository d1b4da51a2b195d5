"""`qimem token`: a token on stdout, or an exit code that tells why not."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from qimem.cli.greeting import paste_lines
from qimem.server.credentials import CredentialsFile
from tests.support.cli import PROGRAM, Done, clean_environment, qimem

CREDENTIALS = {"realm_id": "system", "client_id": "c", "client_secret": "qcs_s"}


USER = CREDENTIALS | {"username": "admin", "password": "pw"}
MFA_REQUIRED = (400, b'{"error":"mfa required","code":"mfa_required","hint":"send totp_code too"}')
ISSUED = (200, b'{"access_token":"ey.x.y"}')
ELSEWHERE = "http://192.0.2.1:1"
SECONDS = 20
PROMPT = b"code of the second factor: "


@contextmanager
def answering(
    status: int, body: bytes, *later: tuple[int, bytes]
) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A server that gives these answers one after the other, the last of them for ever."""
    asked: list[dict[str, str]] = []
    answers = [(status, body), *later]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/base/v1/auth/token"
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            status, body = answers[min(len(asked), len(answers)) - 1]
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


def on_a_terminal(*arguments: str | Path, typed: str) -> Done:
    """Run a command with a terminal for all but stdout, as `$(qimem token)` does; `err` is what the terminal shows.

    What is typed is typed when the command asks: what came before, it throws away.
    """
    keyboard, terminal = pty.openpty()
    # A session of its own: what asks for a secret would find the terminal of whoever runs the tests.
    with subprocess.Popen(
        [*PROGRAM, *map(str, arguments)], stdin=terminal, stdout=subprocess.PIPE, stderr=terminal,
        env=clean_environment(), start_new_session=True,
    ) as process:  # fmt: skip
        os.close(terminal)
        shown = b""
        while piece := read(keyboard):
            shown += piece
            if typed and shown.endswith(PROMPT):
                os.write(keyboard, typed.encode())
        try:
            out, _ = process.communicate(timeout=SECONDS)
        finally:
            # Nothing else would end what waits for somebody to type.
            process.kill()
    os.close(keyboard)
    return Done(process.returncode, out.decode(), shown.decode())


def read(terminal: int) -> bytes:
    """What comes next; nothing when the other end was closed or says nothing for long."""
    ready, _, _ = select.select([terminal], [], [], SECONDS)
    try:
        return os.read(terminal, 65536) if ready else b""
    except OSError:
        # How Linux says that the other end was closed.
        return b""


@pytest.mark.parametrize(
    "address", [ELSEWHERE, "http://id.example", "http://127.0.0.1@id.example", "http://[::2]:1"]
)
def test_secrets_are_not_sent_to_another_machine_without_tls(tmp_path: Path, address: str) -> None:
    path = file(tmp_path, USER | {"external_url": address})
    for more in ([], ["--server", address]):
        done = qimem("token", "--credentials", path, *more)
        assert (done.code, done.out) == (2, "")
        assert "without TLS" in done.err
        assert "--allow-plain-http" in done.err
        assert "hint: qimem token --help" in done.err


def test_plain_http_is_spoken_to_another_machine_where_that_is_asked_for(tmp_path: Path) -> None:
    with answering(*ISSUED) as (url, asked):
        # Leads here, and is no address of this machine alone.
        elsewhere = url.replace("127.0.0.1", "0.0.0.0")
        command = ["token", "--credentials", file(tmp_path, USER), "--server", elsewhere]
        assert qimem(*command).code == 2
        assert not asked
        assert qimem(*command, "--allow-plain-http").out == "ey.x.y\n"
    assert len(asked) == 1


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:8080",
        "localhost",
        "ftp://127.0.0.1",
        "//127.0.0.1",
        "http://",
        "http://[::1",
        "http://127.0.0.1:99999",
    ],
)
def test_what_is_no_address_of_a_server_is_refused(tmp_path: Path, address: str) -> None:
    for more in ([], ["--allow-plain-http"]):
        done = qimem("token", "--credentials", file(tmp_path, USER), "--server", address, *more)
        assert (done.code, done.out) == (2, "")
        assert "no http or https URL" in done.err


@pytest.mark.parametrize(
    ("url", "flagged"), [(ELSEWHERE, True), ("http://127.0.0.1:1", False), ("http://[::1]:1", False)]
)
def test_the_first_lines_of_a_server_on_plain_http_can_be_pasted(
    tmp_path: Path, url: str, flagged: bool
) -> None:
    lines = paste_lines(url, CredentialsFile(tmp_path / "data.credentials.json"))
    assert [("--allow-plain-http" in line) for line in lines] == [flagged] * 3


def test_the_code_of_a_second_factor_goes_along(tmp_path: Path) -> None:
    with answering(*ISSUED) as (url, asked):
        path = file(tmp_path, USER)
        done = qimem("token", "--credentials", path, "--server", url, "--totp-code", "123456")
    assert (done.code, done.out, done.err) == (0, "ey.x.y\n", "")
    assert asked == [USER | {"totp_code": "123456"}]


def test_a_client_has_no_second_factor(tmp_path: Path) -> None:
    with answering(*ISSUED) as (url, asked):
        path = file(tmp_path, CREDENTIALS)
        done = qimem("token", "--credentials", path, "--server", url, "--totp-code", "123456")
    assert (done.code, done.out, asked) == (2, "", [])
    assert "no user's password" in done.err


def test_a_script_is_told_how_to_give_the_code(tmp_path: Path) -> None:
    with answering(*MFA_REQUIRED) as (url, asked):
        done = qimem("token", "--credentials", file(tmp_path, USER), "--server", url, stdin="123456\n")
    assert (done.code, done.out) == (2, "")
    assert done.err == "error: mfa required\nhint: give the code with --totp-code\n"
    assert len(asked) == 1


def test_a_terminal_is_asked_for_the_code(tmp_path: Path) -> None:
    with answering(*MFA_REQUIRED, ISSUED) as (url, asked):
        done = on_a_terminal(
            "token", "--credentials", file(tmp_path, USER), "--server", url, typed="123456\n"
        )
    assert (done.code, done.out) == (0, "ey.x.y\n")
    assert "code of the second factor: " in done.err
    assert asked == [USER, USER | {"totp_code": "123456"}]


@pytest.mark.parametrize("arguments", [[], ["--totp-code", "000000"]])
def test_a_terminal_is_asked_for_nothing_where_no_code_would_help(
    tmp_path: Path, arguments: list[str]
) -> None:
    wrong = (400, b'{"error":"invalid","code":"invalid_mfa_code","hint":"h"}')
    with answering(*wrong) as (url, asked):
        command = ["token", "--credentials", file(tmp_path, USER), "--server", url, *arguments]
        done = on_a_terminal(*command, typed="")
    assert (done.code, done.out) == (2, "")
    assert "second factor" not in done.err
    assert len(asked) == 1
