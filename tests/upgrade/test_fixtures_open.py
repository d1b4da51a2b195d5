"""This version opens the installation of every released version, and everything in it still works."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import sqlalchemy as sa

from qimem.bootstrap.backup import judge_backup
from qimem.kernel.secret import SecretBytes
from qimem.storage.database import DatabaseLocation
from qimem.storage.migrations.runner import HEAD
from qimem.storage.schema import METADATA
from tests.contract.storage.test_migrations import connected, differences
from tests.support.cli import qimem
from tests.support.postgres import Cluster
from tests.support.server import Server, ok, refused
from tests.upgrade.make_fixture import FIXTURES, make

CHANGELOG = Path(__file__).parents[2] / "CHANGELOG.md"
VERSIONS = sorted(path.name for path in FIXTURES.iterdir() if path.is_dir())
KINDS = ("sqlite", "postgresql")


@dataclass
class Opened:
    """A server on a copy of a fixture. Tests share it, so each leaves it as usable as it was."""

    server: Server
    known: dict[str, Any]
    credentials: dict[str, str]

    @contextmanager
    def ada(self) -> Iterator[httpx.Client]:
        """The user of the fixture, signed in."""
        token = ok(self.login(self.known["login"]))["access_token"]
        with self.server.client(token) as client:
            yield client

    def login(self, body: dict[str, str]) -> httpx.Response:
        with self.server.client() as client:
            return client.post("/v1/auth/token", json=body)

    def envelopes(self, *, disabled: bool = False) -> list[dict[str, str]]:
        """Recorded envelopes of enabled keys, or of the disabled one."""
        return [
            sealed
            for sealed in self.known["envelopes"]
            if (sealed["key_id"] == self.known["disabled"]) == disabled
        ]


def restore(fixture: Path, directory: Path, cluster: Cluster | None) -> str | None:
    """Copy a fixture to where a server can use it; the URL of its database, if it has a server."""
    data = directory / "data"
    data.mkdir(mode=0o700)
    private = {directory / "data.root.key": bytes.fromhex((fixture / "root.key.hex").read_text())}
    if cluster is None:
        private[data / "qimem.db"] = (fixture / "qimem.db").read_bytes()
    for path, content in private.items():
        path.touch(0o600)
        path.write_bytes(content)
    if cluster is None:
        return None
    url = cluster.create(migrated=False)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute((fixture / "dump.sql").read_bytes())
    return url


@pytest.fixture(
    scope="module", params=[(version, kind) for version in VERSIONS for kind in KINDS], ids="-".join
)
def opened(request, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    version, kind = request.param
    fixture, directory = FIXTURES / version / kind, tmp_path_factory.mktemp("upgrade")
    cluster = request.getfixturevalue("postgres_cluster") if kind == "postgresql" else None
    server = Server(directory, database_url=restore(fixture, directory, cluster))
    server.start()
    known, credentials = (
        json.loads((fixture / f"{name}.json").read_text()) for name in ("known", "credentials")
    )
    yield Opened(server, known, credentials)
    server.stop()


def test_the_operator_signs_in(opened: Opened) -> None:
    names = ("realm_id", "client_id", "client_secret", "username", "password")
    token = ok(opened.login({name: opened.credentials[name] for name in names}))["access_token"]
    with opened.server.client(token) as operator:
        ok(operator.get("/v1/security/keys", params={"realm_id": opened.known["realm_id"]}))


def test_user_and_client_sign_in_with_what_they_may_do(opened: Opened) -> None:
    for body in (opened.known["login"], opened.known["client_login"] | {"grant_type": "client_credentials"}):
        payload = ok(opened.login(body))["access_token"].split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
        assert set(claims["permissions"]) == set(opened.known["permissions"])
        assert claims["iss"] == f"{opened.credentials['external_url']}/realms/{opened.known['realm_id']}"
    assert claims["sub"] == opened.known["login"]["client_id"]


@pytest.mark.parametrize(
    ("wrong", "code"), [("password", "invalid_grant"), ("client_secret", "invalid_client")]
)
def test_nobody_signs_in_with_something_wrong(opened: Opened, wrong: str, code: str) -> None:
    answer = opened.login(opened.known["login"] | {wrong: "something wrong"})
    refused(answer, 400 if wrong == "password" else 401, code)


def test_a_pair_is_refreshed_and_revoked(opened: Opened) -> None:
    pair = ok(opened.login(opened.known["login"]))
    with opened.server.client() as client:
        renewed = ok(client.post("/v1/auth/token/refresh", json={"refresh_token": pair["refresh_token"]}))
        ok(client.post("/v1/auth/token/revoke", json={"token": renewed["refresh_token"]}))
    with opened.server.client(renewed["access_token"]) as client:
        refused(client.get("/v1/security/keys"), 401, "invalid_token")


def test_the_realm_still_publishes_the_keys_of_its_tokens(opened: Opened) -> None:
    with opened.server.client() as client:
        keys = ok(client.get(f"/realms/{opened.known['realm_id']}/jwks"))["keys"]
    assert {key["kid"] for key in keys} >= set(opened.known["kids"])


def test_every_recorded_envelope_opens(opened: Opened) -> None:
    with opened.ada() as ada:
        for sealed in opened.envelopes():
            body = {"input": sealed["envelope"], "key_id": sealed["key_id"], "encoding": "base64"}
            answer = ok(ada.post("/v1/security/decrypt", json=body))
            expected = (
                base64.b64decode(sealed["input_b64"]) if "input_b64" in sealed else sealed["input"].encode()
            )
            assert base64.b64decode(answer["plaintext_b64"]) == expected
            assert (answer["key_id"], answer["version"]) == (sealed["key_id"], sealed["version"])
    assert len(opened.envelopes()) >= 6


def test_a_tampered_envelope_does_not_open(opened: Opened) -> None:
    sealed = bytearray(base64.b64decode(opened.envelopes()[0]["envelope"]))
    sealed[-1] ^= 1
    with opened.ada() as ada:
        answer = ada.post("/v1/security/decrypt", json={"input": base64.b64encode(sealed).decode()})
        refused(answer, 400, "decryption_failed")


def test_a_disabled_key_stays_disabled_until_it_is_enabled(opened: Opened) -> None:
    (sealed,) = opened.envelopes(disabled=True)
    path, decrypt = f"/v1/security/keys/{sealed['key_id']}", {"input": sealed["envelope"]}
    with opened.ada() as ada:
        refused(ada.post("/v1/security/decrypt", json=decrypt), 400, "key_disabled")
        encrypt = {"name": sealed["name"], "input": "x"}
        refused(ada.post("/v1/security/encrypt", json=encrypt), 400, "key_disabled")
        ok(ada.post(f"{path}/enable"))
        assert ok(ada.post("/v1/security/decrypt", json=decrypt))["plaintext"] == sealed["input"]
        ok(ada.post(f"{path}/disable"))


def test_an_old_version_does_not_encrypt(opened: Opened) -> None:
    with opened.ada() as ada:
        for sealed in opened.envelopes():
            if sealed["name"] == "orders" and sealed["version"] < 3:
                answer = ada.post("/v1/security/encrypt", json={"key_id": sealed["key_id"], "input": "x"})
                refused(answer, 400, "key_inactive")


def test_rotation_goes_on_where_it_was(opened: Opened) -> None:
    with opened.ada() as ada:
        before = ok(ada.get("/v1/security/keys"))["items"]
        orders = next(key for key in before if key["name"] == "orders")
        rotated = ok(ada.post("/v1/security/rotate", json={"name": "orders"}))
        assert (rotated["version"], rotated["lineage_id"]) == (orders["version"] + 1, orders["lineage_id"])
        sealed = ok(ada.post("/v1/security/encrypt", json={"name": "orders", "input": "new"}))
        assert sealed["version"] == rotated["version"]
        oldest = next(
            known for known in opened.envelopes() if known["version"] == 1 and known["name"] == "orders"
        )
        assert (
            ok(ada.post("/v1/security/decrypt", json={"input": oldest["envelope"]}))["plaintext"]
            == oldest["input"]
        )


def test_every_version_of_every_key_is_as_it_was(opened: Opened) -> None:
    lasting = ("key_id", "lineage_id", "version", "algorithm", "name", "created_at")
    with opened.ada() as ada:
        for key in opened.known["keys"]:
            found = ok(ada.get(f"/v1/security/keys/{key['key_id']}"))["versions"]
            now = [{name: version[name] for name in lasting} for version in found]
            assert [{name: version[name] for name in lasting} for version in key["versions"]] == now[
                : len(key["versions"])
            ]


def test_taken_names_are_still_taken(opened: Opened) -> None:
    with opened.ada() as ada:
        refused(ada.post("/v1/security/keys", json={"name": "orders"}), 409, "already_exists")


def test_it_has_the_schema_of_a_new_installation(opened: Opened) -> None:
    # Also of the fixture that this version made: a released migration was not edited.
    with connected(DatabaseLocation(opened.server.data, opened.server.database_url)) as connection:
        assert differences(connection) == []
        inspector = sa.inspect(connection)
        for table in METADATA.tables.values():
            keys = inspector.get_pk_constraint(table.name)["constrained_columns"]
            assert keys == [column.name for column in table.primary_key.columns]


def test_doctor_finds_nothing_wrong(opened: Opened) -> None:
    url = opened.server.database_url
    database = ("--database-url", url) if url else ()
    done = qimem("doctor", "--data-dir", opened.server.data, *database, "-o", "json")
    assert done.code == 0, done.out
    states = {row["check"]: row["state"] for row in done.json}
    assert "fail" not in states.values()
    assert states["root key match"] == "ok"


def test_a_crash_right_after_the_upgrade_loses_nothing(opened: Opened) -> None:
    opened.server.kill()
    opened.server.start()
    with opened.ada() as ada:
        sealed = opened.envelopes()[0]
        assert (
            ok(ada.post("/v1/security/decrypt", json={"input": sealed["envelope"]}))["plaintext"]
            == sealed["input"]
        )


def test_the_data_as_it_was_is_kept(opened: Opened) -> None:
    (kept,) = opened.server.directory.glob("data.schema-*.backup")
    root_key = SecretBytes(Path(f"{opened.server.data}.root.key").read_bytes())
    judged = judge_backup(kept, root_key)
    assert judged.header.schema == kept.name.split("-")[1] != HEAD
    # Of the envelopes' keys none is missing, those of the realms themselves come on top.
    assert judged.rows["kms_version"] > len({sealed["key_id"] for sealed in opened.known["envelopes"]})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", VERSIONS)
def test_a_fixture_says_of_which_version_it_is(version: str, kind: str) -> None:
    assert json.loads((FIXTURES / version / kind / "known.json").read_text())["version"] == version


def test_every_released_version_has_its_fixture() -> None:
    released = re.findall(r"^## \[(\d[^\]]*)\]", CHANGELOG.read_text(), re.MULTILINE)
    assert set(released) <= set(VERSIONS)
    assert VERSIONS


def test_no_fixture_is_left_out_of_version_control() -> None:
    files = [str(path) for path in FIXTURES.rglob("*") if path.is_file()]
    ignored = subprocess.run(
        ["git", "check-ignore", *files], cwd=FIXTURES, capture_output=True, text=True, check=False
    )
    assert (ignored.returncode, ignored.stdout) == (1, "")


def test_a_fixture_is_never_made_anew(tmp_path: Path) -> None:
    (tmp_path / "promise").write_text("kept")
    with pytest.raises(FileExistsError):
        make(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["promise"]
