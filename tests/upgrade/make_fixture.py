"""Keeps an installation of this version, for every later version to open.

    python -m tests.upgrade.make_fixture [directory]

Starts a server on each kind of database, fills it over HTTP, stops it, and copies what it left to
`fixtures/<version>/` (or the named directory). What exists already is never touched: a fixture of
a released version is a promise to the people who run it.
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx

from qimem import __version__
from tests.support.postgres import Cluster, programs
from tests.support.server import Server, ok

FIXTURES = Path(__file__).parent / "fixtures"
EXTERNAL_URL = "https://id.example"
REALM, PASSWORD = "acme", "a long enough phrase"
BINARY = bytes(range(256))

# Its header names versions and tools, and psql's own commands are not SQL.
_NOT_SQL = re.compile(r"^(--.*|\\.*)\n", re.MULTILINE)
_MANY_EMPTY_LINES = re.compile(r"\n{3,}")


def make(directory: Path) -> None:
    """Make the fixture of this version.

    Raises:
        FileExistsError: there is one already.
    """
    directory.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as work:
        server = _server(Path(work), None)
        _keep(server, directory / "sqlite")
        # A clean stop leaves one file: the log is merged and gone.
        assert [path.name for path in server.data.iterdir()] == ["qimem.db"]
        (directory / "sqlite" / "qimem.db").write_bytes((server.data / "qimem.db").read_bytes())
    cluster = Cluster()
    try:
        url = cluster.create(migrated=False)
        with tempfile.TemporaryDirectory() as work:
            _keep(_server(Path(work), url), directory / "postgresql")
        (directory / "postgresql" / "dump.sql").write_text(_dump(url))
    finally:
        cluster.stop()


def _server(work: Path, url: str | None) -> Server:
    return Server(work, database_url=url, extra=("--external-url", EXTERNAL_URL))


def _keep(server: Server, directory: Path) -> None:
    """Fill an installation, stop it, and write down what it must still know."""
    directory.mkdir()
    server.start()
    try:
        with server.client(server.token()) as operator:
            known = _fill(operator, server)
    finally:
        assert server.stop() == 0
    known["version"] = __version__
    credentials = server.credentials
    names = ("realm_id", "client_id", "client_secret", "username", "password", "external_url")
    (directory / "credentials.json").write_text(_json({name: credentials[name] for name in names}))
    (directory / "root.key.hex").write_text(Path(f"{server.data}.root.key").read_bytes().hex() + "\n")
    (directory / "known.json").write_text(_json(known))


def _fill(operator: httpx.Client, server: Server) -> dict[str, Any]:
    ok(operator.post("/v1/auth/realms", json={"id": REALM, "name": "Acme Corporation"}))
    permissions = ["keys:create", "keys:encrypt", "keys:decrypt", "keys:rotate", "keys:read", "keys:manage",
                   "orders:approve"]  # fmt: skip
    ok(
        operator.post(
            "/v1/auth/roles", json={"realm_id": REALM, "name": "cipher", "permissions": permissions}
        )
    )
    uris = ["https://shop.example/callback", "com.example.shop:/callback"]
    client = ok(operator.post("/v1/auth/clients", json={"realm_id": REALM, "redirect_uris": uris, "name": "shop",
                                                        "roles": ["cipher"]}))  # fmt: skip
    user = {
        "realm_id": REALM,
        "username": "Ada",
        "password": PASSWORD,
        "roles": ["cipher"],
        "email": "ada@mail.example",
    }
    user_id = ok(operator.post("/v1/auth/users", json=user))["id"]
    login = {"realm_id": REALM, "client_id": client["client_id"], "client_secret": client["client_secret"]}
    person = login | {"username": "ada", "password": PASSWORD}
    token = ok(operator.post("/v1/auth/token", json=person))["access_token"]
    with server.client(token) as ada:
        known = _keys(ada)
        jwks = ok(ada.get(f"/realms/{REALM}/jwks"))
    kids = [key["kid"] for key in jwks["keys"]]
    return {"realm_id": REALM, "user_id": user_id, "login": person, "client_login": login, "kids": kids,
            "permissions": permissions, **known}  # fmt: skip


def _keys(ada: httpx.Client) -> dict[str, Any]:
    """A key that was rotated twice, one of the other cipher, and one that was disabled."""
    envelopes: list[dict[str, str]] = []

    def encrypt(name: str, **plaintext: str) -> None:
        sealed = ok(ada.post("/v1/security/encrypt", json={"name": name, **plaintext}))
        envelopes.append({"name": name, **sealed, **plaintext})

    for name, algorithm in (
        ("orders", "aes256_gcm"),
        ("chacha", "chacha20_poly1305"),
        ("stopped", "aes256_gcm"),
    ):
        ok(ada.post("/v1/security/keys", json={"name": name, "algorithm": algorithm}))
        encrypt(name, input=f"of {name}, version 1")
    for version in (2, 3):
        ok(ada.post("/v1/security/rotate", json={"name": "orders"}))
        encrypt("orders", input=f"of orders, version {version} – Grüße")
    encrypt("orders", input="")
    encrypt("chacha", input_b64=base64.b64encode(BINARY).decode())
    stopped = next(sealed for sealed in envelopes if sealed["name"] == "stopped")
    ok(ada.post(f"/v1/security/keys/{stopped['key_id']}/disable"))
    keys = ok(ada.get("/v1/security/keys"))["items"]
    details = [ok(ada.get(f"/v1/security/keys/{key['key_id']}")) for key in keys]
    return {"keys": details, "envelopes": envelopes, "disabled": stopped["key_id"]}


def _dump(url: str) -> str:
    command = [programs() / "pg_dump", "--inserts", "--no-owner", "--no-privileges", "--dbname", url]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return _MANY_EMPTY_LINES.sub("\n\n", _NOT_SQL.sub("", text)).strip() + "\n"


def _json(content: object) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else FIXTURES / __version__)
