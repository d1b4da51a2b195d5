"""`qimem.testing`: a server that is there when a test asks for it, and gone without a trace."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from qimem.client import Client, Forbidden, NotFound, Unauthorized
from qimem.config.schema import Settings
from qimem.kernel.refusal import Refused
from qimem.testing import serve
from qimem.testing import server as module
from qimem.wire.common import RealmQuery
from qimem.wire.security import CreateKeyRequest

EXAMPLE = """
from qimem.wire.security import CreateKeyRequest

def test_one(qimem_tenant):
    qimem_tenant.admin.keys.create(CreateKeyRequest(name="cards"))
    assert qimem_tenant.admin.decrypt(qimem_tenant.admin.encrypt(b"4111", name="cards")) == b"4111"

def test_two(qimem_tenant):
    assert list(qimem_tenant.admin.keys.list()) == []
"""


def test_pytest_finds_the_fixtures_by_itself(tmp_path: Path) -> None:
    (tmp_path / "test_example.py").write_text(EXAMPLE)
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
    assert done.stderr == ""
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ""] == ["test_example.py"]


def test_a_run_that_asks_for_no_server_imports_none() -> None:
    code = "import sys, qimem.testing.plugin; sys.exit('qimem.bootstrap' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_was_there_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    before, places, in_memory = set(threading.enumerate()), [], module.in_memory

    @contextmanager
    def noted(settings: Settings) -> Iterator[Settings]:
        with in_memory(settings) as made:
            places.append(made.server.data_dir)
            yield made

    monkeypatch.setattr(module, "in_memory", noted)
    with serve() as server:
        assert httpx.get(f"{server.url}/health").status_code == 200
        assert places[0].is_dir()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.url}/health")
    assert not places[0].parent.exists()
    # No thread that ends the process later, as one does with a server that was told to stop by a signal.
    assert [thread for thread in threading.enumerate() if thread not in before] == []


def test_two_servers_know_nothing_of_each_other() -> None:
    with serve() as one, serve() as other:
        tenant = one.tenant()
        tenant.admin.me.get()
        elsewhere = Client.of_application(other.url, tenant.client_id, tenant.client_secret, tenant.realm_id)
        with elsewhere, pytest.raises(Unauthorized):
            elsewhere.me.get()


def test_tenants_are_apart(qimem_server) -> None:
    one, other = qimem_server.tenant(), qimem_server.tenant()
    key = one.admin.keys.create(CreateKeyRequest(name="orders"))
    with pytest.raises(NotFound):
        other.admin.keys.get(key.key_id)
    with pytest.raises(NotFound):
        other.admin.keys.get(key.key_id, RealmQuery(realm_id=one.realm_id))
    assert list(other.admin.keys.list()) == []


def test_users_have_the_roles_they_were_given(qimem_tenant) -> None:
    qimem_tenant.user("ada", "x", roles=["realm-admin"])
    qimem_tenant.user("grace", "x")
    with qimem_tenant.signed_in("ada", "x") as ada, qimem_tenant.signed_in("grace", "x") as grace:
        ada.keys.create(CreateKeyRequest(name="orders"))
        with pytest.raises(Forbidden) as caught:
            grace.keys.create(CreateKeyRequest(name="others"))
    assert caught.value.permission == "keys:create"


def test_time_passes_when_it_is_told_to() -> None:
    with serve() as server:
        tenant = server.tenant()
        key = tenant.admin.keys.create(CreateKeyRequest(name="orders"))
        server.clock.advance(86_400)
        later = tenant.admin.keys.create(CreateKeyRequest(name="later"))
        assert later.created_at > key.created_at
        with pytest.raises(ValueError, match="does not go back"):
            server.clock.advance(-1)


def test_a_server_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object) -> None:
        raise Refused("not here")

    monkeypatch.setattr(module, "initialise_in_memory", refuse)
    with pytest.raises(Refused, match="not here"), serve():
        pytest.fail("it serves")
