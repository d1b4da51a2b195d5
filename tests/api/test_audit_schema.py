"""Every endpoint's record holds what the table says, in the file, before the answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from qimem.audit.schema import EVERY_RECORD, OF_A_CALLER
from qimem.bootstrap.serving import ENDPOINTS
from qimem.web.kit.endpoint import Endpoint
from tests.api.examples import Stage, play, world_of_its_own
from tests.support.api import Person, World
from tests.support.audit_log import of_request

RECORDED = [endpoint for endpoint in ENDPOINTS if endpoint.audit.recorded]
COUNTED = [endpoint for endpoint in ENDPOINTS if not endpoint.audit.recorded]
GUARDED = [endpoint for endpoint in ENDPOINTS if endpoint.permission is not None]
MAY_STAND = frozenset({"items", "failed", "used"})

by_name = pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.name)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stage, dict[str, httpx.Response]]]:
    """Each example once, on a server of its own."""
    with world_of_its_own(tmp_path_factory.mktemp("audited")) as world:
        yield play(world)


def found(world: World, answer: httpx.Response) -> list[dict[str, Any]]:
    return of_request(world.server.data, answer.headers["x-request-id"])


def test_changes_and_uses_are_recorded_and_reads_are_not() -> None:
    assert {endpoint.name for endpoint in RECORDED} == {
        "keys.create", "keys.rotate", "keys.encrypt", "keys.decrypt", "keys.disable", "keys.enable",
        "realms.create", "roles.create", "clients.create", "users.create",
        "tokens.issue", "tokens.refresh", "tokens.revoke", "signing-keys.rotate", "users.disable", "users.enable",
        "users.revoke-grants", "users.delete", "users.update", "users.assign-roles", "users.remove-roles",
        "users.set-password", "users.disable-totp", "me.change-password", "me.enrol-totp", "me.confirm-totp",
        "me.disable-totp", "me.renew-recovery-codes", "roles.update", "roles.delete", "clients.update", "clients.disable",
        "clients.enable", "clients.assign-roles", "clients.remove-roles", "clients.rotate-secret", "clients.delete",
        "realms.update", "realms.disable", "realms.enable", "realms.delete",
    }  # fmt: skip
    asking = {endpoint.name for endpoint in COUNTED if endpoint.method != "GET"}
    assert asking == {"tokens.introspect", "authz.explain"}


@pytest.mark.parametrize("endpoint", RECORDED, ids=lambda endpoint: endpoint.name)
def test_a_success_has_one_record_with_the_declared_facts(endpoint: Endpoint, played: Any) -> None:
    place, answers = played
    assert answers[endpoint.name].status_code == 200
    (record,) = found(place.world, answers[endpoint.name])
    caller = OF_A_CALLER if endpoint.needs_bearer else EVERY_RECORD
    assert (record["event"], record["outcome"]) == (endpoint.name, "ok")
    assert set(record) - MAY_STAND == caller | endpoint.audit.facts | (set(record) & {"token"})
    assert all(value not in ("", None) for value in record.values())
    assert record["address"] == "127.0.0.1"


@pytest.mark.parametrize("endpoint", COUNTED, ids=lambda endpoint: endpoint.name)
def test_a_read_has_none(endpoint: Endpoint, played: Any) -> None:
    place, answers = played
    assert found(place.world, answers[endpoint.name]) == []


@pytest.mark.parametrize("endpoint", GUARDED, ids=lambda endpoint: endpoint.name)
def test_a_denial_has_one_whatever_was_asked_for(endpoint: Endpoint, played: Any) -> None:
    place, _ = played
    powerless = place.world.person("orders:approve")
    answer = place.call(endpoint, powerless.http)
    assert answer.status_code == 403
    (record,) = found(place.world, answer)
    assert (record["event"], record["outcome"]) == (endpoint.name, "permission_denied")
    assert (record["realm"], record["client"]) == (powerless.realm_id, powerless.client_id)
    assert set(record) - {"key"} == OF_A_CALLER


@pytest.mark.parametrize("endpoint", GUARDED, ids=lambda endpoint: endpoint.name)
def test_a_stranger_has_none_of_their_own(endpoint: Endpoint, played: Any) -> None:
    place, _ = played
    answer = place.call(endpoint, place.nobody)
    assert answer.status_code == 401
    assert found(place.world, answer) == []


def test_who_used_which_version_is_told(world: World, admin: Person) -> None:
    key = admin.post("/v1/security/keys", {}).json()
    answer = admin.post("/v1/security/encrypt", {"key_id": key["key_id"], "input": "x"})
    (record,) = found(world, answer)
    assert (record["key"], record["version"], record["realm"]) == (key["key_id"], 1, admin.realm_id)


def test_a_refused_use_tells_the_key_and_why(world: World, admin: Person) -> None:
    key = admin.post("/v1/security/keys", {}).json()["key_id"]
    sealed = admin.post("/v1/security/encrypt", {"key_id": key, "input": "x"}).json()["envelope"]
    admin.post(f"/v1/security/keys/{key}/disable")
    for answer in (
        admin.post("/v1/security/encrypt", {"key_id": key, "input": "x"}),
        admin.post("/v1/security/decrypt", {"input": sealed}),
    ):
        (record,) = found(world, answer)
        assert (record["outcome"], record["key"]) == ("key_disabled", key)


def test_a_batch_counts_uses_of_each_version_and_failures(world: World, admin: Person) -> None:
    keys = [admin.post("/v1/security/keys", {}).json()["key_id"] for _ in range(2)]
    items = [{"key_id": keys[0], "input": "a"}, {"key_id": keys[1], "input": "b"}]
    answer = admin.post("/v1/security/encrypt", {"items": [*items, items[0], {"name": "none", "input": "c"}]})
    (record,) = found(world, answer)
    assert (record["outcome"], record["items"], record["failed"]) == ("ok", 4, 1)
    assert {use["key"]: use["count"] for use in record["used"]} == {keys[0]: 2, keys[1]: 1}


def test_a_replay_is_told_apart(world: World, admin: Person) -> None:
    once = {"Idempotency-Key": world.fresh("once")}
    first = admin.post("/v1/security/keys", {}, headers=once)
    again = admin.post("/v1/security/keys", {}, headers=once)
    assert again.headers["idempotency-replayed"] == "true"
    (record,) = found(world, again)
    assert (record["outcome"], record["target"]) == ("replayed", first.json()["key_id"])


def test_a_wrong_password_of_an_existing_user_has_a_record_and_of_another_none(
    world: World, admin: Person
) -> None:
    wrong = admin.credentials() | {"password": "not the right phrase"}
    answer = admin.post("/v1/auth/token", wrong)
    (record,) = found_soon(world, answer)
    assert (record["event"], record["outcome"], record["realm"]) == (
        "tokens.issue",
        "invalid_grant",
        admin.realm_id,
    )
    unknown = admin.post("/v1/auth/token", wrong | {"username": "nobody"})
    assert unknown.status_code == answer.status_code
    assert found(world, unknown) == []


@pytest.mark.parametrize("by", ["password", "client_credentials"])
def test_who_proves_an_identity_and_asks_for_too_much_has_a_record(
    world: World, admin: Person, by: str
) -> None:
    shown = admin.credentials() | {"scope": "of-somebody-else"}
    if by == "client_credentials":
        shown = {
            name: shown[name] for name in ("client_id", "client_secret", "realm_id", "scope") if name in shown
        }
        shown["grant_type"] = by
    answer = admin.post("/v1/auth/token", shown)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_scope")
    (record,) = found_soon(world, answer)
    assert (record["event"], record["outcome"], record["realm"]) == (
        "tokens.issue",
        "invalid_scope",
        admin.realm_id,
    )
    assert record["subject"]
    assert "token" not in record


def test_a_reused_refresh_token_is_told_with_its_grant(world: World) -> None:
    person = world.person()
    first = person.refresh_token
    for token in (
        first,
        person.post("/v1/auth/token/refresh", {"refresh_token": first}).json()["refresh_token"],
    ):
        person.post("/v1/auth/token/refresh", {"refresh_token": token})
    answer = person.post("/v1/auth/token/refresh", {"refresh_token": first})
    assert answer.status_code == 400
    (record,) = found(world, answer)
    assert record["outcome"] == "refresh_token_reused"
    assert record["target"]


def test_a_revocation_of_nothing_has_no_record(world: World, admin: Person) -> None:
    answer = admin.post("/v1/auth/token/revoke", {"token": "unknown"})
    assert answer.status_code == 200
    assert found(world, answer) == []


def test_an_operator_in_another_realm_stands_in_that_realms_log(world: World, admin: Person) -> None:
    answer = world.operator.post("/v1/security/keys", json={"realm_id": admin.realm_id})
    (record,) = found(world, answer)
    assert record["realm"] == admin.realm_id


def found_soon(world: World, answer: httpx.Response) -> list[dict[str, Any]]:
    """Records that nobody waits for."""
    from tests.support.processes import eventually

    eventually(lambda: found(world, answer) != [])
    return found(world, answer)
