"""`qimem operator recover`: a way in for who holds the host, and a record of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.api import World
from tests.support.audit_log import logged
from tests.support.changes import changed
from tests.support.cli import qimem
from tests.support.load import a_world
from tests.support.server import Server, ok


def sign_in(world: World, told: dict[str, Any]) -> str:
    body = {name: told[name] for name in ("client_id", "client_secret", "realm_id", "username", "password")}
    token: str = ok(world.anonymous().post("/v1/auth/token", json=body))["access_token"]
    return token


def test_who_holds_the_host_gets_in_while_the_server_runs(tmp_path: Path) -> None:
    server = Server(tmp_path, workers=2)
    with a_world(server) as world:
        done = qimem("operator", "recover", "--data-dir", server.data, "--username", "rescue", "-o", "json")
        assert (done.code, done.err) == (0, "")
        assert done.json["username"] == "rescue"
        rescue = world.bearer(sign_in(world, done.json))
        found = ok(rescue.get("/v1/auth/me"))
        assert (found["roles"], found["permissions"]) == (["operator"], ["*"])
        ok(rescue.post("/v1/auth/realms", json={"id": "after", "name": "After"}))
        (record,) = ok(rescue.get("/v1/audit/events", params={"event": "operator.recover"}))["items"]
        assert (record["outcome"], record["target"], record["realm"]) == ("ok", found["sub"], "system")
    (kept,) = [one for one in logged(server.data) if one.event == "operator.recover"]
    assert (kept.id, kept.target) == (record["id"], record["target"])
    assert qimem("audit", "verify", "--data-dir", server.data).code == 0


def test_it_works_without_a_server_and_the_next_one_knows(tmp_path: Path) -> None:
    server = Server(tmp_path)
    with a_world(server):
        pass
    done = qimem("operator", "recover", "--data-dir", server.data, "-o", "json")
    assert done.code == 0
    with a_world(server) as world:
        sign_in(world, done.json)


def test_no_rule_of_the_realm_shuts_the_operators_out(tmp_path: Path) -> None:
    server = Server(tmp_path)
    with a_world(server) as world:
        ok(changed(world.operator, "/v1/auth/realms/system", {"password_min_length": 64}))
        done = qimem("operator", "recover", "--data-dir", server.data, "--username", "rescue", "-o", "json")
        assert (done.code, done.err) == (0, "")
        sign_in(world, done.json)


def test_nobody_is_overwritten(tmp_path: Path) -> None:
    server = Server(tmp_path)
    with a_world(server):
        pass
    for username, code in (("admin", 7), ("ADMIN", 7), ("a b", 2), ("", 2)):
        done = qimem("operator", "recover", "--data-dir", server.data, "--username", username)
        assert (done.code, done.out) == (code, "")


@pytest.mark.parametrize("missing", ["installation", "key"])
def test_data_and_key_are_both_needed(tmp_path: Path, missing: str) -> None:
    server = Server(tmp_path)
    if missing == "key":
        with a_world(server):
            pass
        Path(f"{server.data}.root.key").unlink()
    done = qimem("operator", "recover", "--data-dir", server.data)
    assert (done.code, done.out) == (78, "")
    assert not Path(f"{server.data}.root.key").exists()
