"""The second factor: from enrolment to a lost phone, and every code good once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree as ET

import httpx
import pytest

from qimem.storage.schema import credential
from tests.support.api import PASSWORD, Person, World
from tests.support.audit_log import of_request
from tests.support.oauth import change, nobody
from tests.support.one_time import code_of
from tests.support.server import ok, refused

ME, TOTP, CODES = "/v1/auth/me", "/v1/auth/me/totp", "/v1/auth/me/recovery-codes"


@pytest.fixture
def person(each_world: World) -> Person:
    return each_world.person("keys:read")


def login(world: World, person: Person, code: str | None = None, **more: Any) -> httpx.Response:
    body = person.credentials() | more | ({} if code is None else {"totp_code": code})
    return nobody(world).post("/v1/auth/token", json=body)


def enrolled(person: Person) -> tuple[str, list[str]]:
    """The shared secret, and the recovery codes; the current step is used."""
    secret = ok(person.post(TOTP, {"current_password": PASSWORD}))["secret"]
    codes = ok(person.post(f"{TOTP}/confirm", {"code": code_of(secret)}))["recovery_codes"]
    return secret, codes


def test_what_is_shown_is_what_an_app_reads(person: Person) -> None:
    shown = ok(person.post(TOTP, {"current_password": PASSWORD}))
    uri = urlsplit(shown["otpauth_uri"])
    assert (uri.scheme, uri.netloc) == ("otpauth", "totp")
    assert person.username in uri.path
    given = {name: values[0] for name, values in parse_qs(uri.query).items()}
    assert given == {
        "secret": shown["secret"], "issuer": "127.0.0.1", "algorithm": "SHA1", "digits": "6", "period": "30",
    }  # fmt: skip
    assert len(shown["secret"]) == 32
    assert ET.fromstring(shown["qr_svg"]).tag.endswith("svg")


def test_it_counts_once_it_is_confirmed(each_world: World, person: Person) -> None:
    secret = ok(person.post(TOTP, {"current_password": PASSWORD}))["secret"]
    ok(login(each_world, person))
    assert ok(person.get(ME))["second_factor"] is False
    for wrong in ("000000", "", "x", code_of(secret, 5)):
        refused(person.post(f"{TOTP}/confirm", {"code": wrong}), 400, "invalid_mfa_code")
    answer = person.post(f"{TOTP}/confirm", {"code": code_of(secret)})
    assert len(set(ok(answer)["recovery_codes"])) == 10
    (record,) = of_request(each_world.server.data, answer.headers["x-request-id"])
    assert (record["event"], record["target"]) == ("me.confirm-totp", record["subject"])
    assert ok(person.get(ME))["second_factor"] is True
    refused(login(each_world, person), 400, "mfa_required")
    # The step that confirmed it is used.
    refused(login(each_world, person, code_of(secret)), 400, "invalid_mfa_code")
    ok(login(each_world, person, code_of(secret, 1)))


def test_who_does_not_know_the_password_learns_nothing_of_a_second_factor(
    each_world: World, person: Person
) -> None:
    secret, _ = enrolled(person)
    for code in (None, "000000", code_of(secret, 1)):
        refused(login(each_world, person, code, password="a wrong phrase"), 400, "invalid_grant")
    # And a code shown beside a wrong password is not used up.
    ok(login(each_world, person, code_of(secret, 1)))


@pytest.mark.parametrize(
    "spelling",
    ["{} ", " {}", "{0[0]}{0[1]}{0[2]} {0[3]}{0[4]}{0[5]}", "{0[0]}-{0[1]}{0[2]}{0[3]}{0[4]}{0[5]}"],
)
def test_a_code_is_used_in_every_spelling(each_world: World, person: Person, spelling: str) -> None:
    secret, _ = enrolled(person)
    code = code_of(secret, 1)
    ok(login(each_world, person, spelling.format(code)))
    for again in (code, spelling.format(code)):
        refused(login(each_world, person, again), 400, "invalid_mfa_code")


@pytest.mark.parametrize("code", ["000000", "", "1", "１２３４５６", "\u0660" * 6, "x" * 65, "\x00", "null"])
def test_another_code_opens_nothing(each_world: World, person: Person, code: str) -> None:
    enrolled(person)
    refused(login(each_world, person, code), 400, "invalid_mfa_code")


def test_only_the_steps_around_now_are_good(each_world: World, person: Person) -> None:
    secret, _ = enrolled(person)
    for steps in (-3, -2, 2, 3):
        refused(login(each_world, person, code_of(secret, steps)), 400, "invalid_mfa_code")


def test_for_users_without_a_second_factor_a_code_is_ignored(each_world: World, person: Person) -> None:
    ok(login(each_world, person, "123456"))


def test_each_recovery_code_is_good_once(each_world: World, person: Person) -> None:
    _, codes = enrolled(person)
    ok(login(each_world, person, codes[0]))
    ok(login(each_world, person, codes[1].lower().replace("-", " ")))
    for used in codes[:2]:
        refused(login(each_world, person, used), 400, "invalid_mfa_code")
    renewed = ok(person.post(CODES, {"current_password": PASSWORD, "code": codes[2]}))["recovery_codes"]
    assert not {*renewed} & {*codes}
    for void in codes[:4]:
        refused(login(each_world, person, void), 400, "invalid_mfa_code")
    ok(login(each_world, person, renewed[0]))


def test_of_many_at_once_one_code_opens_one_door(each_world: World, person: Person) -> None:
    secret, codes = enrolled(person)
    for code in (code_of(secret, 1), codes[0]):
        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(lambda _: login(each_world, person, code), range(8)))
        assert sorted(answer.status_code for answer in answers) == [200, *[400] * 7]


def test_every_change_needs_the_password_and_what_there_is(each_world: World, person: Person) -> None:
    refused(person.post(TOTP, {"current_password": "x"}), 400, "invalid_grant")
    for path in (f"{TOTP}/disable", CODES):
        refused(person.post(path, {"current_password": PASSWORD, "code": "000000"}), 409, "conflict")
    refused(person.post(f"{TOTP}/confirm", {"code": "000000"}), 409, "conflict")
    secret, codes = enrolled(person)
    refused(person.post(TOTP, {"current_password": PASSWORD}), 409, "conflict")
    refused(person.post(f"{TOTP}/confirm", {"code": code_of(secret, 1)}), 409, "conflict")
    for path in (f"{TOTP}/disable", CODES):
        refused(person.post(path, {"current_password": "x", "code": codes[0]}), 400, "invalid_grant")
        refused(person.post(path, {"current_password": PASSWORD, "code": "000000"}), 400, "invalid_mfa_code")
    change = {"current_password": PASSWORD, "password": "another-long-phrase"}
    refused(person.post(f"{ME}/password", change), 400, "mfa_required")
    ok(person.post(f"{ME}/password", change | {"totp_code": codes[0]}))


def test_without_it_again(each_world: World, person: Person) -> None:
    _, codes = enrolled(person)
    assert ok(person.post(f"{TOTP}/disable", {"current_password": PASSWORD, "code": codes[0]})) == {
        "enabled": False
    }
    ok(login(each_world, person))
    refused(person.post(f"{TOTP}/disable", {"current_password": PASSWORD, "code": codes[1]}), 409, "conflict")


def test_an_administrator_helps_who_lost_the_phone(each_world: World) -> None:
    admin = each_world.person()
    victim = each_world.person("keys:read", realm_id=admin.realm_id)
    enrolled(victim)
    refused(login(each_world, victim), 400, "mfa_required")
    path = f"/v1/auth/users/{ok(victim.get(ME))['sub']}/totp/disable"
    clerk = each_world.person("users:manage", realm_id=admin.realm_id)
    refused(clerk.post(path), 403, "permission_denied")
    for _ in range(2):
        assert ok(admin.post(path)) == {"enabled": False}
    ok(login(each_world, victim))
    own = f"/v1/auth/users/{ok(admin.get(ME))['sub']}/totp/disable"
    enrolled(admin)
    assert refused(clerk.post(own), 403, "permission_denied")["permission"] == "realm:*"
    refused(each_world.person().post(path), 404, "not_found")


@pytest.mark.parametrize(
    "spell", [str, str.lower, lambda text: f"{text[:4]} {text[4:]}", lambda text: f"{text}======"]
)
def test_a_user_may_come_with_an_app(each_world: World, spell: Any) -> None:
    person, secret = each_world.person(), "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
    body = {"username": "bob", "password": PASSWORD, "roles": [], "totp_secret": spell(secret)}
    made = ok(person.post("/v1/auth/users", body))
    assert "totp_secret" not in made
    bob = {"username": "bob"}
    refused(login(each_world, person, **bob), 400, "mfa_required")
    ok(login(each_world, person, code_of(secret), **bob))


@pytest.mark.parametrize(
    "secret", ["", "A", "JBSWY3DPEHPK3P", "1BSWY3DPEHPK3PXP", "JBSWY3DPEHPK3PXP\u00e4", "A" * 1_000]
)
def test_a_weak_or_malformed_secret_is_refused(each_world: World, secret: str) -> None:
    person = each_world.person()
    body = {"username": "bob", "password": PASSWORD, "roles": [], "totp_secret": secret}
    assert set(refused(person.post("/v1/auth/users", body), 400, "invalid_field")["fields"]) == {
        "/totp_secret"
    }


def test_guesses_at_the_code_are_counted_with_those_at_the_password(
    each_world: World, person: Person
) -> None:
    secret, codes = enrolled(person)
    seen = [login(each_world, person, f"{number:06d}").status_code for number in range(25)]
    assert seen == [400] * 20 + [429] * 5
    for code in (code_of(secret, 1), codes[0]):
        refused(login(each_world, person, code), 429, "too_many_attempts")


def test_guesses_at_the_confirmation_are_counted(each_world: World, person: Person) -> None:
    secret = ok(person.post(TOTP, {"current_password": PASSWORD}))["secret"]
    seen = [person.post(f"{TOTP}/confirm", {"code": f"{number:06d}"}).status_code for number in range(25)]
    assert seen == [400] * 20 + [429] * 5
    refused(person.post(f"{TOTP}/confirm", {"code": code_of(secret)}), 429, "too_many_attempts")


def test_a_secret_that_waited_too_long_is_not_confirmed(each_world: World, person: Person) -> None:
    secret = ok(person.post(TOTP, {"current_password": PASSWORD}))["secret"]
    where = {"realm_id": person.realm_id, "kind": "totp-pending"}
    assert change(each_world.server, credential, {"created_us": 1}, **where) == 1
    refused(person.post(f"{TOTP}/confirm", {"code": code_of(secret)}), 409, "conflict")


def test_a_client_has_none(each_world: World) -> None:
    client = each_world.client(each_world.realm(), roles=["realm-admin"])
    body = {"grant_type": "client_credentials", **{n: client[n] for n in ("client_id", "client_secret")}}
    caller = each_world.bearer(ok(nobody(each_world).post("/v1/auth/token", json=body))["access_token"])
    refused(caller.post(TOTP, json={"current_password": "x"}), 409, "conflict")
    refused(caller.post(f"{TOTP}/confirm", json={"code": "x"}), 409, "conflict")
