"""One refresh token presented many times at once, on two workers: one successor, and nobody honest loses."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from uuid import UUID

import pytest

from tests.support.api import Person, World
from tests.support.load import (
    CARELESS,
    PLACES,
    Query,
    Reply,
    Wire,
    burst,
    get,
    operator_of,
    post,
    queries,
    shared_server,
    spread,
    tireless,
)
from tests.support.server import ok
from tests.support.volume import volume

EVERY = volume(10, share=0.1)
"""So seldom the access tokens of a burst are tried too; it takes as long as the burst."""
PUT_OFF, PUT_OFF_SHARE = (503, "storage_unavailable"), 0.001
KEYS, REFRESH = "/v1/security/keys", "/v1/auth/token/refresh"


def with_(token: str) -> tuple[str, str, object]:
    return post(REFRESH, {"refresh_token": token})


def grant_of(token: str) -> UUID:
    """The grant id, which stands in the token before the generation and the tag."""
    data = base64.urlsafe_b64decode(token.removeprefix("qrt_") + "==")
    return UUID(bytes=struct.unpack_from(">16s", data, 1 + data[0])[0])


def generation(ask: Query, token: str) -> int:
    """The generation in the database."""
    return ask("SELECT generation FROM oauth_grant WHERE grant_id = ?", grant_of(token))[0][0]


@dataclass
class Chain:
    """Eight at once with the same token, then eight at once with its successor, and so on.

    Args:
        findings: What went wrong.
        put_off: How many were told that the storage did not answer in time and nothing was changed: a slow machine,
            and no harm.
    """

    findings: list[str] = field(default_factory=list)
    put_off: int = 0

    def run(self, world: World, wires: Sequence[Wire], token: str, rounds: int) -> Chain:
        with queries(world.server) as ask:
            before, number = generation(ask, token), 0
            while number < rounds:
                replies = burst(wires, with_(token))
                successor = self._judged(replies)
                after = generation(ask, token)
                if after - before != (successor is not None):
                    self.findings.append(f"the generation moved by {after - before}")
                before = after
                if successor is None:
                    if self.findings or self.put_off > 8 * rounds:
                        self.findings.append("logged out")
                        return self
                    continue
                if number % EVERY == 0:
                    good = [reply.body["access_token"] for reply in replies if reply.status == 200]
                    self.findings += _all_work(wires, good)
                token, number = successor, number + 1
        final = wires[0].post(*with_(token)[1:])
        if final.status != 200:
            self.findings.append(f"logged out after the burst: {final.short}")
        return self

    def _judged(self, replies: Sequence[Reply]) -> str | None:
        refused = [reply.short for reply in replies if reply.status != 200]
        self.put_off += refused.count(PUT_OFF)
        wrong = [short for short in refused if short != PUT_OFF]
        successors = {reply.body["refresh_token"] for reply in replies if reply.status == 200}
        if wrong:
            self.findings.append(f"refused: {wrong}")
        if len(successors) != 1 and (successors or wrong):
            self.findings.append(f"{len(successors)} successors")
        return next(iter(successors), None)


def _all_work(wires: Sequence[Wire], tokens: Sequence[str]) -> list[str]:
    # Each is tried on the other worker than the one that issued it.
    for wire, token in zip((*wires[1:], wires[0]), tokens, strict=False):
        wire.token = token
        wire.send(*get(KEYS))
    replies = [wire.receive() for wire, _ in zip((*wires[1:], wires[0]), tokens, strict=False)]
    return [f"an access token of the burst: {reply.short}" for reply in replies if reply.status != 200]


def race(world: World, rounds: int, *, chains: int = 1) -> list[str]:
    """So many rounds in all, in chains of different people beside each other."""
    with ThreadPoolExecutor(chains) as threads, ExitStack() as stack:
        # All at first: finding out which worker serves a connection holds the workers up.
        wires = [stack.enter_context(spread(world.server)) for _ in range(chains)]
        tokens = [tireless(world).refresh_token for _ in range(chains)]
        begun = [
            threads.submit(Chain().run, world, mine, token, -(-rounds // chains))
            for mine, token in zip(wires, tokens, strict=True)
        ]
        done = [one.result() for one in begun]
    findings = [finding for one in done for finding in one.findings]
    put_off = sum(one.put_off for one in done)
    print(f"put off: {put_off} of {8 * rounds}")
    if put_off > max(8, rounds * 8 * PUT_OFF_SHARE):
        findings.append(f"put off too often: {put_off}")
    return findings


def statuses(replies: Sequence[Reply]) -> set[tuple[int, str | None]]:
    return {reply.short for reply in replies}


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


@pytest.fixture(scope="module")
def person(two_workers: World) -> Person:
    return tireless(two_workers)


@pytest.mark.acceptance
def test_eight_refreshes_at_once_have_one_successor_and_nobody_is_logged_out(two_workers: World) -> None:
    # Most of a round on PostgreSQL is waiting for its disk.
    chains = 1 if two_workers.server.database_url is None else volume(4, share=0.25)
    assert race(two_workers, volume(100_000, share=20 / 100_000), chains=chains) == []


@pytest.mark.acceptance
def test_a_spent_token_kills_its_grant_on_all_workers_at_once(two_workers: World, person: Person) -> None:
    with spread(two_workers.server) as wires:
        for number in range(volume(200)):
            first = person.login()
            second = ok(person.post(REFRESH, {"refresh_token": first["refresh_token"]}))
            third = ok(person.post(REFRESH, {"refresh_token": second["refresh_token"]}))
            for wire in wires:
                wire.token = third["access_token"]
            assert statuses(burst(wires, get(KEYS))) == {(200, None)}
            # The first token's successor was used: whoever presents it now holds a copy.
            reused = wires[number % len(wires)].post(*with_(first["refresh_token"])[1:])
            assert reused.short == (400, "invalid_grant")
            for pair in (first, second, third):
                for wire in wires:
                    wire.token = pair["access_token"]
                assert statuses(burst(wires, get(KEYS))) == {(401, "invalid_token")}
                assert statuses(burst(wires, with_(pair["refresh_token"]))) == {(400, "invalid_grant")}


@pytest.mark.acceptance
def test_reuse_and_refresh_at_once_leave_no_living_token(two_workers: World, person: Person) -> None:
    with spread(two_workers.server) as wires:
        for _ in range(volume(200)):
            first = person.login()
            second = ok(person.post(REFRESH, {"refresh_token": first["refresh_token"]}))
            third = ok(person.post(REFRESH, {"refresh_token": second["refresh_token"]}))
            for number, wire in enumerate(wires):
                wire.token = None
                wire.send(*with_((first, third)[number // 2 % 2]["refresh_token"]))
            replies = [wire.receive() for wire in wires]
            assert statuses(replies) <= {(200, None), (400, "invalid_grant")}
            # The thief and the owner raced; the grant ended, and with it what the owner won.
            pairs = [third, *(reply.body for reply in replies if reply.status == 200)]
            for pair in pairs:
                for wire in wires:
                    wire.token = pair["access_token"]
                assert statuses(burst(wires, get(KEYS))) == {(401, "invalid_token")}
                assert statuses(burst(wires, with_(pair["refresh_token"]))) == {(400, "invalid_grant")}


@pytest.mark.acceptance
def test_refresh_and_revocation_at_once_leave_no_living_token(two_workers: World, person: Person) -> None:
    with spread(two_workers.server) as wires:
        for number in range(volume(200)):
            pair = person.login()
            for wire in wires:
                wire.token = None
                wire.send(*with_(pair["refresh_token"]))
            person.post("/v1/auth/token/revoke", {"token": pair["refresh_token"]})
            replies = [wire.receive() for wire in wires]
            assert statuses(replies) <= {(200, None), (400, "invalid_grant")}
            for won in [pair, *(reply.body for reply in replies if reply.status == 200)]:
                wire = wires[number % len(wires)]
                wire.token = won["access_token"]
                assert wire.get(KEYS).short == (401, "invalid_token")
                assert wire.post(*with_(won["refresh_token"])[1:]).short == (400, "invalid_grant")


def test_select_then_update_is_found_out(careless: World) -> None:
    findings = race(careless, 5)
    assert any(finding.startswith("the generation moved by") for finding in findings), findings
