"""Guessing passwords: at once, in every spelling, by every way, from everywhere, across restarts, on two workers."""

from __future__ import annotations

import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest

from qimem.kernel.limits import ATTEMPTS_PER_ADDRESS_MAX, ATTEMPTS_PER_NAME_MAX
from tests.support.api import PASSWORD, Person, World
from tests.support.load import DATABASES, a_world, new_server
from tests.support.server import ok
from tests.support.volume import volume

TOKEN, CHANGE = "/v1/auth/token", "/v1/auth/me/password"
TOO_MANY = (429, "too_many_attempts")
WRONG = (400, "invalid_grant")


@pytest.fixture(scope="module", params=DATABASES)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with a_world(new_server(request, tmp_path_factory.mktemp("guesses"), request.param)) as made:
        yield made


@contextmanager
def at(world: World, address: str) -> Iterator[httpx.Client]:
    """A caller at another address of this machine."""
    transport = httpx.HTTPTransport(local_address=address)
    with httpx.Client(base_url=world.server.url, transport=transport, timeout=30) as client:
        yield client


def short(answer: httpx.Response) -> tuple[int, str | None]:
    return answer.status_code, answer.json().get("code")


def guess(
    client: httpx.Client, victim: Person, password: str = "a wrong phrase", **more: str
) -> httpx.Response:
    return client.post(TOKEN, json=victim.credentials() | {"password": password} | more)


def guesses(
    world: World, victim: Person, count: int, address: str = "127.0.0.1"
) -> Counter[tuple[int, str | None]]:
    with at(world, address) as client:
        return Counter(short(guess(client, victim)) for _ in range(count))


def test_so_many_guesses_at_once_are_looked_at_and_not_one_more(world: World) -> None:
    victim = world.person("keys:read")
    with ThreadPoolExecutor(50) as threads, at(world, "127.0.0.1") as client:
        seen = Counter(threads.map(lambda _: short(guess(client, victim)), range(200)))
        assert seen == {WRONG: ATTEMPTS_PER_ADDRESS_MAX, TOO_MANY: 200 - ATTEMPTS_PER_ADDRESS_MAX}
        # What is right is not told from what is wrong any more.
        right, wrong = guess(client, victim, PASSWORD), guess(client, victim)
    assert short(right) == short(wrong) == TOO_MANY
    apart = {"request_id"}
    assert {k: v for k, v in right.json().items() if k not in apart} == {
        k: v for k, v in wrong.json().items() if k not in apart
    }
    assert 0 < int(right.headers["retry-after"]) <= 60


def test_honest_logins_at_once_are_all_let_in(world: World) -> None:
    victim = world.person("keys:read")
    with ThreadPoolExecutor(30) as threads, at(world, "127.0.0.1") as client:
        seen = Counter(threads.map(lambda _: short(guess(client, victim, PASSWORD)), range(60)))
    assert seen == {(200, None): 60}


def test_honest_logins_of_many_users_do_not_get_in_each_others_way(world: World) -> None:
    admin = world.person()
    victims = [world.person("keys:read", realm_id=admin.realm_id) for _ in range(16)]
    with ThreadPoolExecutor(32) as threads, at(world, "127.0.0.1") as client:
        seen = Counter(threads.map(lambda n: short(guess(client, victims[n % 16], PASSWORD)), range(160)))
    assert seen == {(200, None): 160}


SPELLINGS: list[Callable[[str], str]] = [
    str.upper, str.title, str.swapcase,
    *(lambda name, n=n: name[:n] + name[n:].upper() for n in range(1, 11)),
    *(lambda name, n=n: name[:n].upper() + name[n:] for n in range(1, 11)),
    lambda name: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in name),
    lambda name: name.replace("u", "\uff55"), lambda name: name.replace("s", "\uff33"),
    lambda name: name.replace("e", "\uff25", 1), lambda name: name.upper().replace("R", "\uff32"),
    lambda name: name + " ", lambda name: " " + name, lambda name: name + "\t", lambda name: name + "\u00ad",
    lambda name: name + "\u200b", lambda name: "\ufeff" + name, lambda name: name + "\x00", lambda name: f"{name}\u3000",
]  # fmt: skip


def test_no_spelling_of_a_name_has_a_count_of_its_own(world: World) -> None:
    victim, name = world.person("keys:read"), world.fresh("guesses-her-sister")
    user_id = ok(victim.get("/v1/auth/me"))["sub"]
    change = {"username": name, "realm_id": victim.realm_id}
    ok(world.operator.patch(f"/v1/auth/users/{user_id}", json=change, headers={"If-Match": "*"}))
    names = list(dict.fromkeys(spell(name) for spell in SPELLINGS))
    assert len(names) >= 30
    with at(world, "127.0.0.1") as client:
        entered = [
            name for name in names if guess(client, victim, PASSWORD, username=name).status_code == 200
        ]
        assert len(entered) >= 15
        # Each of these is the name: guesses at all of them together are as many as at one.
        seen = Counter(short(guess(client, victim, username=entered[n % len(entered)])) for n in range(60))
    assert seen == {WRONG: ATTEMPTS_PER_ADDRESS_MAX, TOO_MANY: 60 - ATTEMPTS_PER_ADDRESS_MAX}


