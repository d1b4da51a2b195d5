"""`/v1/auth/realms`: what is there, and ending it for a while or for ever."""

from __future__ import annotations

from typing import Any

import pytest

from qimem.jobs.tasks import MARGIN_SECONDS, RemainsSweep
from qimem.kernel.clock import MICROSECONDS, SystemClock
from qimem.storage.repositories.realm_remains import RealmRemainsRepository
from qimem.storage.schema import METADATA, realm, realm_kek, realm_remains
from tests.support.api import Person, World
from tests.support.audit_log import of_request
from tests.support.changes import changed
from tests.support.oauth import PROTECTED, Behind, behind, nobody, protected, rows
from tests.support.server import ok, refused

REALMS = "/v1/auth/realms"


@pytest.fixture
def admin(each_world: World) -> Person:
    return each_world.person()


def test_an_operator_sees_all_realms_and_others_their_own(each_world: World, admin: Person) -> None:
    own = ok(admin.get(f"{REALMS}/{admin.realm_id}"))
    assert ok(admin.get(REALMS)) == {"items": [own], "next_cursor": None}
    assert (own["id"], own["enabled"]) == (admin.realm_id, True)
    found: list[dict[str, Any]] = []
    query: dict[str, Any] = {"limit": 3}
    while True:
        page = ok(each_world.operator.get(REALMS, params=query))
        found += page["items"]
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
    ids = [realm["id"] for realm in found]
    assert ids == sorted(set(ids))
    assert {"system", admin.realm_id} <= set(ids)
    assert own in found
    assert ok(each_world.operator.get(f"{REALMS}/{admin.realm_id}")) == own


def test_beyond_the_own_realm_there_is_nothing(each_world: World, admin: Person) -> None:
    foreign = each_world.realm()
    for realm_id in (foreign, "system", "absent", "Not-A-Realm", "x" * 64):
        path = f"{REALMS}/{realm_id}"
        for answer in (admin.get(path), changed(admin.http, path, {"name": "mine"}, "*")):
            assert refused(answer, 404, "realm_not_found")["error"] == f"realm not found: {realm_id}"
    for verb in ("disable", "enable"):
        refused(admin.post(f"{REALMS}/{foreign}/{verb}"), 403, "permission_denied")
        refused(admin.post(f"{REALMS}/{admin.realm_id}/{verb}"), 403, "permission_denied")
    refused(
        admin.http.delete(f"{REALMS}/{admin.realm_id}?confirm={admin.realm_id}"), 403, "permission_denied"
    )
    ok(admin.get(PROTECTED))


def test_an_administrator_renames_the_realm_and_no_more(admin: Person) -> None:
    path = f"{REALMS}/{admin.realm_id}"
    before = ok(admin.get(path))
    assert ok(changed(admin.http, path, {"name": "Shop & Söhne"})) == before | {"name": "Shop & Söhne"}
    for change in (
        {"name": ""},
        {"name": "x" * 257},
        {"name": "a\u202eb"},
        {"name": None},
        {"id": "x"},
        {"enabled": False},
    ):
        refused(changed(admin.http, path, change), 400, "invalid_field")


def test_nothing_of_a_disabled_realm_works_and_after_enable_all_of_it_does(
    each_world: World, admin: Person
) -> None:
    ok(admin.get(PROTECTED))
    path = f"{REALMS}/{admin.realm_id}"
    answer = each_world.operator.post(f"{path}/disable")
    assert ok(answer)["enabled"] is False
    (record,) = of_request(each_world.server.data, answer.headers["x-request-id"])
    assert (record["event"], record["target"]) == ("realms.disable", admin.realm_id)
    refused(admin.get(PROTECTED), 401, "invalid_token")
    refused(nobody(each_world).post("/v1/auth/token", json=admin.credentials()), 401, "invalid_client")
    refresh = {"refresh_token": admin.refresh_token}
    refused(nobody(each_world).post("/v1/auth/token/refresh", json=refresh), 400, "invalid_grant")
    credentials = {"client_id": admin.client_id, "client_secret": admin.client_secret}
    introspect = {"token": admin.access_token} | credentials
    refused(nobody(each_world).post("/v1/auth/token/introspect", json=introspect), 401, "invalid_client")
    assert ok(each_world.operator.get(path))["enabled"] is False
    assert ok(each_world.operator.post(f"{path}/enable"))["enabled"] is True
    ok(admin.get(PROTECTED))
    ok(protected(each_world, admin.login()["access_token"]))


def test_the_platform_is_not_ended(each_world: World) -> None:
    refused(each_world.operator.post(f"{REALMS}/system/disable"), 409, "conflict")
    refused(each_world.operator.delete(f"{REALMS}/system?confirm=system"), 409, "conflict")
    ok(each_world.operator.get(PROTECTED))


