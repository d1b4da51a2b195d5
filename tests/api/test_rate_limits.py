"""Rate limits over HTTP: who is charged for what, and what every answer tells of it."""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.api import World
from tests.support.load import burst, get, listeners, of_each_worker, spread, stopped, worker_pids
from tests.support.processes import eventually
from tests.support.server import NOBODY_TRUSTED, Server, ok, refused
from tests.support.valkey import Valkey
from tests.support.volume import volume

ADDRESS, FREE, PRO = 40, 30, 60
SECONDS = 3_600
"""No window ends during these tests."""
LIMITS = {
    "QIMEM_LIMITS__ADDRESS": f"{ADDRESS}/{SECONDS}",
    "QIMEM_LIMITS__TIERS": f"free={FREE}/{SECONDS}, pro={PRO}/{SECONDS}",
}
PROXY = "10.0.0.1"
TOKEN = "/v1/auth/token"


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A server with small limits behind a trusted proxy, so that each test has addresses of its own."""
    environment = LIMITS | {"QIMEM_SERVER__TRUSTED_PROXIES": "127.0.0.1"}
    server = Server(tmp_path_factory.mktemp("limited"), environment=environment, limited=True).start()
    world = World(server)
    yield world
    world.close()
    server.stop()


class Asking:
    """Requests from one address that nobody else has."""

    _numbers = iter(range(1, 250))

    def __init__(self, world: World, address: str | None = None) -> None:
        self.address = address or f"198.51.100.{next(self._numbers)}"
        self.http = world.anonymous()
        self.http.headers["x-forwarded-for"] = self.address

    def __call__(self, method: str, path: str, **more: Any) -> httpx.Response:
        return self.http.request(method, path, **more)


@pytest.fixture
def ask(limited: World) -> Asking:
    return Asking(limited)


def told(answer: httpx.Response) -> tuple[int, int]:
    """Limit and what is left, of an answer whose window ends later than now and within its length."""
    reset = int(answer.headers["x-ratelimit-reset"])
    assert time.time() < reset <= time.time() + SECONDS + 1
    limit, remaining = answer.headers["x-ratelimit-limit"], answer.headers["x-ratelimit-remaining"]
    assert limit.isascii()
    assert limit.isdigit()
    assert remaining.isdigit()
    return int(limit), int(remaining)


def client_of(world: World, tier: str, realm: str | None = None, **more: Any) -> dict[str, str]:
    """A new client that may read keys; its id, secret and realm."""
    realm = realm or world.realm()
    role = world.fresh("reader")
    ok(
        world.operator.post(
            "/v1/auth/roles",
            json={"name": role, "permissions": ["keys:read", "keys:encrypt"], "realm_id": realm},
        )
    )
    body = {"redirect_uris": [], "tier": tier, "realm_id": realm, "roles": [role]} | more
    return ok(world.operator.post("/v1/auth/clients", json=body)) | {"realm_id": realm}


def proof(client: dict[str, str]) -> dict[str, str]:
    return {
        "grant_type": "client_credentials", "client_id": client["client_id"],
        "client_secret": client["client_secret"],
    }  # fmt: skip


# --- who is charged ----------------------------------------------------------------------------


def test_a_bearer_is_charged_to_its_client_from_wherever_it_comes(limited: World) -> None:
    client = client_of(limited, "free")
    here, there = Asking(limited), Asking(limited)
    issued = here("POST", TOKEN, json=proof(client))
    assert told(issued) == (FREE, FREE - 1)
    bearer = {"Authorization": f"Bearer {ok(issued)['access_token']}"}
    assert told(there("GET", "/v1/auth/me", headers=bearer)) == (FREE, FREE - 2)
    assert told(here("GET", "/v1/security/keys", headers=bearer)) == (FREE, FREE - 3)
    assert told(here("GET", "/")) == (ADDRESS, ADDRESS - 1)
    again = told(there("POST", TOKEN, json=proof(client)))
    assert again == (FREE, FREE - 4)


@pytest.mark.parametrize("tier", ["free", "pro", "enterprise", "unlimited"])
def test_each_tier_has_its_limit(limited: World, ask: Asking, tier: str) -> None:
    limit = {"free": FREE, "pro": PRO, "enterprise": 60_000, "unlimited": 2_147_483_647}[tier]
    answer = ask("POST", TOKEN, json=proof(client_of(limited, tier)))
    assert int(answer.headers["x-ratelimit-limit"]) == limit
    assert int(answer.headers["x-ratelimit-remaining"]) == limit - 1


def test_another_tier_counts_from_the_next_request_on(limited: World, ask: Asking) -> None:
    client = client_of(limited, "free")
    bearer = {"Authorization": f"Bearer {ok(ask('POST', TOKEN, json=proof(client)))['access_token']}"}
    path = f"/v1/auth/clients/{client['client_id']}"
    body = {"tier": "pro", "realm_id": client["realm_id"]}
    ok(limited.operator.patch(path, json=body, headers={"If-Match": "*"}))
    assert told(ask("GET", "/v1/auth/me", headers=bearer)) == (PRO, PRO - 2)


NOBODY: list[tuple[str, Callable[[Asking, dict[str, str]], httpx.Response], int]] = [
    ("no such path", lambda ask, _: ask("GET", "/nowhere"), 404),
    ("no such method", lambda ask, _: ask("DELETE", "/v1/auth/me"), 405),
    ("a path with escapes", lambda ask, _: ask("GET", "/v1/auth/m%65"), 400),
    ("a public document", lambda ask, _: ask("GET", "/v1/openapi.json"), 200),
    ("a key set", lambda ask, client: ask("GET", f"/realms/{client['realm_id']}/jwks"), 200),
    ("options", lambda ask, _: ask("OPTIONS", "/v1/auth/me"), 204),
    ("no token", lambda ask, _: ask("GET", "/v1/auth/me"), 401),
    ("a bad token", lambda ask, _: ask("GET", "/v1/auth/me", headers={"Authorization": "Bearer x"}), 401),
    ("a body that is none", lambda ask, _: ask("POST", TOKEN, content=b"{"), 415),
    ("not JSON", lambda ask, _: ask("POST", TOKEN, content=b"{", headers={"content-type": "application/json"}), 400),
    ("a wrong secret", lambda ask, client: ask("POST", TOKEN, json=proof(client) | {"client_secret": "x"}), 401),
    ("an unknown client", lambda ask, client: ask("POST", TOKEN, json=proof(client) | {"client_id": "x"}), 401),
    ("no refresh token", lambda ask, _: ask("POST", f"{TOKEN}/refresh", json={"refresh_token": "qrt_x"}), 400),
    ("nothing to revoke", lambda ask, _: ask("POST", f"{TOKEN}/revoke", json={"token": "qrt_x"}), 200),
    ("no token to revoke", lambda ask, _: ask("POST", f"{TOKEN}/revoke", json={"token": "x"}), 200),
    ("who asks is not told", lambda ask, _: ask("POST", f"{TOKEN}/introspect", json={"token": "x"}), 401),
    (
        "a claimed client alone",
        lambda ask, client: ask("POST", f"{TOKEN}/introspect", json={"token": "x", "client_id": client["client_id"]}),
        401,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("call", "status"), [case[1:] for case in NOBODY], ids=[case[0] for case in NOBODY])
def test_who_proves_nothing_is_charged_to_the_address(
    limited: World, ask: Asking, call: Callable[[Asking, dict[str, str]], httpx.Response], status: int
) -> None:
    client = client_of(limited, "free")
    for left in (ADDRESS - 1, ADDRESS - 2):
        answer = call(ask, client)
        assert answer.status_code == status, answer.text
        assert told(answer) == (ADDRESS, left)
    # A client that was merely named was charged nothing.
    assert told(Asking(limited)("POST", TOKEN, json=proof(client))) == (FREE, FREE - 1)


def test_a_public_client_is_charged_to_the_address_and_never_used_up_by_strangers(
    limited: World, ask: Asking
) -> None:
    person = limited.person()
    body = {"redirect_uris": [], "token_endpoint_auth_method": "none", "realm_id": person.realm_id}
    public = ok(limited.operator.post("/v1/auth/clients", json=body))
    login = person.credentials() | {"client_id": public["client_id"]}
    del login["client_secret"]
    pair = ask("POST", TOKEN, json=login)
    assert told(pair) == (ADDRESS, ADDRESS - 1)
    # Its refresh token proves whose it is.
    assert told(ask("POST", f"{TOKEN}/refresh", json={"refresh_token": ok(pair)["refresh_token"]})) == (
        PRO,
        PRO - 1,
    )
    named = {"refresh_token": "qrt_x", "client_id": public["client_id"]}
    assert told(ask("POST", f"{TOKEN}/refresh", json=named)) == (ADDRESS, ADDRESS - 2)


def test_tokens_that_prove_their_client_charge_it(limited: World, ask: Asking) -> None:
    person = limited.person()
    ok(limited.operator.patch(
        f"/v1/auth/clients/{person.client_id}", json={"tier": "free", "realm_id": person.realm_id},
        headers={"If-Match": "*"},
    ))  # fmt: skip
    secret = {"client_id": person.client_id, "client_secret": person.client_secret}
    basic = base64.b64encode(f"{person.client_id}:{person.client_secret}".encode()).decode()
    before = told(ask("POST", TOKEN, json=proof(secret)))[1]
    pair, other = person.pair, person.login()
    calls: list[dict[str, Any]] = [
        {"url": f"{TOKEN}/introspect", "json": {"token": pair["access_token"]} | secret},
        {"url": f"{TOKEN}/introspect", "json": {"token": "x"}, "headers": {"Authorization": f"Basic {basic}"}},
        {"url": f"{TOKEN}/introspect", "json": {"token": "x"}, "headers": {"Authorization": f"Bearer {pair['access_token']}"}},
        {"url": f"{TOKEN}/refresh", "json": {"refresh_token": pair["refresh_token"]}},
        {"url": f"{TOKEN}/refresh", "json": {"refresh_token": other["refresh_token"]} | secret},
        {"url": f"{TOKEN}/revoke", "json": {"token": pair["access_token"]}},
        {"url": f"{TOKEN}/revoke", "json": {"token": pair["refresh_token"]}},
    ]  # fmt: skip
    before -= 1
    for number, call in enumerate(calls, 1):
        answer = ask("POST", call.pop("url"), **call)
        assert answer.status_code == 200, answer.text
        assert told(answer) == (FREE, before - number), number
    assert told(ask("GET", "/")) == (ADDRESS, ADDRESS - 1)


def test_health_is_neither_counted_nor_limited(ask: Asking) -> None:
    for _ in range(ADDRESS + 5):
        for path in ("/health", "/ready", "/v1/security/health"):
            answer = ask("GET", path)
            assert answer.status_code == 200
            assert not [name for name in answer.headers if name.startswith("x-ratelimit")]
    assert told(ask("GET", "/")) == (ADDRESS, ADDRESS - 1)


# --- what is refused ---------------------------------------------------------------------------


def test_an_address_without_units_is_refused_and_told_until_when(limited: World, ask: Asking) -> None:
    resets = {ask("GET", "/").headers["x-ratelimit-reset"] for _ in range(ADDRESS)}
    assert len(resets) == 1
    answer = ask("GET", "/")
    body = refused(answer, 429, "rate_limited")
    assert body["error"] == f"rate limit of {ADDRESS} requests exceeded"
    assert told(answer) == (ADDRESS, 0)
    assert answer.headers["x-ratelimit-reset"] in resets
    wait = int(answer.headers["x-ratelimit-reset"]) - int(time.time())
    assert int(answer.headers["retry-after"]) in (wait, wait + 1)
    # Not even whether a token or a secret is right is told any more, but who is somebody is served.
    refused(ask("GET", "/v1/auth/me", headers={"Authorization": "Bearer x"}), 429, "rate_limited")
    client = client_of(limited, "free")
    refused(ask("POST", TOKEN, json=proof(client) | {"client_secret": "x"}), 429, "rate_limited")
    refused(ask("POST", f"{TOKEN}/revoke", json={"token": "x"}), 429, "rate_limited")
    refused(ask("OPTIONS", "/v1/auth/me"), 429, "rate_limited")
    assert ask("GET", "/health").status_code == 200
    # Judged before the limit: said all the same.
    refused(ask("GET", "/nowhere"), 404, "not_found")
    issued = ask("POST", TOKEN, json=proof(client))
    assert told(issued) == (FREE, FREE - 1)
    bearer = {"Authorization": f"Bearer {ok(issued)['access_token']}"}
    assert told(ask("GET", "/v1/auth/me", headers=bearer)) == (FREE, FREE - 2)
    assert told(Asking(limited)("GET", "/")) == (ADDRESS, ADDRESS - 1)


def test_a_network_of_ipv6_is_one_address(limited: World) -> None:
    one, same, other = (
        Asking(limited, f"2001:db8:{net}::{host}") for net, host in (("7:1", 1), ("7:1", 9), ("8:1", 1))
    )
    assert told(one("GET", "/")) == (ADDRESS, ADDRESS - 1)
    assert told(same("GET", "/")) == (ADDRESS, ADDRESS - 2)
    assert told(other("GET", "/")) == (ADDRESS, ADDRESS - 1)


def test_a_client_without_units_is_refused_before_its_permissions_and_its_body(
    limited: World, ask: Asking
) -> None:
    client = client_of(limited, "free")
    bearer = {"Authorization": f"Bearer {ok(ask('POST', TOKEN, json=proof(client)))['access_token']}"}
    for _ in range(FREE - 1):
        assert ask("GET", "/v1/auth/me", headers=bearer).status_code == 200
    for method, path, more in (
        ("GET", "/v1/auth/me", {}),
        ("GET", "/v1/auth/users", {}),
        ("POST", "/v1/security/encrypt", {"content": b"{"}),
        ("POST", "/v1/security/encrypt", {"json": {"nonsense": 1}}),
    ):
        answer = ask(method, path, headers=bearer, **more)
        refused(answer, 429, "rate_limited")
        assert told(answer) == (FREE, 0)
    refused(ask("POST", TOKEN, json=proof(client)), 429, "rate_limited")
    refused(ask("DELETE", "/v1/auth/me", headers=bearer), 405, "method_not_allowed")
    # Nothing of this was the address's.
    assert told(ask("GET", "/")) == (ADDRESS, ADDRESS - 2)


def test_a_batch_is_charged_for_each_item_or_not_at_all(limited: World, ask: Asking) -> None:
    client = client_of(limited, "free")
    name = limited.fresh("key")
    ok(limited.operator.post("/v1/security/keys", json={"name": name, "realm_id": client["realm_id"]}))
    bearer = {"Authorization": f"Bearer {ok(ask('POST', TOKEN, json=proof(client)))['access_token']}"}

    def batch(count: int) -> httpx.Response:
        items = [{"input": "x", "name": name}] * count
        return ask("POST", "/v1/security/encrypt", json={"items": items}, headers=bearer)

    assert told(batch(20)) == (FREE, FREE - 21)
    answer = batch(10)
    refused(answer, 429, "rate_limited")
    assert told(answer) == (FREE, 0)
    assert told(batch(9)) == (FREE, 0)
    refused(batch(1), 429, "rate_limited")


def test_a_batch_of_nothing_costs_what_the_request_costs(limited: World, ask: Asking) -> None:
    client = client_of(limited, "free")
    bearer = {"Authorization": f"Bearer {ok(ask('POST', TOKEN, json=proof(client)))['access_token']}"}
    for left, body in ((FREE - 2, {"items": []}), (FREE - 3, {"items": None}), (FREE - 4, {"items": 5})):
        assert told(ask("POST", "/v1/security/encrypt", json=body, headers=bearer)) == (FREE, left)


def test_what_was_limited_is_counted_in_the_audit_log_and_not_recorded_one_by_one(limited: World) -> None:
    """The record of the minute is the recorder's; here only that no refusal leaves one of its own."""
    ask, client = Asking(limited), client_of(limited, "free")
    bearer = {"Authorization": f"Bearer {ok(ask('POST', TOKEN, json=proof(client)))['access_token']}"}
    for _ in range(FREE + 20):
        ask("POST", "/v1/security/encrypt", json={"input": "x", "name": "none"}, headers=bearer)
    query = {"realm_id": client["realm_id"], "event": "keys.encrypt", "limit": 200}
    records = ok(limited.operator.get("/v1/audit/events", params=query))["items"]
    assert Counter(record["outcome"] for record in records) == {"key_not_found": FREE - 1}


