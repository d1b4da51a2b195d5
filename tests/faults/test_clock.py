"""The wall clock jumps a day, ahead and back, while the server serves."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.conftest import WORKER_COUNTS, judge
from tests.support.api import Person
from tests.support.fault_load import DECRYPT, ENCRYPT, KEYS, Watch
from tests.support.load import Reply, Wire, a_world, tireless
from tests.support.server import Server
from tests.support.volume import volume
from tests.support.wall_clock import DAY, WallClock

REFRESH, REVOKE, TOKEN = "/v1/auth/token/refresh", "/v1/auth/token/revoke", "/v1/auth/token"
DEAD, GONE = (401, "invalid_token"), (400, "invalid_grant")
OK = (200, None)


class Timed:
    """A running server whose wall clock is at hand, and someone with a key."""

    def __init__(self, server: Server, person: Person, clock: WallClock) -> None:
        self.server, self.person, self.clock = server, person, clock

    def ask(self, method: str, path: str, body: object = None, token: str | None = None) -> Reply:
        with contextlib.closing(Wire(self.server.url, token)) as wire:
            wire.send(method, path, body)
            reply = wire.receive()
        assert reply.status < 500, reply
        return reply

    def login(self) -> dict[str, str]:
        reply = self.ask("POST", TOKEN, self.person.credentials())
        assert reply.status == 200, reply
        return reply.body

    def access(self, pair: dict[str, str]) -> tuple[int, str | None]:
        return self.ask("GET", KEYS, token=pair["access_token"]).short

    def refresh(self, pair: dict[str, str]) -> Reply:
        return self.ask("POST", REFRESH, {"refresh_token": pair["refresh_token"]})

    def revoke(self, token: str) -> None:
        assert self.ask("POST", REVOKE, {"token": token}).status == 200


@pytest.fixture(scope="module", params=WORKER_COUNTS, ids="{} workers".format)
def timed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Timed]:
    place = tmp_path_factory.mktemp("timed")
    clock = WallClock(place)
    server = Server(place, workers=request.param, environment=clock.environment())
    with a_world(server) as world:
        yield Timed(server, tireless(world), clock)


@pytest.fixture(autouse=True)
def set_right(timed: Timed) -> Iterator[None]:
    yield
    timed.clock.jump(0)


@pytest.mark.parametrize("days", [1, -1])
def test_what_was_revoked_or_spent_stays_dead(timed: Timed, days: int) -> None:
    revoked, logged_out, spent = timed.login(), timed.login(), timed.login()
    timed.revoke(revoked["access_token"])
    timed.revoke(logged_out["refresh_token"])
    successor = timed.refresh(spent).body
    last = timed.refresh(successor).body
    for jump in (days * DAY, 0):
        timed.clock.jump(jump)
        assert timed.access(revoked) == DEAD
        assert timed.access(logged_out) == DEAD
        assert timed.refresh(logged_out).short == GONE
    # Last: it takes the whole grant with it.
    assert timed.access(last) == OK
    assert timed.refresh(spent).short == GONE
    assert timed.access(last) == DEAD


def test_what_was_issued_in_the_future_is_refused_when_the_clock_is_right_again(timed: Timed) -> None:
    timed.clock.jump(DAY)
    pair = timed.login()
    assert timed.access(pair) == OK
    timed.clock.jump(0)
    assert timed.access(pair) == DEAD
    assert timed.refresh(pair).short == GONE
    # Nothing is blocked by it: the next login is as good as any.
    assert timed.access(timed.login()) == OK


def test_what_expired_stays_dead_when_the_clock_goes_back(timed: Timed) -> None:
    pair = timed.login()
    for jump, dead in ((2 * DAY, True), (-2 * DAY, True), (0, False)):
        timed.clock.jump(jump)
        assert (timed.access(pair) == DEAD) is dead
    timed.clock.jump(-2 * DAY)
    assert timed.refresh(pair).short == GONE


def test_clocks_a_little_apart_are_allowed(timed: Timed) -> None:
    timed.clock.jump(30)
    pair = timed.login()
    timed.clock.jump(0)
    assert timed.access(pair) == OK
    assert timed.refresh(pair).short == OK


def test_what_is_written_in_the_future_is_read_in_the_present(timed: Timed) -> None:
    token = timed.login()["access_token"]
    timed.clock.jump(DAY)
    ahead = timed.login()["access_token"]
    key = timed.ask("POST", KEYS, {}, ahead).body["lineage_id"]
    envelope = timed.ask("POST", ENCRYPT, {"lineage_id": key, "input": "early"}, ahead).body["envelope"]
    timed.clock.jump(0)
    assert timed.ask("POST", DECRYPT, {"input": envelope}, token).body["plaintext"] == "early"
    assert timed.ask("POST", "/v1/security/rotate", {"lineage_id": key}, token).body["version"] == 2


@pytest.mark.acceptance
def test_a_restless_clock_disturbs_nobody(timed: Timed) -> None:
    """Five seconds ahead, five back, again and again, as with a broken time server."""
    with Watch(timed.server, timed.person) as watch:
        for turn in range(volume(600, share=0.005)):
            timed.clock.jump((5, -5)[turn % 2])
            time.sleep(0.5)
        timed.clock.jump(0)
        watch.recovers()
    judge(watch, unaffected=frozenset({"create", "list", "encrypt", "decrypt", "health", "jwks"}))


@pytest.mark.acceptance
def test_a_day_ahead_and_back_under_load_costs_logins_alone(timed: Timed) -> None:
    """A token's time is over a day ahead: 401 then, never a 500 and never a wait; all well when it is back."""
    with Watch(timed.server, timed.person) as watch:
        for jump in (DAY, -DAY) * volume(10, share=0.1):
            time.sleep(0.4)
            timed.clock.jump(jump)
            time.sleep(0.4)
            timed.clock.jump(0)
        watch.recovers()
    public = {(answer.kind, answer.status) for answer in watch.answers if answer.kind in {"health", "jwks"}}
    assert public == {("health", 200), ("jwks", 200)}
    refused = [answer for answer in watch.answers if answer.status != 200]
    assert refused
    assert {(answer.status, answer.code) for answer in refused} == {DEAD}
    watch.answers[:] = [answer for answer in watch.answers if answer.status == 200]
    judge(watch, unaffected=frozenset())


def test_the_shim_moves_the_clock_of_the_server(timed: Timed, tmp_path: Path) -> None:
    """The control of all of the above: records bear the time that was set."""
    timed.clock.jump(DAY)
    made = timed.ask("POST", KEYS, {}, timed.login()["access_token"]).body["created_at"]
    assert made[:10] == time.strftime("%Y-%m-%d", time.gmtime(time.time() + DAY))
