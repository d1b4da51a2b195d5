"""The cluster of the compose file without an engine: its nodes, commands, secrets, addresses and proxy as they are written.

Each node has a layer, a volume and a network of its own, joined by a bridge with the addresses of the file; PostgreSQL and
Redis, with the accounts that `deploy/make-secrets` made, stand at the gateway under the names that the file gives them.
"""

from __future__ import annotations

import ipaddress
import json
import re
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.architecture.sources import ROOT
from tests.deploy.files import ADDRESS, compose, only
from tests.support.containers import Bridge, Container
from tests.support.postgres import Cluster
from tests.support.processes import eventually
from tests.support.proxy import FILES, Proxy, proxy
from tests.support.server import ok, refused
from tests.support.valkey import Valkey
from tests.support.volume import volume

FILE = compose("compose.cluster.yaml", QIMEM_EXTERNAL_URL=ADDRESS)
SERVICES = FILE["services"]
(_FRONT,) = FILE["networks"]["front"]["ipam"]["config"]
NETWORK = ipaddress.ip_network(_FRONT["subnet"])
GATEWAY = _FRONT["gateway"]
COUNTS = SERVICES["counts"]["command"][1:]
PATH = {"PATH": "/opt/qimem/bin:/usr/bin:/bin"}


def secrets(directory: Path) -> Path:
    subprocess.run([ROOT / "deploy/make-secrets", directory], check=True, capture_output=True)
    return directory


def test_every_secret_of_the_file_is_made_once_and_for_its_reader(tmp_path: Path) -> None:
    made = secrets(tmp_path / "secrets")
    files = {path.name: path for path in made.iterdir()}
    assert files.keys() == FILE["secrets"].keys()
    assert made.stat().st_mode & 0o777 == 0o700
    for name in SERVICES["qimem-a"]["secrets"]:
        assert (files[name].stat().st_uid, files[name].stat().st_mode & 0o777) == (10001, 0o400)
    assert files["qimem-root-key"].stat().st_size == 32
    before = {name: path.read_bytes() for name, path in files.items()}
    secrets(made)
    assert {path.name: path.read_bytes() for path in made.iterdir()} == before
    assert secrets(tmp_path / "others").joinpath("qimem-root-key").read_bytes() != before["qimem-root-key"]


def test_secrets_of_one_account_are_made_together(tmp_path: Path) -> None:
    made = secrets(tmp_path / "secrets")
    (made / "valkey-users").unlink()
    secrets(made)
    password = (made / "qimem-valkey-url").read_text().split(":")[2].partition("@")[0]
    assert f">{password} " in (made / "valkey-users").read_text()


def address(name: str) -> str:
    found: str = SERVICES[name]["networks"]["front"]["ipv4_address"]
    return found


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Bridge, Path]]:
    """The network with database and counts in it, and the directory of the secrets."""
    made = secrets(tmp_path / "secrets")
    bridge = Bridge(f"qimem{uuid.uuid4().hex[:6]}", f"{GATEWAY}/{NETWORK.prefixlen}")
    bridge.speak_as(address("proxy"))
    users = [str(made / word.rpartition("/")[2]) if "/run/secrets/" in word else word for word in COUNTS]
    monkeypatch.setattr("tests.support.postgres._free_port", lambda: 5432)
    with bridge.inside():
        postgres = Cluster(listen_addresses=f"127.0.0.1,{GATEWAY}")
        counts = Valkey(tmp_path, ("--bind", GATEWAY, "--port", "6379", *users)).start()
        access = postgres.directory / "data/pg_hba.conf"
        access.write_text(f"{access.read_text()}host all qimem {NETWORK} scram-sha-256\n")
        password = (made / "postgres-password").read_text()
        postgres.execute(f"CREATE ROLE qimem LOGIN PASSWORD '{password}'")
        postgres.execute("CREATE DATABASE qimem OWNER qimem")
        postgres.execute("SELECT pg_reload_conf()")
    try:
        yield bridge, made
    finally:
        counts.end()
        postgres.stop()
        bridge.close()