# --- several workers ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    server = Server(tmp_path_factory.mktemp("four"), workers=4, environment=LIMITS, limited=True).start()
    world = World(server)
    yield world
    world.close()
    server.stop()


def requests_at_once(url: str, connections: int, each: int, headers: dict[str, str]) -> list[httpx.Response]:
    """Requests over so many connections at once."""
    together = threading.Barrier(connections)

    def work(_: int) -> list[httpx.Response]:
        with httpx.Client(base_url=url, headers=headers, timeout=30, verify=NOBODY_TRUSTED) as client:
            together.wait()
            return [client.get("/v1/auth/me") for _ in range(each)]

    with ThreadPoolExecutor(connections) as pool:
        return [answer for answers in pool.map(work, range(connections)) for answer in answers]


@pytest.mark.acceptance
def test_four_workers_admit_exactly_the_limit_time_after_time(four: World) -> None:
    for _ in range(volume(10, share=0.3)):
        client = client_of(four, "pro")
        token = ok(four.anonymous().post(TOKEN, json=proof(client)))["access_token"]
        answers = requests_at_once(four.server.url, 64, 2, {"Authorization": f"Bearer {token}"})
        admitted = [answer for answer in answers if answer.status_code == 200]
        assert sorted(told(answer)[1] for answer in admitted) == list(range(PRO - 1))
        assert len({answer.headers["x-ratelimit-reset"] for answer in answers}) == 1
        others = [answer for answer in answers if answer.status_code != 200]
        assert len(others) == 128 - (PRO - 1)
        for answer in others:
            refused(answer, 429, "rate_limited")
            assert told(answer) == (PRO, 0)


