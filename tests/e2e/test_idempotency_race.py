"""One Idempotency-Key sent many times at once, on two workers: one effect, one answer."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import pytest

from tests.support.api import PASSWORD, Person, World
from tests.support.load import (
    CARELESS,
    PLACES,
    Reply,
    Request,
    Wire,
    burst,
    operator_of,
    post,
    rows,
    shared_server,
    spread,
    tireless,
)
from tests.support.volume import volume

KEYS, ROTATE = "/v1/security/keys", "/v1/security/rotate"
IN_PROGRESS, ALREADY_DONE = (409, "in_progress"), (409, "already_done")
_numbers = itertools.count(1)

Make = Callable[[Person, Wire], tuple[Request, str]]
"""Prepares a request; with it, the table in which it makes one row."""


def a_key(person: Person, wire: Wire) -> tuple[Request, str]:
    return post(KEYS, {}), "kms_version"


def a_named_key(person: Person, wire: Wire) -> tuple[Request, str]:
    return post(KEYS, {"name": f"orders-{next(_numbers)}"}), "kms_version"


def a_rotation_by_id(person: Person, wire: Wire) -> tuple[Request, str]:
    return post(ROTATE, {"key_id": wire.done(KEYS)["key_id"]}), "kms_version"


def a_rotation_by_lineage(person: Person, wire: Wire) -> tuple[Request, str]:
    return post(ROTATE, {"lineage_id": wire.done(KEYS)["key_id"]}), "kms_version"


def a_role(person: Person, wire: Wire) -> tuple[Request, str]:
    name = f"role-{next(_numbers)}"
    return post("/v1/auth/roles", {"realm_id": person.realm_id, "name": name, "permissions": ["a"]}), "role"


def a_user(person: Person, wire: Wire) -> tuple[Request, str]:
    name = f"user-{next(_numbers)}"
    body = {"realm_id": person.realm_id, "username": name, "password": PASSWORD, "roles": []}
    return post("/v1/auth/users", body), "app_user"


def a_client(person: Person, wire: Wire) -> tuple[Request, str]:
    return post("/v1/auth/clients", {"realm_id": person.realm_id, "redirect_uris": []}), "client"


OPEN = [a_key, a_named_key, a_rotation_by_id, a_rotation_by_lineage, a_role]


def count(world: World, person: Person, table: str) -> int:
    return rows(world.server, f"SELECT count(*) FROM {table} WHERE realm_id = ?", person.realm_id)[0][0]


def race(world: World, make: Make, rounds: int, *, secret: bool = False) -> list[str]:
    """Eight at once with one key, and then eight more; what went wrong."""
    person = tireless(world)
    findings = []
    with spread(world.server, person.access_token) as wires:
        for number in range(rounds):
            request, table = make(person, wires[number % len(wires)])
            before = count(world, person, table)
            key = f"key-{next(_numbers)}"
            at_once = burst(wires, request, idempotency_key=key)
            afterwards = burst(wires, request, idempotency_key=key)
            findings += _judged(at_once, afterwards, secret=secret)
            made = count(world, person, table) - before
            if made != 1:
                findings.append(f"{made} made")
    return findings


def _judged(at_once: Sequence[Reply], afterwards: Sequence[Reply], *, secret: bool) -> list[str]:
    done = [reply for reply in at_once if reply.status == 200]
    first = [reply for reply in done if "idempotency-replayed" not in reply.headers]
    waiting = {IN_PROGRESS, ALREADY_DONE} if secret else {IN_PROGRESS}
    findings = [
        f"at once: {reply.short}" for reply in at_once if reply.status != 200 and reply.short not in waiting
    ]
    if len(first) != 1:
        findings.append(f"{len(first)} answers say that they made it")
    replays = [*(reply for reply in done if reply not in first)]
    if secret:
        findings += [f"afterwards: {reply.short}" for reply in afterwards if reply.short != ALREADY_DONE]
    else:
        replays += afterwards
    findings += [
        f"replay {reply.short} {reply.body}, not {done[0].body}"
        for reply in replays
        if not done or reply.status != 200 or reply.body != done[0].body
        or reply.headers.get("idempotency-replayed") != "true"
    ]  # fmt: skip
    return findings


@pytest.fixture(scope="module", params=PLACES)
def two_workers(request: pytest.FixtureRequest) -> Iterator[World]:
    """The operator of a sound server."""
    with operator_of(shared_server(request, request.param)) as world:
        yield world


@pytest.fixture(scope="module")
def careless(request: pytest.FixtureRequest) -> Iterator[World]:
    """The operator of a server that looks first and acts later."""
    with operator_of(shared_server(request, "sqlite", *CARELESS)) as world:
        yield world


@pytest.mark.acceptance
@pytest.mark.parametrize("make", OPEN)
def test_eight_at_once_with_one_key_have_one_effect_and_one_answer(two_workers: World, make: Make) -> None:
    assert race(two_workers, make, volume(200, share=0.03)) == []


@pytest.mark.acceptance
def test_eight_users_at_once_with_one_key_are_one_user(two_workers: World) -> None:
    # Each attempt hashes the password, so fewer of them.
    assert race(two_workers, a_user, volume(50)) == []


@pytest.mark.acceptance
def test_an_answer_with_a_secret_is_given_once(two_workers: World) -> None:
    assert race(two_workers, a_client, volume(200, share=0.03), secret=True) == []


@pytest.mark.acceptance
def test_of_two_bodies_under_one_key_one_has_an_effect(two_workers: World) -> None:
    person = tireless(two_workers)
    with spread(two_workers.server, person.access_token) as wires:
        for number in range(volume(200, share=0.03)):
            before = count(two_workers, person, "kms_version")
            for place, wire in enumerate(wires):
                name = f"body-{number}-{place // 2 % 2}"
                wire.send(*post(KEYS, {"name": name}), idempotency_key=f"two-bodies-{number}")
            replies = [wire.receive() for wire in wires]
            assert len({reply.body["name"] for reply in replies if reply.status == 200}) == 1
            others = {reply.short for reply in replies if reply.status != 200}
            assert others <= {IN_PROGRESS, (422, "idempotency_mismatch")}
            assert count(two_workers, person, "kms_version") - before == 1


def test_keys_that_are_known_to_one_worker_alone_are_found_out(careless: World) -> None:
    findings = race(careless, a_key, 2)
    assert any(finding.endswith(" made") for finding in findings), findings
