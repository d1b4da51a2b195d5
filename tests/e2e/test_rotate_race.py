"""One key, two workers: its rotations make one line, and its messages are counted together."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

import pytest

from qimem.kernel.limits import LEASE_BLOCK_MIN, MESSAGES_PER_VERSION_MAX
from tests.support.api import World
from tests.support.load import (
    CARELESS,
    DATABASES,
    PLACES,
    Reply,
    Wire,
    a_world,
    burst,
    get,
    new_server,
    of_each_worker,
    operator_of,
    post,
    rows,
    shared_server,
    spread,
    tireless,
)
from tests.support.volume import volume

KEYS, ENCRYPT, ROTATE = "/v1/security/keys", "/v1/security/encrypt", "/v1/security/rotate"


def by_id(wires: Sequence[Wire], rounds: int) -> list[str]:
    """Eight by the id of the active version, again and again on the winner's; what went wrong."""
    key = wires[0].done(KEYS)
    findings = []
    for _ in range(rounds):
        replies = burst(wires, post(ROTATE, {"key_id": key["key_id"]}))
        won = [reply.body for reply in replies if reply.status == 200]
        lost = [reply.short for reply in replies if reply.status != 200]
        if len(won) != 1 or lost != [(409, "key_inactive")] * (len(wires) - 1):
            findings.append(f"{len(won)} winners, and {lost}")
        findings += made_of(wires, key, won)
        key = newest(wires, key)
    return findings


def by_lineage(wires: Sequence[Wire], rounds: int) -> list[str]:
    """Eight by lineage: each makes a version of its own."""
    key = wires[0].done(KEYS)
    findings = []
    for _ in range(rounds):
        replies = burst(wires, post(ROTATE, {"lineage_id": key["lineage_id"]}))
        findings += [f"{reply.short}" for reply in replies if reply.status != 200]
        findings += made_of(wires, key, [reply.body for reply in replies if reply.status == 200])
        key = newest(wires, key)
    return findings