_HOLD = """
import fcntl, os, sys, time
table = os.open(sys.argv[1], os.O_RDWR)
fcntl.lockf(table, fcntl.LOCK_EX, 1 << 20)
print(flush=True)
time.sleep(120)
"""


@contextlib.contextmanager
def all_counts_held(server: Server) -> Iterator[subprocess.Popen[str]]:
    """A process that was stopped while it had the lock of every count: what a worker could do, at its worst."""
    pid = worker_pids(server)[0]
    table = next(
        entry for entry in Path(f"/proc/{pid}/fd").iterdir() if "qimem-windows" in str(entry.readlink())
    )
    holder = subprocess.Popen([sys.executable, "-c", _HOLD, str(table)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        holder.send_signal(signal.SIGSTOP)
        yield holder
    finally:
        holder.kill()
        holder.communicate()


def test_one_that_stands_still_while_it_counts_keeps_nobody_waiting_and_sets_nobody_free(four: World) -> None:
    client = client_of(four, "pro")
    token = ok(four.anonymous().post(TOKEN, json=proof(client)))["access_token"]
    with spread(four.server, token) as wires:
        of_each = [own[0] for own in of_each_worker(wires).values()]
        with all_counts_held(four.server):
            held = [reply for _ in range(PRO) for reply in burst(of_each, get("/v1/auth/me"))]
        after = [reply for _ in range(PRO) for reply in burst(of_each, get("/v1/auth/me"))]
    assert max(reply.received - reply.sent for reply in held) < 100_000_000
    shares = (PRO - 1) // 4 * 4
    assert Counter(reply.status for reply in held) == {200: shares, 429: 4 * PRO - shares}
    # Each worker tells what it had admitted when it is next asked; the first of them do not know it of the last.
    left = PRO - 1 - shares
    assert left <= sum(reply.status == 200 for reply in after) <= left + shares // 4 * 3


def test_a_worker_that_is_stopped_between_requests_changes_nothing(four: World) -> None:
    client = client_of(four, "pro")
    token = ok(four.anonymous().post(TOKEN, json=proof(client)))["access_token"]
    with spread(four.server, token) as wires:
        by_worker = of_each_worker(wires)
        still, *others = by_worker
        with stopped(still):
            replies = [
                reply
                for _ in range(PRO)
                for pid in others
                for reply in burst(by_worker[pid][:1], get("/v1/auth/me"))
            ]
    assert max(reply.received - reply.sent for reply in replies) < 500_000_000
    assert Counter(reply.status for reply in replies) == {200: PRO - 1, 429: 3 * PRO - (PRO - 1)}


def test_workers_that_take_the_place_of_dead_ones_count_on(tmp_path: Path) -> None:
    server = Server(tmp_path, workers=2, environment=LIMITS, limited=True).start()
    world = World(server)
    try:
        client = client_of(world, "free")
        token = ok(world.anonymous().post(TOKEN, json=proof(client)))["access_token"]
        before = worker_pids(server)
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: not set(before) & set(worker_pids(server)), seconds=30)
        eventually(lambda: len(listeners(server)) == 2, seconds=30)
        with spread(server, token) as wires:
            by_worker = of_each_worker(wires)
            assert len(by_worker) == 2
            replies = [
                reply
                for _ in range(FREE)
                for own in by_worker.values()
                for reply in burst(own[:1], get("/v1/auth/me"))
            ]
        assert sum(reply.status == 200 for reply in replies) == FREE - 1
    finally:
        world.close()
        server.stop()


# --- several nodes -----------------------------------------------------------------------------


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    place = tmp_path / "valkey"
    place.mkdir()
    server = Valkey(place).start()
    yield server
    server.end()


@contextlib.contextmanager
def two_nodes(directory: Path, database_url: str, **more: str) -> Iterator[tuple[World, Server]]:
    """One installation on two nodes of two workers; the first one's operator, and the second."""
    key = directory / "one" / "data.root.key"
    with contextlib.ExitStack() as stack:
        servers = []
        for name in ("one", "two"):
            (directory / name).mkdir()
            extra = () if name == "one" else ("--root-key-file", str(key))
            server = Server(
                directory / name, 2, database_url, environment=LIMITS | more, limited=True, extra=extra
            )
            servers.append(server.start())
            stack.callback(server.stop)
        world = World(servers[0])
        stack.callback(world.close)
        yield world, servers[1]


def on_both(world: World, second: Server, client: dict[str, str], token: str) -> list[Counter[int]]:
    """Status → count, of each node, when 60 requests of one client arrive at each."""
    headers = {"Authorization": f"Bearer {token}"}
    with ThreadPoolExecutor(2) as pool:
        asked = [
            pool.submit(requests_at_once, url, 8, PRO // 4, headers) for url in (world.server.url, second.url)
        ]
        return [Counter(answer.status_code for answer in one.result()) for one in asked]


def token_of(world: World, client: dict[str, str]) -> str:
    issued: str = ok(world.anonymous().post(TOKEN, json=proof(client)))["access_token"]
    return issued


@pytest.mark.acceptance
def test_two_nodes_admit_exactly_the_limit_time_after_time(
    tmp_path: Path, postgres_url: str, valkey: Valkey
) -> None:
    # With the share of one node, which is all, only the count in the server decides.
    more = {"QIMEM_LIMITS__VALKEY_URL": valkey.url, "QIMEM_LIMITS__NODES": "1"}
    with two_nodes(tmp_path, postgres_url, **more) as (world, second):
        for _ in range(volume(10, share=0.3)):
            client = client_of(world, "pro")
            one, two = on_both(world, second, client, token_of(world, client))
            assert one[200] + two[200] == PRO - 1, (one, two)
            assert one[429] + two[429] == 4 * PRO - (PRO - 1)


def test_two_nodes_admit_no_more_than_the_limit_while_valkey_is_killed_and_comes_back(
    tmp_path: Path, postgres_url: str, valkey: Valkey
) -> None:
    with two_nodes(tmp_path, postgres_url, QIMEM_LIMITS__VALKEY_URL=valkey.url) as (world, second):
        client, other = client_of(world, "pro"), client_of(world, "pro")
        token = token_of(world, client)
        headers = {"Authorization": f"Bearer {token}"}
        before = requests_at_once(world.server.url, 2, 5, headers) + requests_at_once(
            second.url, 2, 3, headers
        )
        assert {answer.status_code for answer in before} == {200}
        valkey.kill()
        during = on_both(world, second, client, token)
        # The token was the first node's, and what both had admitted before counts.
        assert [node[200] for node in during] == [PRO // 2 - 11, PRO // 2 - 6]
        valkey.start()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and valkey.cli("DBSIZE") == "0":
            assert not any(node[200] for node in on_both(world, second, client, token))
        assert not any(node[200] for node in on_both(world, second, client, token))
        # And it is counted there again. What one node gives back may come too late for the other, which is no more.
        admitted = sum(node[200] for node in on_both(world, second, other, token_of(world, other)))
        assert PRO // 2 < admitted < PRO