def test_who_is_signed_in_has_one_count_for_all_ways_to_prove_themselves(world: World) -> None:
    victim = world.person("keys:read")
    wrong = {"current_password": "a wrong phrase"}
    ways = [(CHANGE, wrong | {"password": "another-long-phrase"}), ("/v1/auth/me/totp", wrong)]
    seen = Counter(
        short(victim.http.post(path, json=body)) for path, body in ways * (ATTEMPTS_PER_ADDRESS_MAX // 2 + 5)
    )
    assert seen == {WRONG: ATTEMPTS_PER_ADDRESS_MAX, TOO_MANY: 10}
    right = {"current_password": PASSWORD, "password": "another-long-phrase"}
    assert short(victim.http.post(CHANGE, json=right)) == TOO_MANY
    # Who guesses outside takes nothing from that count, and this one nothing from theirs.
    guesses(world, victim, 1)
    # Who is signed in stays so: only the password can be tried no more.
    ok(victim.get("/v1/security/keys"))
    refresh = {"refresh_token": victim.refresh_token}
    with at(world, "127.0.0.1") as client:
        ok(client.post("/v1/auth/token/refresh", json=refresh))


@pytest.mark.parametrize(
    "header", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "Client-IP", "Via", "CF-Connecting-IP"]
)
def test_a_forged_header_is_no_other_address(world: World, header: str) -> None:
    victim = world.person("keys:read")
    guesses(world, victim, ATTEMPTS_PER_ADDRESS_MAX)
    value = "for=10.1.2.3" if header == "Forwarded" else "10.1.2.3"
    with at(world, "127.0.0.1") as client:
        answer = client.post(TOKEN, json=victim.credentials(), headers={header: value})
    assert short(answer) == TOO_MANY


def lock(world: World, victim: Person) -> None:
    """Guess from everywhere until the account is locked."""
    for number in range(1, 2 + ATTEMPTS_PER_NAME_MAX // ATTEMPTS_PER_ADDRESS_MAX):
        guesses(world, victim, ATTEMPTS_PER_ADDRESS_MAX, f"127.0.3.{number}")


def test_from_everywhere_the_account_is_locked_for_strangers_and_not_for_its_owner(world: World) -> None:
    victim = world.person("keys:read")
    lock(world, victim)
    with at(world, "127.0.4.1") as stranger:
        right, wrong = guess(stranger, victim, PASSWORD), guess(stranger, victim)
        assert short(right) == short(wrong) == WRONG
        assert right.json()["error"] == wrong.json()["error"] == "invalid credentials"
    # From where they signed in before (when they were made) they come in all the same.
    with at(world, "127.0.0.1") as home:
        ok(guess(home, victim, PASSWORD))
    ok(victim.get("/v1/security/keys"))


def test_a_name_that_nobody_has_is_counted_and_locked_alike(world: World) -> None:
    victim = world.person("keys:read")
    nobody = {"username": world.fresh("nobody")}
    with at(world, "127.0.0.1") as client:
        seen = Counter(short(guess(client, victim, **nobody)) for _ in range(ATTEMPTS_PER_ADDRESS_MAX + 5))
    assert seen == {WRONG: ATTEMPTS_PER_ADDRESS_MAX, TOO_MANY: 5}


@pytest.mark.parametrize("database", DATABASES)
def test_a_restart_forgets_no_guess(request: pytest.FixtureRequest, tmp_path, database: str) -> None:
    server = new_server(request, tmp_path, database)
    with a_world(server) as world:
        victim = world.person("keys:read")
        assert guesses(world, victim, ATTEMPTS_PER_ADDRESS_MAX - 2) == {WRONG: ATTEMPTS_PER_ADDRESS_MAX - 2}
        server.kill()
        server.start()
        assert guesses(world, victim, 5) == {WRONG: 2, TOO_MANY: 3}


@pytest.mark.acceptance
def test_the_time_of_an_answer_tells_nothing_about_a_user(world: World) -> None:
    """Known, unknown, locked and disabled, one after the other; of each the median."""
    count = volume(400, share=0.06)
    admin = world.person()
    locked, disabled = (world.person("keys:read", realm_id=admin.realm_id) for _ in range(2))
    lock(world, locked)
    user_id = ok(disabled.get("/v1/auth/me"))["sub"]
    ok(admin.post(f"/v1/auth/users/{user_id}/disable"))
    took: dict[str, list[float]] = {"known": [], "unknown": [], "locked": [], "disabled": []}
    order = [*took] * (count // 4)
    random.Random(14).shuffle(order)
    for number, kind in enumerate(order):
        # A count of each address, and a count of each name that is not the locked one.
        victim = {"locked": locked, "disabled": disabled}.get(kind) or world.person(
            "keys:read", realm_id=admin.realm_id
        )
        name = {"username": world.fresh("nobody")} if kind == "unknown" else {}
        with at(world, f"127.{10 + number // 16_000}.{number // 250 % 250}.{1 + number % 250}") as client:
            ok(client.get("/health"))
            begun = time.perf_counter()
            answer = guess(client, victim, **name)
            took[kind].append(time.perf_counter() - begun)
        assert short(answer) == WRONG, kind
    medians = {kind: statistics.median(times) for kind, times in took.items()}
    print({kind: f"{1e3 * median:.2f} ms" for kind, median in medians.items()})
    bound = 1.05 if count >= 400 else 2.0
    assert max(medians.values()) / min(medians.values()) <= bound, medians
