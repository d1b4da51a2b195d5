"""What is changed while a login is under way is not begun by it: a hash takes long enough to meet every change."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.support.api import Person, World
from tests.support.oauth import nobody
from tests.support.server import ok, refused

LOOKS = 40


def in_flight(world: World, person: Person, deed: Callable[[], Any]) -> list[Any]:
    """Many logins, and the deed while they wait for their hashes; the answers of those that came after it."""
    with ThreadPoolExecutor(LOOKS) as threads:
        waiting = [
            threads.submit(lambda: nobody(world).post("/v1/auth/token", json=person.credentials()))
            for _ in range(LOOKS)
        ]
        deed()
        return [one.result() for one in waiting]


def test_a_login_with_the_old_password_begins_nothing_after_its_change(each_world: World) -> None:
    admin = each_world.person()
    person = each_world.person("keys:read", realm_id=admin.realm_id)
    user_id = ok(person.get("/v1/auth/me"))["sub"]

    def deed() -> None:
        ok(admin.post(f"/v1/auth/users/{user_id}/password", {"password": "another-long-phrase"}))

    answers = in_flight(each_world, person, deed)
    tokens = [answer.json()["refresh_token"] for answer in answers if answer.status_code == 200]
    for token in tokens:
        refused(
            nobody(each_world).post("/v1/auth/token/refresh", json={"refresh_token": token}),
            400,
            "invalid_grant",
        )
    assert ok(admin.get(f"/v1/auth/users/{user_id}/grants"))["items"] == []