@pytest.mark.parametrize(
    "query", ["", "?confirm=", "?confirm=other", "?confirm={} ", "?confirm={}&confirm={}", "?Confirm={}"]
)
def test_a_slip_destroys_nothing(each_world: World, admin: Person, query: str) -> None:
    path = f"{REALMS}/{admin.realm_id}{query.replace('{}', admin.realm_id)}"
    assert each_world.operator.delete(path).status_code == 400
    ok(admin.get(PROTECTED))


def test_a_deleted_realm_is_gone_with_all_that_it_protected(each_world: World, admin: Person) -> None:
    key = ok(admin.post("/v1/security/keys", {"name": "orders"}))
    sealed = ok(admin.post("/v1/security/encrypt", {"key_id": key["key_id"], "input": "4111"}))
    path = f"{REALMS}/{admin.realm_id}"
    answer = each_world.operator.delete(f"{path}?confirm={admin.realm_id}")
    assert ok(answer) == {"deleted": True}
    (record,) = of_request(each_world.server.data, answer.headers["x-request-id"])
    assert (record["event"], record["target"], record["realm"]) == ("realms.delete", admin.realm_id, "system")

    refused(admin.get(PROTECTED), 401, "invalid_token")
    refused(admin.post("/v1/security/decrypt", {"envelope": sealed["envelope"]}), 401, "invalid_token")
    refused(nobody(each_world).post("/v1/auth/token", json=admin.credentials()), 401, "invalid_client")
    refresh = {"refresh_token": admin.refresh_token}
    refused(nobody(each_world).post("/v1/auth/token/refresh", json=refresh), 400, "invalid_grant")
    refused(nobody(each_world).get(f"/realms/{admin.realm_id}/jwks"), 404, "realm_not_found")
    operator = each_world.operator
    for again in (
        operator.get(path),
        operator.post(f"{path}/enable"),
        operator.delete(f"{path}?confirm={admin.realm_id}"),
        operator.post(
            "/v1/security/decrypt", json={"envelope": sealed["envelope"], "realm_id": admin.realm_id}
        ),
        operator.get("/v1/auth/users", params={"realm_id": admin.realm_id}),
    ):
        refused(again, 404, "realm_not_found")
    assert admin.realm_id not in [
        realm["id"] for realm in ok(operator.get(REALMS, params={"limit": 200}))["items"]
    ]
    # Whoever took the id again would be taken for the one before.
    body = {"id": admin.realm_id, "name": "again"}
    refused(operator.post(REALMS, json=body), 409, "already_exists")


def test_the_key_of_a_deleted_realm_is_overwritten(each_world: World, admin: Person) -> None:
    before = rows(each_world.server, realm_kek, realm_id=admin.realm_id)
    ok(each_world.operator.delete(f"{REALMS}/{admin.realm_id}?confirm={admin.realm_id}"))
    after = rows(each_world.server, realm_kek, realm_id=admin.realm_id)
    assert [row["version"] for row in after] == [row["version"] for row in before] == [1]
    assert set(bytes(before[0]["wrapped"])) != {0}
    assert bytes(after[0]["wrapped"]) == bytes(len(before[0]["wrapped"]))


def test_what_is_left_of_a_deleted_realm_is_removed(each_world: World, admin: Person) -> None:
    for n in range(3):
        key = ok(admin.post("/v1/security/keys", {"name": f"key{n}"}))
        ok(admin.post("/v1/security/rotate", {"key_id": key["key_id"]}))
        each_world.user(admin.realm_id, ["realm-admin"])
        admin.login()
    ok(admin.post("/v1/auth/token/revoke", {"token": admin.access_token}))
    ok(each_world.operator.delete(f"{REALMS}/{admin.realm_id}?confirm={admin.realm_id}"))

    async def sweep(here: Behind) -> None:
        await RemainsSweep(here.database, RealmRemainsRepository(), clock).run()

    clock = AheadClock(0)
    behind(each_world.server, sweep)
    left = {
        table.name: rows(each_world.server, table, realm_id=admin.realm_id)
        for table in METADATA.tables.values()
        if "realm_id" in table.c and table.name not in {"realm", "realm_remains"}
    }
    assert {name for name, found in left.items() if found} == set()
    # A straggler may still write: the realm is looked after until nothing can be under way any more.
    assert rows(each_world.server, realm_remains, realm_id=admin.realm_id)
    clock = AheadClock(2 * MARGIN_SECONDS)
    behind(each_world.server, sweep)
    assert not rows(each_world.server, realm_remains, realm_id=admin.realm_id)
    (kept,) = rows(each_world.server, realm, realm_id=admin.realm_id)
    assert kept["deleted_us"] is not None
    refused(each_world.operator.post(REALMS, json={"id": admin.realm_id, "name": "x"}), 409, "already_exists")


class AheadClock(SystemClock):
    """A clock that is ahead by some seconds."""

    def __init__(self, seconds: int) -> None:
        super().__init__()
        self._ahead_us = seconds * MICROSECONDS

    def now_us(self) -> int:
        return super().now_us() + self._ahead_us