def mixed(wires: Sequence[Wire], rounds: int) -> list[str]:
    """Half of them by id and half by lineage, with encryptions behind each that must know the outcome."""
    key = wires[0].done(KEYS)
    findings = []
    for _ in range(rounds):
        for number, wire in enumerate(wires):
            field = ("key_id", "lineage_id")[number // 2 % 2]
            wire.send(*post(ROTATE, {field: key[field]}))
        replies = [wire.receive() for wire in wires]
        won = [reply.body for reply in replies if reply.status == 200]
        lost = [reply.short for reply in replies if reply.status != 200]
        findings += [f"{short}" for short in lost if short != (409, "key_inactive")]
        findings += made_of(wires, key, won)
        key = newest(wires, key)
    return findings


def made_of(wires: Sequence[Wire], old: dict[str, Any], made: Sequence[dict[str, Any]]) -> list[str]:
    """What is wrong with the lineage after these answers, on every worker and by all that is told of it."""
    findings = []
    expected = list(range(old["version"] + 1, old["version"] + 1 + len(made)))
    if sorted(answer["version"] for answer in made) != expected:
        findings.append(f"answers tell {sorted(answer['version'] for answer in made)}, not {expected}")
    for reply in burst(wires, get(f"{KEYS}/{old['key_id']}")):
        versions = reply.body["versions"]
        numbers = [version["version"] for version in versions]
        active = [version["version"] for version in versions if version["active"]]
        if numbers != list(range(1, old["version"] + len(made) + 1)) or active != numbers[-1:]:
            findings.append(f"versions {numbers}, active {active}")
        stored = {version["key_id"]: version["version"] for version in versions}
        if not {answer["key_id"]: answer["version"] for answer in made}.items() <= stored.items():
            findings.append("an answer tells of a version that is not there")
    used: list[Reply] = burst(wires, post(ENCRYPT, {"lineage_id": old["lineage_id"], "input": "x"}))
    told = {(reply.status, reply.body.get("version")) for reply in used}
    if told != {(200, old["version"] + len(made))}:
        findings.append(f"encrypted afterwards under {told}")
    return findings


def newest(wires: Sequence[Wire], key: dict[str, Any]) -> dict[str, Any]:
    versions = wires[0].get(f"{KEYS}/{key['key_id']}").body["versions"]
    return next(version for version in reversed(versions) if version["active"])


def on_eight_wires(world: World, race, rounds: int) -> list[str]:
    """Run the race in a realm of its own; the lineages of one run stay short."""
    findings = []
    for _ in range(-(-rounds // 10)):
        with spread(world.server, tireless(world).access_token) as wires:
            findings += race(wires, min(rounds, 10))
    return findings


@pytest.fixture(scope="module", params=PLACES)
def two_workers(request: pytest.FixtureRequest) -> Iterator[World]:
    """The operator of a sound server."""
    with operator_of(shared_server(request, request.param)) as world:
        yield world


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest) -> str:
    """A kind of database, for servers that the test kills or drains."""
    return request.param


@pytest.fixture(scope="module")
def careless(request: pytest.FixtureRequest) -> Iterator[World]:
    """The operator of a server that looks first and acts later."""
    with operator_of(shared_server(request, "sqlite", *CARELESS)) as world:
        yield world


@pytest.mark.acceptance
def test_of_eight_rotations_by_id_at_once_exactly_one_wins(two_workers: World) -> None:
    assert on_eight_wires(two_workers, by_id, volume(200, share=0.05)) == []


@pytest.mark.acceptance
def test_eight_rotations_by_lineage_at_once_make_eight_versions_in_one_line(two_workers: World) -> None:
    assert on_eight_wires(two_workers, by_lineage, volume(200, share=0.03)) == []


@pytest.mark.acceptance
def test_rotations_by_id_and_by_lineage_at_once_never_fork(two_workers: World) -> None:
    assert on_eight_wires(two_workers, mixed, volume(200, share=0.03)) == []


def test_the_database_itself_refuses_a_second_version_of_a_number(two_workers: World) -> None:
    person = tireless(two_workers)
    key = person.post(KEYS).json()
    person.post(ROTATE, {"key_id": key["key_id"]})
    fork = "UPDATE kms_version SET version = 1 WHERE realm_id = ? AND version = 2 AND lineage_id = ?"
    with pytest.raises(Exception, match=r"(?i)unique"):
        rows(two_workers.server, fork, person.realm_id, UUID(key["lineage_id"]))


@pytest.mark.parametrize("race", [by_id, mixed])
def test_a_server_that_trusts_its_first_look_is_found_out(careless: World, race) -> None:
    assert on_eight_wires(careless, race, 2)


# Message counts.

_LEASED = "SELECT messages_leased FROM kms_version WHERE realm_id = ? AND key_id = ?"
_SET_LEASED = "UPDATE kms_version SET messages_leased = ? WHERE realm_id = ? AND key_id = ?"


def leased(world: World, realm_id: str, key: dict[str, Any]) -> int:
    return rows(world.server, _LEASED, realm_id, UUID(key["key_id"]))[0][0]


def encrypt(wires: Sequence[Wire], key: dict[str, Any], count: int) -> int:
    """Ask for so many messages on each connection, all at once; how many were made."""
    items = [{"input": "x"}] * count
    replies = burst(wires, post(ENCRYPT, {"key_id": key["key_id"], "items": items}))
    results = [item for reply in replies for item in reply.body["items"]]
    refusals = {item["code"] for item in results if "code" in item}
    assert refusals <= {"key_exhausted"}, refusals
    return sum("envelope" in item for item in results)


def up_to_the_limit(world: World, left: int) -> tuple[int, int]:
    """Of a version with so many messages left, ask far more on both workers: those made, and those counted."""
    person = tireless(world)
    with spread(world.server, person.access_token) as wires:
        key = wires[0].done(KEYS)
        leased_before = MESSAGES_PER_VERSION_MAX - left
        rows(world.server, _SET_LEASED, leased_before, person.realm_id, UUID(key["key_id"]))
        made = 0
        while (more := encrypt(wires, key, 100)) and made <= left:
            made += more
        return made, leased(world, person.realm_id, key)


@pytest.mark.parametrize("left", [0, 1, LEASE_BLOCK_MIN + 1, 3 * LEASE_BLOCK_MIN + 7])
def test_two_workers_together_make_exactly_the_messages_that_are_left(two_workers: World, left: int) -> None:
    assert up_to_the_limit(two_workers, left) == (left, MESSAGES_PER_VERSION_MAX)


def test_an_exhausted_version_is_refused_on_every_worker_until_it_is_rotated(two_workers: World) -> None:
    person = tireless(two_workers)
    with spread(two_workers.server, person.access_token) as wires:
        key = wires[0].done(KEYS, {"name": "orders"})
        rows(two_workers.server, _SET_LEASED, MESSAGES_PER_VERSION_MAX, person.realm_id, UUID(key["key_id"]))
        by_name = post(ENCRYPT, {"name": "orders", "input": "x"})
        assert {reply.short for reply in burst(wires, by_name)} == {(409, "key_exhausted")}
        wires[0].done(ROTATE, {"name": "orders"})
        assert {reply.short for reply in burst(wires, by_name)} == {(200, None)}


def test_messages_of_a_killed_worker_stay_counted_and_the_rest_comes_back(
    request, tmp_path, database
) -> None:
    with a_world(new_server(request, tmp_path, database)) as world:
        person = tireless(world)
        with spread(world.server, person.access_token) as wires:
            key, other = wires[0].done(KEYS), wires[0].done(KEYS)
            (victim, dying), (_, living) = of_each_worker(wires).items()
            assert encrypt(dying[:1], key, 300) + encrypt(living[:1], key, 200) == 500
            assert leased(world, person.realm_id, key) == 2 * LEASE_BLOCK_MIN
            os.kill(victim, signal.SIGKILL)
            assert encrypt(living, key, 50) == 200
            assert leased(world, person.realm_id, key) == 2 * LEASE_BLOCK_MIN
            assert encrypt(living, other, 999) == 4 * 999
            assert leased(world, person.realm_id, other) >= 4 * 999
        assert world.server.stop() == 0
        # The killed worker's whole block counts as used; the other gave back all that it had not used.
        assert leased(world, person.realm_id, key) == LEASE_BLOCK_MIN + 400
        assert leased(world, person.realm_id, other) == 4 * 999


def test_a_server_that_counts_nothing_is_found_out(careless: World) -> None:
    made, counted = up_to_the_limit(careless, 1)
    assert made > 1
    assert counted < MESSAGES_PER_VERSION_MAX
