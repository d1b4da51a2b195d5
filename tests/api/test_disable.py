"""Disable and enable over HTTP: from the next request on, for every worker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from tests.support.api import Person, World
from tests.support.kms import ABSENT, DECRYPT, ENCRYPT, KEYS, Rows, alike, new_key, rotate, seal, unsealed
from tests.support.server import Server, ok, refused


@pytest.fixture(scope="module")
def each_admin(each_world: World) -> Person:
    return each_world.person()


def disable(person: Person, key_id: str, scope: str | None = None) -> dict[str, Any]:
    return ok(person.post(f"{KEYS}/{key_id}/disable", None if scope is None else {"scope": scope}))


def enable(person: Person, key_id: str, scope: str | None = None) -> dict[str, Any]:
    return ok(person.post(f"{KEYS}/{key_id}/enable", None if scope is None else {"scope": scope}))


def enabled(person: Person, key_id: str) -> list[bool]:
    return [version["enabled"] for version in ok(person.get(f"{KEYS}/{key_id}"))["versions"]]


def is_refused(answer: httpx.Response, key_id: str) -> None:
    assert refused(answer, 400, "key_disabled")["error"] == f"key is disabled: {key_id}"


def test_a_disabled_version_neither_encrypts_nor_decrypts(each_admin: Person) -> None:
    key = new_key(each_admin, name="off")
    envelope = seal(each_admin, name="off")
    assert unsealed(each_admin, envelope) == "a secret"
    assert disable(each_admin, key["key_id"]) == {**key, "enabled": False}
    for named in ({"key_id": key["key_id"]}, {"lineage_id": key["lineage_id"]}, {"name": "off"}):
        is_refused(each_admin.post(ENCRYPT, {**named, "input": "x"}), key["key_id"])
        is_refused(each_admin.post(DECRYPT, {**named, "input": envelope}), key["key_id"])


def test_an_enabled_version_does_both_again(each_admin: Person) -> None:
    key = new_key(each_admin, name="on")
    envelope = seal(each_admin, name="on")
    for _ in range(3):
        disable(each_admin, key["key_id"])
        is_refused(each_admin.post(DECRYPT, {"input": envelope}), key["key_id"])
        assert enable(each_admin, key["key_id"]) == key
        assert unsealed(each_admin, envelope) == "a secret"
        assert unsealed(each_admin, seal(each_admin, "again", name="on")) == "again"


def test_the_state_shows_in_what_is_read(each_admin: Person) -> None:
    key = new_key(each_admin)
    disable(each_admin, key["key_id"])
    off = {**key, "enabled": False}
    assert ok(each_admin.get(f"{KEYS}/{key['key_id']}")) == {**off, "versions": [off]}


@pytest.mark.parametrize("verb", ["disable", "enable"])
def test_saying_it_twice_changes_nothing_more(each_admin: Person, verb: str) -> None:
    path = f"{KEYS}/{new_key(each_admin)['key_id']}/{verb}"
    assert ok(each_admin.post(path)) == ok(each_admin.post(path))


@pytest.mark.parametrize("body", [None, {}, {"scope": None}, {"scope": "version"}])
def test_one_version_is_meant_unless_the_lineage_is_named(
    each_admin: Person, body: dict[str, Any] | None
) -> None:
    key = new_key(each_admin)
    rotate(each_admin, key_id=key["key_id"])
    assert ok(each_admin.post(f"{KEYS}/{key['key_id']}/disable", body))["key_id"] == key["key_id"]
    assert enabled(each_admin, key["key_id"]) == [False, True]


def test_an_inactive_version_is_disabled_alone(each_admin: Person) -> None:
    old = new_key(each_admin, name="alone")
    envelopes = [seal(each_admin, "old", name="alone")]
    new = rotate(each_admin, name="alone")
    envelopes.append(seal(each_admin, "new", name="alone"))
    disable(each_admin, old["key_id"], "version")
    is_refused(each_admin.post(DECRYPT, {"input": envelopes[0]}), old["key_id"])
    assert unsealed(each_admin, envelopes[1]) == "new"
    disable(each_admin, new["key_id"], "version")
    enable(each_admin, old["key_id"], "version")
    assert unsealed(each_admin, envelopes[0]) == "old"
    is_refused(each_admin.post(ENCRYPT, {"name": "alone", "input": "x"}), new["key_id"])


def test_a_lineage_is_disabled_and_enabled_by_any_of_its_versions(each_admin: Person) -> None:
    first = new_key(each_admin)
    envelope = seal(each_admin, key_id=first["key_id"])
    second = rotate(each_admin, key_id=first["key_id"])
    assert disable(each_admin, first["key_id"], "lineage") == {**first, "active": False, "enabled": False}
    assert enabled(each_admin, second["key_id"]) == [False, False]
    is_refused(each_admin.post(DECRYPT, {"input": envelope}), first["key_id"])
    is_refused(each_admin.post(ENCRYPT, {"lineage_id": first["lineage_id"], "input": "x"}), second["key_id"])
    enable(each_admin, second["key_id"])
    assert enabled(each_admin, second["key_id"]) == [False, True]
    assert enable(each_admin, second["key_id"], "lineage") == second
    assert unsealed(each_admin, envelope) == "a secret"


def test_other_keys_go_on(each_admin: Person) -> None:
    off, on = new_key(each_admin), new_key(each_admin)
    envelope = seal(each_admin, key_id=on["key_id"])
    disable(each_admin, off["key_id"], "lineage")
    assert unsealed(each_admin, envelope) == "a secret"
    assert enabled(each_admin, on["key_id"]) == [True]


@pytest.mark.parametrize("verb", ["disable", "enable"])
@pytest.mark.parametrize(
    "body", [{"scope": "all"}, {"scope": ""}, {"scope": "Version"}, {"scope": 1}, {"scope": ["lineage"]}]
)
def test_another_scope_is_refused(admin: Person, verb: str, body: dict[str, Any]) -> None:
    key_id = new_key(admin)["key_id"]
    answer = refused(admin.post(f"{KEYS}/{key_id}/{verb}", body), 400, "invalid_field")
    assert list(answer["fields"]) == ["/scope"]
    assert enabled(admin, key_id) == [True]


def test_an_unknown_field_is_refused(admin: Person) -> None:
    answer = refused(admin.post(f"{KEYS}/{ABSENT}/disable", {"scop": "version"}), 400, "invalid_field")
    assert answer["fields"] == {"/scop": "unknown field; did you mean scope?"}


@pytest.mark.parametrize("spelled", [str.upper, lambda text: text.replace("-", "")])
def test_a_key_is_named_in_any_spelling_of_a_uuid(admin: Person, spelled) -> None:
    key_id = new_key(admin)["key_id"]
    assert disable(admin, spelled(key_id))["key_id"] == key_id


@pytest.mark.parametrize("verb", ["disable", "enable"])
@pytest.mark.parametrize("asked", ["orders", f"urn:uuid:{ABSENT}", ABSENT[:-1], ABSENT.replace("-", "", 1)])
def test_what_is_no_uuid_names_no_key(admin: Person, verb: str, asked: str) -> None:
    body = refused(admin.post(f"{KEYS}/{asked}/{verb}"), 404, "key_not_found")
    assert body["error"] == f"key not found: {asked}"


@pytest.mark.parametrize("verb", ["disable", "enable"])
@pytest.mark.parametrize("scope", ["version", "lineage"])
def test_a_key_of_another_realm_is_not_found_like_an_absent_one(
    each_world: World, each_admin: Person, verb: str, scope: str
) -> None:
    them = each_world.person()
    theirs = new_key(them)["key_id"]
    if verb == "enable":
        disable(them, theirs)
    answers = [
        (each_admin.post(f"{KEYS}/{asked}/{verb}", {"scope": scope}), asked) for asked in (theirs, ABSENT)
    ]
    assert refused(answers[1][0], 404, "key_not_found")["error"] == f"key not found: {ABSENT}"
    alike(*answers)
    assert enabled(them, theirs) == [verb == "disable"]


def test_the_realms_own_keys_cannot_be_switched_off(each_world: World, each_admin: Person) -> None:
    for key_id in Rows(each_world.server).internal_keys(each_admin.realm_id):
        for scope in ("version", "lineage"):
            refused(each_admin.post(f"{KEYS}/{key_id}/disable", {"scope": scope}), 404, "key_not_found")


def test_an_operator_disables_in_another_realm_only_by_naming_it(world: World, admin: Person) -> None:
    path = f"{KEYS}/{new_key(admin)['key_id']}/disable"
    refused(world.operator.post(path), 404, "key_not_found")
    refused(admin.post(path, {"realm_id": "nowhere"}), 404, "realm_not_found")
    assert ok(world.operator.post(path, json={"realm_id": admin.realm_id}))["enabled"] is False


@pytest.mark.parametrize("verb", ["disable", "enable"])
def test_without_the_permission_nothing_is_looked_up(world: World, admin: Person, verb: str) -> None:
    person = world.person("keys:create", "keys:rotate", "keys:read", realm_id=admin.realm_id)
    key_id = new_key(admin)["key_id"]
    asked = [(person.post(f"{KEYS}/{name}/{verb}"), name) for name in (key_id, ABSENT)]
    alike(*asked)
    body = refused(asked[0][0], 403, "permission_denied")
    assert (body["error"], body["permission"]) == ("permission denied: keys:manage", "keys:manage")
    assert enabled(admin, key_id) == [True]


def test_a_scope_covers_its_own_lineage_and_no_other(each_world: World, each_admin: Person) -> None:
    mine, other = new_key(each_admin), new_key(each_admin)
    person = each_world.person(f"keys:manage:{mine['lineage_id']}", realm_id=each_admin.realm_id)
    newer = rotate(each_admin, key_id=mine["key_id"])
    disable(person, newer["key_id"], "lineage")
    enable(person, mine["key_id"])
    for verb in ("disable", "enable"):
        body = refused(person.post(f"{KEYS}/{other['key_id']}/{verb}"), 403, "permission_denied")
        assert (body["permission"], body["resource"]) == ("keys:manage", f"lineage {other['lineage_id']}")
    refused(person.post(f"{KEYS}/{ABSENT}/disable"), 404, "key_not_found")
    assert enabled(each_admin, other["key_id"]) == [True]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def two_workers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    url = None
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_cluster").create(migrated=False)
    server = Server(tmp_path_factory.mktemp("two-workers"), workers=2, database_url=url).start()
    world = World(server)
    yield world
    world.close()
    server.stop()


def test_no_worker_uses_a_version_that_was_disabled_or_rotated_away(two_workers: World) -> None:
    person = two_workers.person()
    with ExitStack() as stack:
        # Each connection is held by one of the workers; eight of them hardly all by the same.
        clients = [stack.enter_context(two_workers.server.client(person.access_token)) for _ in range(8)]
        for turn in range(5):
            key = new_key(person)
            body = {"lineage_id": key["lineage_id"], "input": "x"}
            envelope = seal(person, key_id=key["key_id"])
            assert all(client.post(ENCRYPT, json=body).status_code == 200 for client in clients)
            newer = rotate(Person(**{**vars(person), "http": clients[turn]}), key_id=key["key_id"])
            for client in clients:
                refused(
                    client.post(ENCRYPT, json={"key_id": key["key_id"], "input": "x"}), 400, "key_inactive"
                )
                assert ok(client.post(ENCRYPT, json=body))["key_id"] == newer["key_id"]
                assert ok(client.post(DECRYPT, json={"input": envelope}))["version"] == 1
            ok(clients[turn].post(f"{KEYS}/{key['key_id']}/disable", json={"scope": "lineage"}))
            for client in clients:
                is_refused(client.post(ENCRYPT, json=body), newer["key_id"])
                is_refused(client.post(DECRYPT, json={"input": envelope}), key["key_id"])
            ok(clients[turn].post(f"{KEYS}/{newer['key_id']}/enable", json={"scope": "lineage"}))
            assert all(
                client.post(DECRYPT, json={"input": envelope}).status_code == 200 for client in clients
            )
