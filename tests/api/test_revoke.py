"""`POST /v1/auth/token/revoke`: what is revoked is dead in the next request, and the answer tells nothing."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from qimem.storage.schema import app_user, oauth_grant, spent
from tests.support.api import Person, World
from tests.support.oauth import (
    PROTECTED,
    at_once,
    b64,
    change,
    forger,
    nobody,
    protected,
    rows,
    taken_apart,
    unb64,
)
from tests.support.server import ok, refused

PATH = "/v1/auth/token/revoke"


def revoke(world: World, token: str) -> None:
    answer = nobody(world).post(PATH, json={"token": token})
    assert ok(answer) == {"revoked": True}
    assert answer.headers["cache-control"] == "no-store"


def refresh(person: Person, token: str) -> httpx.Response:
    return person.http.post("/v1/auth/token/refresh", json={"refresh_token": token})


def test_a_revoked_access_token_is_dead_in_the_next_request(each_world: World) -> None:
    person = each_world.person()
    ok(person.get(PROTECTED))
    revoke(each_world, person.access_token)
    answer = person.get(PROTECTED)
    assert refused(answer, 401, "invalid_token")["error"] == "invalid access token"
    assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'


def test_an_access_token_dies_alone(each_world: World) -> None:
    person = each_world.person()
    other = person.login()
    revoke(each_world, person.access_token)
    ok(protected(each_world, other["access_token"]))
    pair = ok(refresh(person, person.refresh_token))
    ok(protected(each_world, pair["access_token"]))


def test_a_revoked_refresh_token_takes_its_grant_and_every_access_token_along(each_world: World) -> None:
    person = each_world.person()
    pair, other = ok(refresh(person, person.refresh_token)), person.login()
    for token in (person.access_token, pair["access_token"]):
        # Used once, so that the worker knows them and has to forget.
        ok(protected(each_world, token))
    revoke(each_world, pair["refresh_token"])
    for token in (person.access_token, pair["access_token"]):
        refused(protected(each_world, token), 401, "invalid_token")
    for token in (person.refresh_token, pair["refresh_token"]):
        assert refused(refresh(person, token), 400, "invalid_grant")["error"] == "invalid refresh token"
    ok(protected(each_world, other["access_token"]))
    ok(refresh(person, other["refresh_token"]))


def test_a_spent_refresh_token_still_ends_its_grant(each_world: World) -> None:
    person = each_world.person()
    pair = ok(refresh(person, person.refresh_token))
    ok(protected(each_world, pair["access_token"]))
    revoke(each_world, person.refresh_token)
    refused(protected(each_world, pair["access_token"]), 401, "invalid_token")
    refused(refresh(person, pair["refresh_token"]), 400, "invalid_grant")


def test_a_token_of_a_client_for_itself_dies_too(each_world: World) -> None:
    realm_id = each_world.realm()
    made = each_world.client(realm_id, roles=["realm-admin"])
    asked = {name: made[name] for name in ("client_id", "client_secret")} | {
        "grant_type": "client_credentials"
    }
    one, two = (ok(nobody(each_world).post("/v1/auth/token", json=asked))["access_token"] for _ in range(2))
    ok(protected(each_world, one))
    revoke(each_world, one)
    refused(protected(each_world, one), 401, "invalid_token")
    ok(protected(each_world, two))


def test_revoking_twice_is_answered_alike_and_kept_once(each_world: World) -> None:
    person = each_world.person()
    for token in (person.access_token, person.refresh_token) * 3:
        revoke(each_world, token)
    assert len(rows(each_world.server, spent, realm_id=person.realm_id)) == 1
    (grant,) = rows(each_world.server, oauth_grant, realm_id=person.realm_id)
    assert grant["revoked_us"] is not None


def test_of_eight_at_once_all_are_answered(each_world: World) -> None:
    person = each_world.person()
    for token in (person.access_token, person.refresh_token):
        answers = at_once([lambda token=token: person.http.post(PATH, json={"token": token})] * 8)
        assert [ok(answer) for answer in answers] == [{"revoked": True}] * 8
    refused(person.get(PROTECTED), 401, "invalid_token")


def test_a_refresh_that_races_with_the_revocation_leaves_nothing_alive(each_world: World) -> None:
    for _ in range(5):
        person = each_world.person()
        calls: list[Any] = [lambda person=person: refresh(person, person.refresh_token)] * 3
        calls.insert(1, lambda person=person: person.http.post(PATH, json={"token": person.refresh_token}))
        answers = at_once(calls)
        assert ok(answers[1]) == {"revoked": True}
        pairs = [answer.json() for answer in answers if "refresh_token" in answer.json()]
        for pair in pairs:
            refused(protected(each_world, pair["access_token"]), 401, "invalid_token")
            refused(refresh(person, pair["refresh_token"]), 400, "invalid_grant")


def test_a_token_of_a_disabled_user_is_revoked_for_good(each_world: World) -> None:
    server, person = each_world.server, each_world.person()
    change(server, app_user, {"enabled": False}, realm_id=person.realm_id)
    revoke(each_world, person.access_token)
    change(server, app_user, {"enabled": True}, realm_id=person.realm_id)
    refused(person.get(PROTECTED), 401, "invalid_token")
    person.login()


def test_another_spelling_of_the_signature_does_not_bring_a_token_back(world: World) -> None:
    # ECDSA signatures come in pairs: (r, s) and (r, n - s) are both good.
    person = world.person()
    _, _, signature = taken_apart(person.access_token)
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    twin = signature[:32] + (order - int.from_bytes(signature[32:])).to_bytes(32)
    token = person.access_token.rpartition(".")[0] + "." + b64(twin)
    revoke(world, person.access_token)
    refused(protected(world, token), 401, "invalid_token")


@pytest.mark.parametrize(
    "token",
    ["", " ", "x", "a.b.c", "...", "qrt_", "qrt_AAAA", "qrt_" + "A" * 84, "qcs_AAAA", "\u0000", "ä.ö.ü", "null", "x" * 60_000,
     "eyJhbGciOiJub25lIn0.e30.", "e30.e30.", "bnVsbA.bnVsbA.AA", ("W" + "1" * 2000) + "." + "W" * 4000 + ".AA"],
    ids=lambda token: ascii(token[:12]),
)  # fmt: skip
def test_what_is_no_token_is_answered_alike(world: World, admin: Person, token: str) -> None:
    revoke(world, token)
    ok(admin.get(PROTECTED))


def test_no_variant_of_a_token_ends_it(world: World) -> None:
    person = world.person()
    header, claims, signature = person.access_token.split(".")
    forged = forger(world.server, world.person().access_token)
    data = unb64(person.refresh_token.removeprefix("qrt_"))
    variants = [
        f"{header}.{claims}.", f"{header}.{claims}", f"{header}.{claims}.{signature[:-2]}", f"{header}.{claims}.{b64(bytes(64))}",
        person.access_token + " ", " " + person.access_token, person.access_token + "=", "Bearer " + person.access_token,
        forged.compact(forged.header, taken_apart(person.access_token)[1]),
        forged.compact(taken_apart(person.access_token)[0], taken_apart(person.access_token)[1]),
        *(f"qrt_{b64(data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :])}" for at in range(0, len(data), 3)),
        person.refresh_token + "=", person.refresh_token[:-1], person.refresh_token + "\n",
    ]  # fmt: skip
    for variant in variants:
        revoke(world, variant)
    ok(person.get(PROTECTED))
    ok(refresh(person, person.refresh_token))


def test_an_expired_access_token_leaves_no_trace(world: World) -> None:
    person = world.person()
    revoke(world, forger(world.server, person.access_token).forge(iat=1, exp=2))
    assert not rows(world.server, spent, realm_id=person.realm_id)


def test_a_revocation_is_remembered_until_the_token_would_have_expired(world: World) -> None:
    person = world.person()
    revoke(world, person.access_token)
    (row,) = rows(world.server, spent, realm_id=person.realm_id)
    assert row["expires_us"] == taken_apart(person.access_token)[1]["exp"] * 1_000_000


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, {"/token": "required"}),
        ({"token": None}, {"/token": "expected str, got null"}),
        ({"token": 7}, {"/token": "expected str, got int"}),
        ({"token": "x", "token_type_hint": "access_token"}, {"/token_type_hint": "unknown field"}),
        ({"refresh_token": "x"}, {"/refresh_token": "unknown field"}),
    ],
    ids=str,
)
def test_a_body_of_another_shape_is_refused(admin: Person, body: dict, fields: dict[str, str]) -> None:
    found = refused(admin.post(PATH, body), 400, "invalid_field")["fields"]
    assert {key: value.partition(";")[0] for key, value in found.items()} == fields


def test_a_form_is_refused(admin: Person) -> None:
    refused(admin.http.post(PATH, data={"token": "x"}), 415, "unsupported_media_type")


def test_a_bad_bearer_does_not_matter(world: World) -> None:
    person = world.person()
    assert ok(
        nobody(world).post(
            PATH, json={"token": person.access_token}, headers={"Authorization": "Bearer garbage"}
        )
    ) == {"revoked": True}
    assert ok(person.post(PATH, {"token": person.access_token})) == {"revoked": True}
    refused(person.get(PROTECTED), 401, "invalid_token")
