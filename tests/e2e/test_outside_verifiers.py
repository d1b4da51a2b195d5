"""Libraries that verify our tokens elsewhere, with the key set remembered, across rotations under load."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import jwt
import pytest
from joserfc import jwt as jose
from joserfc.jwk import KeySet

from tests.support.api import Person, World
from tests.support.load import a_world, new_server
from tests.support.server import ok
from tests.support.volume import volume

LEAD_SECONDS, REMEMBERED_SECONDS = 3.0, 1.0
"""As on a real server: published at least twice as long before it signs as verifiers remember a key set."""
Verify = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="module")
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with a_world(
        new_server(request, tmp_path_factory.mktemp("verifiers"), "sqlite", "hurries_its_signing_keys")
    ) as made:
        yield made


def by_pyjwt(world: World, admin: Person) -> Verify:
    """With its own memory, and its pause of thirty seconds between looks for a `kid` that is not in it."""
    realm = ok(admin.get(f"/v1/auth/realms/{admin.realm_id}"))
    keys = jwt.PyJWKClient(
        f"{world.server.url}/realms/{admin.realm_id}/jwks", cache_jwk_set=True, lifespan=REMEMBERED_SECONDS
    )

    def verify(token: str) -> dict[str, Any]:
        key = keys.get_signing_key_from_jwt(token)
        found: dict[str, Any] = jwt.decode(
            token, key.key, algorithms=["ES256"], audience=world.server.url, issuer=realm["issuer"]
        )
        return found

    return verify


def by_joserfc(world: World, admin: Person, remembered_seconds: float = REMEMBERED_SECONDS) -> Verify:
    """A set that is remembered for a time, and no sooner fetched again."""
    url = f"{world.server.url}/realms/{admin.realm_id}/jwks"

    def fetched() -> KeySet:
        return KeySet.import_key_set(httpx.get(url).json())

    remembered = [(time.monotonic(), fetched())]

    def verify(token: str) -> dict[str, Any]:
        if time.monotonic() - remembered[0][0] > remembered_seconds:
            remembered[0] = time.monotonic(), fetched()
        claims = jose.decode(token, remembered[0][1], algorithms=["ES256"]).claims
        registry = jose.JWTClaimsRegistry(
            iss={"essential": True},
            aud={"essential": True, "value": world.server.url},
            exp={"essential": True},
        )
        registry.validate(claims)
        return claims

    return verify


def rotated_under_load(
    admin: Person, verify: Verify, rotations: int, mode: str = "scheduled"
) -> tuple[int, list[str], set[str]]:
    """How many tokens were verified, what went wrong, and the keys that signed them."""
    over, failures, kids, counts = threading.Event(), [], set(), [0, 0]

    def go_on(number: int) -> None:
        pair = admin.login()
        while not over.is_set():
            # One signs in anew each time, the other refreshes.
            body = {"refresh_token": pair["refresh_token"]}
            pair = admin.login() if number == 0 else ok(admin.post("/v1/auth/token/refresh", body))
            token = pair["access_token"]
            kids.add(jwt.get_unverified_header(token)["kid"])
            try:
                assert verify(token)["realm"] == admin.realm_id
            except Exception as error:
                failures.append(f"{type(error).__name__}: {error}")
            counts[number] += 1

    threads = [threading.Thread(target=go_on, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(rotations):
        ok(admin.post("/v1/auth/keys/rotate", {"mode": mode}))
        time.sleep(LEAD_SECONDS + 2)
    over.set()
    for thread in threads:
        thread.join()
    return sum(counts), failures, kids


@pytest.mark.acceptance
@pytest.mark.parametrize("verifier", [by_pyjwt, by_joserfc])
def test_no_verification_fails_across_rotations(
    world: World, verifier: Callable[[World, Person], Verify]
) -> None:
    admin = world.person()
    rotations = volume(20, share=0.1)
    verified, failures, kids = rotated_under_load(admin, verifier(world, admin), rotations)
    assert failures == []
    assert len(kids) >= rotations
    assert verified > 10 * rotations


def test_a_verifier_that_never_looks_again_is_found_out(world: World) -> None:
    admin = world.person()
    _, failures, _ = rotated_under_load(admin, by_joserfc(world, admin, 3_600), 1)
    assert failures


def test_a_rotation_without_a_lead_is_found_out(world: World) -> None:
    """Mode `now` is for who can wait: it says so."""
    admin = world.person()
    _, failures, _ = rotated_under_load(admin, by_joserfc(world, admin, 4), 1, "now")
    assert failures


def test_a_token_of_another_realm_is_refused(world: World) -> None:
    admin, stranger = world.person(), world.person()
    for verifier in (by_pyjwt, by_joserfc):
        with pytest.raises(Exception, match=r".*"):
            verifier(world, admin)(stranger.access_token)
