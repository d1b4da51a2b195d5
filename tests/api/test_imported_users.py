"""Users who come from another system with the hash of their password."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import bcrypt
import pytest

from tests.support.api import PASSWORD, Person, World
from tests.support.load import rows
from tests.support.oauth import nobody
from tests.support.server import ok, refused

USERS = "/v1/auth/users"
TOKEN = "/v1/auth/token"
STORED = "SELECT c.data FROM credential c JOIN app_user u ON u.user_id = c.user_id WHERE u.username = ?"


@pytest.fixture
def admin(each_world: World) -> Person:
    return each_world.person()


def hashed(password: str) -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()


def imported(world: World, admin: Person, password_hash: str) -> dict[str, str]:
    """What the user signs in with, except for the password."""
    body = {"username": world.fresh("old"), "password_hash": password_hash, "roles": []}
    made = ok(admin.post(USERS, json=body))
    assert password_hash not in str(made)
    return admin.credentials() | {"username": made["username"]}


def stored(world: World, known: dict[str, str]) -> str:
    ((data,),) = rows(world.server, STORED, known["username"])
    return data


def test_the_first_sign_in_replaces_the_hash_by_one_of_ours(each_world: World, admin: Person) -> None:
    known = imported(each_world, admin, hashed(PASSWORD))
    caller = nobody(each_world)
    assert stored(each_world, known).startswith("imported:$2b$")
    refused(caller.post(TOKEN, json=known | {"password": PASSWORD + "x"}), 400, "invalid_grant")
    assert stored(each_world, known).startswith("imported:$2b$")
    pair = ok(caller.post(TOKEN, json=known | {"password": PASSWORD}))
    after = stored(each_world, known)
    assert after.startswith("$argon2id$v=19$m=19456,")
    # Nothing else changed: the token goes on, and so does the password.
    ok(each_world.bearer(pair["access_token"]).get("/v1/auth/me"))
    ok(caller.post(TOKEN, json=known | {"password": PASSWORD}))
    refused(caller.post(TOKEN, json=known | {"password": PASSWORD + "x"}), 400, "invalid_grant")
    assert stored(each_world, known) == after


def test_eight_first_sign_ins_at_once_are_eight_sign_ins(each_world: World, admin: Person) -> None:
    known = imported(each_world, admin, hashed(PASSWORD)) | {"password": PASSWORD}
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: nobody(each_world).post(TOKEN, json=known), range(8)))
    assert [answer.status_code for answer in answers] == [200] * 8
    assert stored(each_world, known).startswith("$argon2id$")


def test_what_follows_the_part_that_was_hashed_does_not_become_the_password(
    each_world: World, admin: Person
) -> None:
    password = "a phrase that goes on and on " * 3
    known = imported(each_world, admin, hashed(password[:72]))
    caller = nobody(each_world)
    ok(caller.post(TOKEN, json=known | {"password": password[:72] + "TYPO"}))
    ok(caller.post(TOKEN, json=known | {"password": password}))
    assert stored(each_world, known).startswith("imported:")
    ok(caller.post(TOKEN, json=known | {"password": password[:72]}))
    assert stored(each_world, known).startswith("$argon2id$")


@pytest.mark.parametrize("password", ["", "x" * 2_000])
def test_an_empty_password_lets_nobody_in(each_world: World, admin: Person, password: str) -> None:
    known = imported(each_world, admin, hashed(""))
    refused(nobody(each_world).post(TOKEN, json=known | {"password": password}), 400, "invalid_grant")


def test_dear_hashes_of_one_tenant_do_not_keep_the_others_waiting(each_world: World, admin: Person) -> None:
    dear = imported(each_world, admin, f"pbkdf2:sha1:300000$salt${'ab' * 64}") | {"password": "ﬀ wrong"}
    other = each_world.person()
    with ThreadPoolExecutor(12) as threads:
        guesses = [
            threads.submit(lambda: nobody(each_world).post(TOKEN, json=dear).status_code) for _ in range(12)
        ]
        began, answers = time.monotonic(), []
        while not all(guess.done() for guess in guesses) and len(answers) < 5:
            answers.append(nobody(each_world).post(TOKEN, json=other.credentials()).status_code)
        taken = time.monotonic() - began
    assert answers
    assert set(answers) == {200}, answers
    assert taken < 5 * len(answers)
    assert {guess.result() for guess in guesses} <= {400, 429, 503}


def test_a_password_that_may_not_be_chosen_still_lets_in(each_world: World, admin: Person) -> None:
    known = imported(each_world, admin, hashed("old")) | {"password": "old"}
    ok(nobody(each_world).post(TOKEN, json=known))
    ok(nobody(each_world).post(TOKEN, json=known))


def test_a_disabled_user_keeps_the_old_hash(each_world: World, admin: Person) -> None:
    known = imported(each_world, admin, hashed(PASSWORD)) | {"password": PASSWORD}
    (user,) = [one for one in ok(admin.get(USERS))["items"] if one["username"] == known["username"]]
    ok(admin.post(f"{USERS}/{user['id']}/disable"))
    refused(nobody(each_world).post(TOKEN, json=known), 400, "invalid_grant")
    assert stored(each_world, known).startswith("imported:")


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({}, "/password"),
        ({"password": PASSWORD, "password_hash": "$2b$04$" + "a" * 53}, "/password"),
        ({"password": None, "password_hash": None}, "/password"),
        ({"password_hash": ""}, "/password_hash"),
        ({"password_hash": PASSWORD}, "/password_hash"),
        ({"password_hash": "imported:$2b$04$" + "a" * 53}, "/password_hash"),
        ({"password_hash": "$2b$31$" + "a" * 53}, "/password_hash"),
        ({"password_hash": "$2b$04$" + "a" * 53 + "\n"}, "/password_hash"),
        ({"password_hash": 7}, "/password_hash"),
    ],
)  # fmt: skip
def test_what_is_no_hash_is_told_and_adds_nobody(each_world: World, admin: Person, given, field: str) -> None:
    name = each_world.fresh("nobody")
    answer = admin.post(USERS, json={"username": name, "roles": [], **given})
    assert set(refused(answer, 400, "invalid_field")["fields"]) == {field}
    assert name not in [user["username"] for user in ok(admin.get(USERS, params={"limit": 200}))["items"]]
