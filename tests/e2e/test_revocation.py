"""What was taken away is gone in the next request, on every worker: user, client, realm, role, password, key.

Each play takes something away from a victim who is signed in on two workers, asks on all connections, and gives it
back. It must find nothing on the product, and something on a server that trusts its memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import pytest

from tests.support.api import PASSWORD, Person, World
from tests.support.load import PLACES, Wire, burst, get, operator_of, shared_server, spread
from tests.support.server import ok
from tests.support.volume import volume

KEYS, TOKEN = "/v1/security/keys", "/v1/auth/token"
OTHER = "another-long-phrase"
BURSTS = 5
"""Of eight requests each, after each acknowledgement."""


@dataclass
class Scene:
    """A victim, on connections to every worker, and who has power over them.

    Args:
        findings: What went wrong so far.
    """

    world: World
    admin: Person
    victim: Person
    user_id: str
    wires: Sequence[Wire]
    findings: list[str] = field(default_factory=list)
    sent: int = 0

    def expect(self, status: int, code: str | None, what: str) -> None:
        """Ask on all connections; note every answer that is another one. Storage may be away for a moment."""
        for _ in range(BURSTS if status != 200 else 1):
            replies = burst(self.wires, get(KEYS))
            wanted = {(status, code), (503, "storage_unavailable")}
            wrong = [reply.short for reply in replies if reply.short not in wanted]
            if wrong:
                self.findings.append(f"{what}: {wrong} among {len(replies)}")
            self.sent += len(replies) if status != 200 else 0

    def sign_in(self, password: str = PASSWORD) -> None:
        body = self.victim.credentials() | {"password": password}
        token = ok(self.world.operator.post(TOKEN, json=body))["access_token"]
        for wire in self.wires:
            wire.token = token


Play = Callable[[Scene, int], None]


def toggling(path: Callable[[Scene], str]) -> Play:
    """Disabled: 401; enabled: 200."""

    def play(scene: Scene, number: int) -> None:
        place, by = path(scene), scene.world.operator if "/realms/" in path(scene) else scene.admin.http
        body = {} if "/realms/" in place else {"realm_id": scene.admin.realm_id}
        ok(by.post(f"{place}/disable", json=body))
        scene.expect(401, "invalid_token", "after the disable")
        ok(by.post(f"{place}/enable", json=body))
        scene.expect(200, None, "after the enable")

    return play


def remove_the_role(scene: Scene, number: int) -> None:
    path, roles = f"/v1/auth/users/{scene.user_id}/roles", {"roles": scene.victim.roles}
    ok(scene.admin.post(f"{path}/remove", roles))
    scene.expect(403, "permission_denied", "after the removal")
    ok(scene.admin.post(f"{path}/assign", roles))
    scene.expect(200, None, "after the assignment")


def narrow_the_role(scene: Scene, number: int) -> None:
    path, star = f"/v1/auth/roles/{scene.victim.roles[0]}", {"If-Match": "*"}
    ok(scene.admin.http.patch(path, json={"permissions": ["shop:sell"]}, headers=star))
    scene.expect(403, "permission_denied", "after the narrowing")
    ok(scene.admin.http.patch(path, json={"permissions": ["keys:read"]}, headers=star))
    scene.expect(200, None, "after the widening")


def set_the_password(scene: Scene, number: int) -> None:
    password = (OTHER, PASSWORD)[number % 2]
    ok(scene.admin.post(f"/v1/auth/users/{scene.user_id}/password", {"password": password}))
    scene.expect(401, "invalid_token", "after the change of the password")
    scene.sign_in(password)
    scene.expect(200, None, "after the login")


def compromise_the_key(scene: Scene, number: int) -> None:
    ok(
        scene.world.operator.post(
            "/v1/auth/keys/rotate", json={"mode": "compromised", "realm_id": scene.admin.realm_id}
        )
    )
    scene.expect(401, "invalid_token", "after the rotation")
    scene.sign_in()
    scene.expect(200, None, "after the login")


def revoke_the_grants(scene: Scene, number: int) -> None:
    ok(scene.admin.post(f"/v1/auth/users/{scene.user_id}/grants/revoke"))
    scene.expect(401, "invalid_token", "after the end of the grants")
    scene.sign_in()
    scene.expect(200, None, "after the login")


PLAYS: dict[str, Play] = {
    "user": toggling(lambda scene: f"/v1/auth/users/{scene.user_id}"),
    "client": toggling(lambda scene: f"/v1/auth/clients/{scene.victim.client_id}"),
    "realm": toggling(lambda scene: f"/v1/auth/realms/{scene.admin.realm_id}"),
    "role of a user": remove_the_role,
    "permission of a role": narrow_the_role,
    "password": set_the_password,
    "grants": revoke_the_grants,
    "signing key": compromise_the_key,
}


def on_stage(world: World, play: Play, requests: int) -> list[str]:
    """Play until so many requests were sent after an acknowledgement; what went wrong."""
    with closing(World(world.server)) as fresh:
        admin = fresh.person()
        victim = fresh.person("keys:read", realm_id=admin.realm_id)
        user_id = ok(victim.get("/v1/auth/me"))["sub"]
        with spread(world.server, victim.access_token) as wires:
            scene = Scene(fresh, admin, victim, user_id, wires)
            scene.expect(200, None, "before")
            number = 0
            while scene.sent < requests and len(scene.findings) < 10:
                if number % 200 == 199:
                    # Many plays take longer than a token lives.
                    scene.admin = fresh.person(realm_id=admin.realm_id)
                    scene.sign_in((PASSWORD, OTHER)[number % 2] if play is set_the_password else PASSWORD)
                play(scene, number)
                number += 1
    return scene.findings


@pytest.fixture(scope="module", params=PLACES)
def two_workers(request: pytest.FixtureRequest) -> Iterator[World]:
    """The operator of a sound server."""
    with operator_of(shared_server(request, request.param)) as world:
        yield world


@pytest.mark.acceptance
@pytest.mark.parametrize("what", PLAYS)
def test_what_was_taken_away_opens_nothing_on_any_worker(two_workers: World, what: str) -> None:
    assert on_stage(two_workers, PLAYS[what], volume(10_000, share=0.01)) == []


@pytest.mark.parametrize(
    "what", ["user", "client", "realm", "role of a user", "permission of a role", "password", "grants"]
)
def test_a_memory_that_is_trusted_for_a_second_is_found_out(
    request: pytest.FixtureRequest, what: str
) -> None:
    with operator_of(shared_server(request, "sqlite", "trusts_cache")) as world:
        # A slow machine may take longer than that second between two requests.
        tries = (on_stage(world, PLAYS[what], 80) for _ in range(5))
        assert any(finding.startswith("after the") for findings in tries for finding in findings)