def node(name: str, directory: Path, bridge: Bridge, made: Path) -> Container:
    service = SERVICES[name]
    (volume_name,) = (mount.partition(":")[0] for mount in service["volumes"])
    container = Container(
        directory / f"layer-{uuid.uuid4().hex[:6]}",
        directory / volume_name,
        10001,
        secrets=[made / secret for secret in service["secrets"]],
        bridge=bridge,
        address=address(name),
        hosts={"database": GATEWAY, "counts": GATEWAY},
    )
    # What Valkey lost when it was started is waited for: a window, which is a minute otherwise.
    environment = PATH | service["environment"] | {"QIMEM_LIMITS__ADDRESS": "1200/15"}
    container.start([*only("ENTRYPOINT").words, *service["command"]], environment)
    container.ready()
    return container


@pytest.mark.acceptance
def test_two_nodes_are_one_server(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    # Six servers: in full, or not at all.
    if not volume(1, least=0):
        return
    bridge, made = request.getfixturevalue("cluster")
    nodes = {name: node(name, tmp_path, bridge, made) for name in ("qimem-a", "qimem-b")}
    text = (FILES / "nodes.cluster.conf").read_text()
    for name in nodes:
        text = text.replace(f"{name}:8080", f"{address(name)}:8080")
    try:
        with bridge.inside(), proxy(tmp_path / "nginx", text) as front:
            known = json.loads((nodes["qimem-a"].volume / "data.credentials.json").read_text())
            what_one_node_did_holds_on_the_other(front, known)
            who_asks_is_counted_once_by_both(front)
            assert nodes["qimem-a"].stop() == 0
            with httpx.Client(base_url=front.url, verify=front.trust) as client:
                for _ in range(10):
                    ok(client.get("/ready"))
            nodes["qimem-a"] = node("qimem-a", tmp_path, bridge, made)
            ok(httpx.get(f"http://{address('qimem-a')}:8080/ready"))
    finally:
        for container in nodes.values():
            container.kill()


def what_one_node_did_holds_on_the_other(front: Proxy, known: dict[str, str]) -> None:
    credentials = {
        key: known[key] for key in ("client_id", "client_secret", "realm_id", "username", "password")
    }
    with httpx.Client(base_url=front.url, verify=front.trust, timeout=30) as client:
        token = ok(client.post("/v1/auth/token", json=credentials))["access_token"]
    headers = {"Authorization": f"Bearer {token}"}
    first, second = (
        httpx.Client(base_url=f"http://{address(name)}:8080", headers=headers, timeout=30)
        for name in ("qimem-a", "qimem-b")
    )
    with first, second:
        ok(first.post("/v1/security/keys", json={"name": "orders"}))
        sealed = ok(first.post("/v1/security/encrypt", json={"name": "orders", "input": "4111"}))
        answer = ok(second.post("/v1/security/decrypt", json={"envelope": sealed["envelope"]}))
        assert answer["plaintext"] == "4111"
        ok(first.post("/v1/auth/token/revoke", json={"token": token}))
        refused(second.get("/v1/auth/me"), 401, "invalid_token")


def who_asks_is_counted_once_by_both(front: Proxy) -> None:
    with httpx.Client(base_url=front.url, verify=front.trust, timeout=30) as client:

        def asked(name: str) -> int:
            return int(client.get("/v1/auth/me").headers[f"x-ratelimit-{name}"])

        # Alone, each admits its half.
        eventually(lambda: {asked("limit"), asked("limit")} == {1200}, seconds=40)
        begun = asked("reset")
        eventually(lambda: asked("reset") != begun, seconds=20)
        left = [asked("remaining") for _ in range(6)]
    assert left == list(range(left[0], left[0] - 6, -1))
    # Asked in turn, so both nodes wrote down what the proxy said of the address.
    assert len(set(re.findall(r"/v1/auth/me\" 401 \S+ (\S+) ", front.log))) == 2
