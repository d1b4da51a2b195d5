"""The answer to COMMIT is lost: nobody knows what happened, and the repetition finds out."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator

import pytest

from tests.faults.postgres.conftest import BACK_SECONDS, Node
from tests.support.api import PASSWORD
from tests.support.customers import KEYS, REFRESH, ROTATE, TOKEN
from tests.support.load import Reply, Wire
from tests.support.postgres import Cluster
from tests.support.postgres_proxy import Cut
from tests.support.processes import eventually
from tests.support.volume import volume

_numbers = itertools.count(1)
UNKNOWN = (503, "outcome_unknown")
KINDS = ("key", "rotation", "role", "user", "client")
ROUNDS = volume(100, share=0.02)


@contextlib.contextmanager
def cutting(node: Node, where: Cut) -> Iterator[None]:
    node.proxy.cut = where
    try:
        yield
    finally:
        node.proxy.cut = None


def request(kind: str, realm_id: str, wire: Wire) -> tuple[str, dict[str, object], str]:
    """Where, what, and the table in which it makes one row."""
    name = f"{kind}-{next(_numbers)}"
    if kind == "rotation":
        return ROTATE, {"key_id": wire.done(KEYS, {})["key_id"]}, "kms_version"
    return {
        "key": (KEYS, {"name": name}, "kms_version"),
        "role": ("/v1/auth/roles", {"realm_id": realm_id, "name": name, "permissions": ["a"]}, "role"),
        "user": (
            "/v1/auth/users",
            {"realm_id": realm_id, "username": name, "password": PASSWORD, "roles": []},
            "app_user",
        ),
        "client": ("/v1/auth/clients", {"realm_id": realm_id, "redirect_uris": []}, "client"),
    }[kind]


def count(node: Node, table: str) -> int:
    return node.cluster.execute(
        f"SELECT count(*) FROM {table} WHERE realm_id = '{node.person.realm_id}'", node.database
    )[0][0]


def cut_off(node: Node, kind: str, where: Cut) -> tuple[Reply, Reply, int]:
    """What was told when COMMIT was cut, what its repetition was told, and how many were made."""
    with contextlib.closing(Wire(node.server.url, node.person.access_token)) as wire:
        path, body, table = request(kind, node.person.realm_id, wire)
        key, before, cuts = f"cut-{next(_numbers)}", count(node, table), node.proxy.cuts
        with cutting(node, where):
            first = wire.post(path, body, idempotency_key=key)
        assert node.proxy.cuts > cuts
        again: list[Reply] = []

        def answered() -> bool:
            again.append(wire.post(path, body, idempotency_key=key))
            return again[-1].status != 503

        eventually(answered, seconds=BACK_SECONDS)
        return first, again[-1], count(node, table) - before


@pytest.mark.acceptance
@pytest.mark.parametrize("where", ["answer", "question"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_commit_without_an_answer_is_unknown_and_its_repetition_has_one_effect(
    node: Node, kind: str, where: Cut
) -> None:
    node.person.pair = node.person.login_after_a_fault()
    for _ in range(ROUNDS if kind != "user" else max(1, ROUNDS // 4)):
        first, again, made = cut_off(node, kind, where)
        assert first.short == UNKNOWN
        assert "retry-after" in first.headers
        assert (first.received - first.sent) / 1e9 < 1.0
        assert made == 1
        if where == "question":
            assert (again.status, again.headers.get("idempotency-replayed")) == (200, None)
        elif kind == "client":
            assert again.short == (409, "already_done")
        else:
            assert (again.status, again.headers.get("idempotency-replayed")) == (200, "true")


def test_a_lost_answer_to_a_login_is_told(node: Node) -> None:
    with contextlib.closing(Wire(node.server.url)) as wire, cutting(node, "answer"):
        reply = wire.post(TOKEN, node.person.credentials())
        assert reply.short == UNKNOWN
        assert "retry-after" in reply.headers


def test_who_lost_the_answer_to_a_refresh_still_has_a_session(node: Node) -> None:
    pair = node.person.login_after_a_fault()
    with contextlib.closing(Wire(node.server.url)) as wire:
        with cutting(node, "answer"):
            assert wire.post(REFRESH, {"refresh_token": pair["refresh_token"]}).short == UNKNOWN
        wire.token = wire.done(REFRESH, {"refresh_token": pair["refresh_token"]})["access_token"]
        assert wire.get(KEYS).status == 200


def test_a_commit_whose_replication_was_not_waited_for_is_not_acknowledged(node: Node) -> None:
    """It is on the primary alone, and gone if another one takes over."""
    node.person.pair = node.person.login_after_a_fault()
    cluster = node.cluster
    cluster.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    cluster.execute("SELECT pg_reload_conf()")
    try:
        with contextlib.closing(Wire(node.server.url, node.person.access_token)) as wire:
            wire.send("POST", KEYS, {})
            eventually(lambda: cancelled(cluster, node.database) > 0, seconds=0.8)
            assert wire.receive().short == UNKNOWN
    finally:
        cluster.execute("ALTER SYSTEM RESET synchronous_standby_names")
        cluster.execute("SELECT pg_reload_conf()")


def cancelled(cluster: Cluster, database: str) -> int:
    return cluster.execute(
        "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity"
        f" WHERE wait_event = 'SyncRep' AND datname = '{database}'"
    )[0][0]


def test_a_server_that_takes_a_lost_answer_for_a_refusal_is_found_out(careless: Node) -> None:
    first, _, made = cut_off(careless, "key", "answer")
    assert (first.short, made) == ((503, "storage_unavailable"), 1)
