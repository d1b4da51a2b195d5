"""`qimem dev`: a server that leaves nothing behind."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.support.cli import PROGRAM, clean_environment, qimem


@contextmanager
def dev(
    *arguments: str, scheme: str = "http", **environment: str
) -> Iterator[tuple[dict[str, str], str, subprocess.Popen[str]]]:
    process = subprocess.Popen(
        [*PROGRAM, "dev", "-o", "json", "--bind", "127.0.0.1:0", *arguments],
        env=clean_environment(**environment), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        shown = json.loads(process.stdout.readline())
        ready = process.stdout.readline().strip()
        assert ready.startswith(f"ready {scheme}://127.0.0.1:")
        yield shown, ready.removeprefix("ready "), process
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=15)
        assert process.returncode == 0


def test_one_line_of_json_then_ready_and_the_token_works() -> None:
    with dev() as (shown, url, _):
        assert {
            "realm_id",
            "client_id",
            "client_secret",
            "username",
            "password",
            "access_token",
        } <= shown.keys()
        assert shown["external_url"] == url
        bearer = {"Authorization": f"Bearer {shown['access_token']}"}
        assert httpx.post(f"{url}/v1/security/keys", headers=bearer).status_code == 200


def test_its_directory_is_private_and_gone_afterwards() -> None:
    with dev() as (shown, _, _):
        data = Path(shown["data_dir"])
        assert data.stat().st_mode & 0o777 == 0o700
        assert data.parent.stat().st_mode & 0o777 == 0o700
    assert not data.parent.exists()


def test_it_never_touches_real_data(tmp_path: Path) -> None:
    with dev(DATABASE_URL="postgresql://nobody@127.0.0.1:1/x", QIMEM_SERVER__DATA_DIR=str(tmp_path / "data")):
        assert list(tmp_path.iterdir()) == []


def test_a_real_key_is_not_read_or_written(tmp_path: Path) -> None:
    with dev(QIMEM_SEAL__ROOT_KEY_FILE=str(tmp_path / "key")) as (shown, _, _):
        assert shown["root_key_file"] is None
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bind", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0", "host.example:0"])
def test_only_loopback(bind: str) -> None:
    for more in ({}, {"QIMEM_SERVER__ALLOW_PLAIN_HTTP": "true"}):
        done = qimem("dev", "--bind", bind, **more)
        assert (done.code, done.out) == (78, "")
        assert "loopback" in done.err or "plain HTTP" in done.err


FIXTURES = """
[realm]
id = "acme"
[roles]
cipher = ["keys:create", "keys:encrypt"]
[client]
id = "shop"
secret = "qcs_known"
tier = "unlimited"
[user]
username = "ada"
password = "a long enough phrase"
roles = ["cipher"]
"""


def test_fixtures_fix_realm_client_and_user(tmp_path: Path) -> None:
    (tmp_path / "dev.toml").write_text(FIXTURES)
    with dev("--fixtures", str(tmp_path / "dev.toml")) as (shown, url, _):
        assert (shown["realm_id"], shown["client_id"], shown["client_secret"]) == (
            "acme",
            "shop",
            "qcs_known",
        )
        assert (shown["username"], shown["password"]) == ("ada", "a long enough phrase")
        bearer = {"Authorization": f"Bearer {shown['access_token']}"}
        assert httpx.post(f"{url}/v1/security/keys", headers=bearer).status_code == 200
        assert httpx.get(f"{url}/v1/security/keys", headers=bearer).status_code == 403
        machine = {"client_id": "shop", "client_secret": "qcs_known", "grant_type": "client_credentials"}
        assert httpx.post(f"{url}/v1/auth/token", json=machine).status_code == 200
        wrong = machine | {"client_secret": "qcs_wrong"}
        assert httpx.post(f"{url}/v1/auth/token", json=wrong).status_code == 401


def test_on_a_throw_away_server_any_password_will_do(tmp_path: Path) -> None:
    (tmp_path / "dev.toml").write_text(FIXTURES.replace("a long enough phrase", "ada"))
    with dev("--fixtures", str(tmp_path / "dev.toml")) as (shown, url, _):
        known = {name: shown[name] for name in ("realm_id", "client_id", "client_secret", "username")}
        answer = httpx.post(f"{url}/v1/auth/token", json=known | {"password": "ada"})
        assert answer.status_code == 200


def test_a_fixture_that_the_server_refuses_ends_with_its_words(tmp_path: Path) -> None:
    (tmp_path / "dev.toml").write_text(FIXTURES.replace("a long enough phrase", "x" * 257))
    done = qimem("dev", "--bind", "127.0.0.1:0", "--fixtures", tmp_path / "dev.toml")
    assert (done.code, done.out) == (2, "")
    assert "password too weak" in done.err


def test_a_wrong_fixtures_file_is_refused(tmp_path: Path) -> None:
    done = qimem("dev", "--fixtures", tmp_path / "none.toml")
    assert (done.code, done.out) == (78, "")
