"""`POST /v1/auth/token`: who gets a token, what is in it, and refusals that tell nothing."""

from __future__ import annotations

import socket
import time
from typing import Any
from uuid import UUID

import jwt
import pytest
from joserfc import jwt as joserfc_jwt
from joserfc.jwk import ECKey, KeySet

from qimem.storage.schema import app_user, client, credential, oauth_grant, realm
from tests.support.api import PASSWORD, Person, World
from tests.support.oauth import change, nobody, protected, remove, rows, taken_apart, without
from tests.support.server import ok, refused

PATH = "/v1/auth/token"
CLAIMS = {"iss", "sub", "aud", "client_id", "realm", "roles", "permissions", "jti", "token_use", "iat", "exp"}


def by_secret(made: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A client-credentials request of a client as the API answered it."""
    known = {name: made[name] for name in ("client_id", "client_secret")}
    return {"grant_type": "client_credentials", **known, **more}


def test_a_password_gets_a_pair(each_world: World) -> None:
    person = each_world.person()
    answer = nobody(each_world).post(PATH, json=person.credentials())
    pair = ok(answer)
    assert pair.keys() == {"access_token", "refresh_token", "expires_in", "token_type"}
    assert (pair["expires_in"], pair["token_type"]) == (900, "Bearer")
    assert answer.headers["cache-control"] == "no-store"
    assert pair["refresh_token"].startswith("qrt_")


def test_the_password_grant_may_be_written_out(admin: Person) -> None:
    ok(admin.http.post(PATH, json=admin.credentials() | {"grant_type": "password"}))


def test_every_login_is_a_grant_of_its_own(each_world: World) -> None:
    person = each_world.person()
    one, two = person.login(), person.login()
    assert one["refresh_token"] != two["refresh_token"]
    claims = [taken_apart(pair["access_token"])[1] for pair in (one, two)]
    assert claims[0]["jti"] != claims[1]["jti"]
    assert claims[0]["sub"] == claims[1]["sub"]


@pytest.mark.parametrize("realm_named", [True, False])
def test_client_credentials_get_an_access_token_alone(each_world: World, realm_named: bool) -> None:
    realm_id = each_world.realm()
    made = each_world.client(realm_id, roles=[each_world.role(realm_id, ["keys:read", "orders:approve"])])
    asked = by_secret(made, realm_id=realm_id) if realm_named else by_secret(made)
    answer = ok(nobody(each_world).post(PATH, json=asked))
    assert answer.keys() == {"access_token", "expires_in", "token_type"}
    _, claims, _ = taken_apart(answer["access_token"])
    assert claims["sub"] == claims["client_id"] == made["client_id"]
    assert (claims["roles"], claims["permissions"]) == (made["roles"], ["keys:read", "orders:approve"])
    ok(protected(each_world, answer["access_token"]))
    assert not rows(each_world.server, oauth_grant, realm_id=realm_id)


def test_a_client_does_not_borrow_the_roles_of_its_users(world: World, admin: Person) -> None:
    made = {"client_id": admin.client_id, "client_secret": admin.client_secret}
    token = ok(nobody(world).post(PATH, json=by_secret(made)))["access_token"]
    refused(protected(world, token), 403, "permission_denied")


def test_two_libraries_verify_the_token_with_the_published_keys(each_world: World) -> None:
    person = each_world.person("keys:read", "orders:approve")
    jwks = ok(nobody(each_world).get(f"/realms/{person.realm_id}/jwks"))
    token, url, now = person.access_token, each_world.server.url, int(time.time())

    header, claims, _ = taken_apart(token)
    assert header == {"alg": "ES256", "typ": "at+jwt", "kid": jwks["keys"][0]["kid"]}
    issuer = f"{url}/realms/{person.realm_id}"
    by_pyjwt = jwt.decode(
        token, jwt.PyJWKSet.from_dict(jwks)[header["kid"]], algorithms=["ES256"], audience=url, issuer=issuer
    )
    by_joserfc = joserfc_jwt.decode(token, KeySet.import_key_set(jwks), algorithms=["ES256"])
    assert by_pyjwt == by_joserfc.claims == claims
    assert by_joserfc.header == header
    assert ECKey.import_key(jwks["keys"][0]).thumbprint() == header["kid"]

    assert claims.keys() == CLAIMS | {"grant_id"}
    assert claims == claims | {
        "iss": issuer, "aud": url, "client_id": person.client_id, "realm": person.realm_id, "roles": person.roles,
        "permissions": ["keys:read", "orders:approve"], "token_use": "access", "exp": claims["iat"] + 900,
    }  # fmt: skip
    assert now - 60 <= claims["iat"] <= now
    (user,) = rows(each_world.server, app_user, realm_id=person.realm_id)
    assert UUID(claims["sub"]) == user["user_id"]
    assert UUID(claims["jti"]).version == 4


def test_neither_library_verifies_it_with_the_keys_of_another_realm(world: World, admin: Person) -> None:
    foreign = ok(nobody(world).get(f"/realms/{world.realm()}/jwks"))
    key = jwt.PyJWK(foreign["keys"][0])
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(admin.access_token, key, algorithms=["ES256"], audience=world.server.url)


@pytest.mark.parametrize(
    ("asked", "granted"),
    [
        (None, "read write admin"),
        ("read", "read"),
        ("write read", "write read"),
        ("read read", "read"),
        ("read write admin", "read write admin"),
    ],
)
@pytest.mark.parametrize("grant", ["password", "client_credentials"])
def test_scope_narrows(world: World, grant: str, asked: str | None, granted: str) -> None:
    person = world.person()
    made = world.client(person.realm_id, scope="read write admin")
    request = person.credentials() if grant == "password" else {}
    answer = ok(person.http.post(PATH, json=request | by_secret(made, grant_type=grant, scope=asked)))
    assert answer["scope"] == taken_apart(answer["access_token"])[1]["scope"] == granted


@pytest.mark.parametrize(
    "asked",
    [
        "",
        " ",
        "read ",
        " read",
        "read  write",
        "READ",
        "read,write",
        "read delete",
        "delete",
        "read\t",
        "read\u0000",
        "x" * 5000,
    ],
)
@pytest.mark.parametrize("grant", ["password", "client_credentials"])
def test_scope_never_widens(world: World, admin: Person, grant: str, asked: str) -> None:
    made = scoped(world, admin.realm_id)
    request = admin.credentials() if grant == "password" else {}
    answer = admin.http.post(PATH, json=request | by_secret(made, grant_type=grant, scope=asked))
    error = refused(answer, 400, "invalid_scope")["error"]
    assert error == "scope exceeds what the client is registered for"


@pytest.mark.parametrize("asked", ["read", "", " "])
def test_a_client_without_scope_narrows_nothing(admin: Person, asked: str) -> None:
    refused(admin.http.post(PATH, json=admin.credentials() | {"scope": asked}), 400, "invalid_scope")


def test_a_public_client_signs_in_without_a_secret(each_world: World) -> None:
    person = each_world.person()
    public = each_world.client(person.realm_id, token_endpoint_auth_method="none")
    asked = person.credentials() | {"client_id": public["client_id"]}
    refused(person.http.post(PATH, json=asked), 401, "invalid_client")
    refused(person.http.post(PATH, json=asked | {"client_secret": ""}), 401, "invalid_client")
    del asked["client_secret"]
    ok(person.http.post(PATH, json=asked))
    alone = {"client_id": public["client_id"], "grant_type": "client_credentials"}
    error = refused(person.http.post(PATH, json=alone), 400, "unauthorized_client")["error"]
    assert error == "grant type not allowed"


@pytest.mark.parametrize("grant", ["password", "client_credentials"])
def test_a_client_uses_no_grant_type_it_is_not_registered_for(
    world: World, admin: Person, grant: str
) -> None:
    others = [name for name in ("password", "client_credentials", "refresh_token") if name != grant]
    made = world.client(admin.realm_id, grant_types=others)
    # With a wrong password as well: whoever may not ask has none compared.
    for password in (PASSWORD, "wrong"):
        asked = admin.credentials() | by_secret(made, grant_type=grant, password=password)
        error = refused(admin.http.post(PATH, json=asked), 400, "unauthorized_client")["error"]
        assert error == "grant type not allowed"


def test_without_the_refresh_grant_there_is_no_refresh_token(world: World, admin: Person) -> None:
    made = world.client(admin.realm_id, grant_types=["password"])
    answer = ok(admin.http.post(PATH, json=admin.credentials() | by_secret(made, grant_type="password")))
    assert "refresh_token" not in answer


@pytest.mark.parametrize(
    "grant", ["authorization_code", "refresh_token", "implicit", "PASSWORD", "password ", "none", "", "\u0000",
              "urn:ietf:params:oauth:grant-type:device_code", "urn:ietf:params:oauth:grant-type:token-exchange"],
    ids=ascii,
)  # fmt: skip
def test_another_grant_type_is_not_offered_here(admin: Person, grant: str) -> None:
    answer = admin.http.post(PATH, json=admin.credentials() | {"grant_type": grant})
    assert refused(answer, 400, "unsupported_grant_type")["error"] == "unsupported grant type"


WRONG_CLIENTS: list[dict[str, Any]] = [
    {"client_secret": None}, {"client_secret": ""}, {"client_secret": "qcs_wrong"}, {"client_secret": "\u0000"},
    {"client_secret": "ä"}, {"client_secret": "x" * 100_000},
    {"client_id": ""}, {"client_id": "unknown"}, {"client_id": "00000000-0000-4000-8000-000000000000"},
    {"client_id": "x" * 128}, {"client_id": "x" * 129}, {"client_id": "'; DROP TABLE client; --"},
    {"realm_id": "system"}, {"realm_id": "absent"}, {"realm_id": ""}, {"realm_id": "../system"},
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG_CLIENTS, ids=lambda wrong: ascii(wrong)[:50])
@pytest.mark.parametrize("grant", ["password", "client_credentials", "refresh_token"])
def test_every_wrong_client_gets_the_same_answer(admin: Person, grant: str, wrong: dict[str, Any]) -> None:
    answer = admin.http.post(PATH, json=admin.credentials() | {"grant_type": grant} | wrong)
    assert refused(answer, 401, "invalid_client")["error"] == "invalid client credentials"
    assert answer.headers["www-authenticate"] == "Bearer"
    plain = admin.http.post(PATH, json=admin.credentials() | {"client_secret": "wrong"})
    assert without(answer) == without(plain)


def test_a_secret_is_compared_as_a_whole(admin: Person) -> None:
    secret = admin.client_secret
    for wrong in (
        secret[:-1],
        secret + "x",
        secret + " ",
        secret.swapcase(),
        secret.removeprefix("qcs_"),
        secret + "\u0000",
    ):
        answer = admin.http.post(PATH, json=admin.credentials() | {"client_secret": wrong})
        refused(answer, 401, "invalid_client")


def test_a_client_id_with_a_null_character_is_unknown_on_every_database(each_world: World) -> None:
    asked = {"grant_type": "client_credentials", "client_id": "a\u0000b", "client_secret": "x"}
    refused(nobody(each_world).post(PATH, json=asked), 401, "invalid_client")


@pytest.mark.parametrize(
    ("table", "column"), [(client, "client_id"), (realm, "realm_id")], ids=["client", "realm"]
)
def test_a_disabled_client_or_realm_gets_nothing(each_world: World, table: Any, column: str) -> None:
    server, person = each_world.server, each_world.person()
    who = {"client_id": person.client_id} if column == "client_id" else {}
    plain = person.http.post(PATH, json=person.credentials() | {"client_secret": "wrong"})
    assert change(server, table, {"enabled": False}, realm_id=person.realm_id, **who) == 1
    for grant in ("password", "client_credentials"):
        answer = person.http.post(PATH, json=person.credentials() | {"grant_type": grant})
        refused(answer, 401, "invalid_client")
        assert without(answer) == without(plain)
    change(server, table, {"enabled": True}, realm_id=person.realm_id, **who)
    person.login()


def test_whoever_cannot_sign_in_learns_not_why(each_world: World) -> None:
    server, person = each_world.server, each_world.person()
    elsewhere = each_world.user(each_world.realm())["username"]
    disabled, bare = (each_world.user(person.realm_id) for _ in range(2))
    change(server, app_user, {"enabled": False}, realm_id=person.realm_id, username=disabled["username"])
    remove(server, credential, realm_id=person.realm_id, user_id=UUID(bare["id"]))
    wrong: list[dict[str, Any]] = [
        {"password": "wrong"}, {"password": ""}, {"password": "x" * 257}, {"password": "x" * 50_000},
        {"password": PASSWORD.upper()}, {"password": PASSWORD + "\u0000"},
        {"username": "nobody"}, {"username": ""}, {"username": "no body"}, {"username": "x" * 129}, {"username": "\u0000"},
        {"username": "ﬁ"}, {"username": elsewhere}, {"username": bare["username"]},
        {"username": disabled["username"]}, {"username": disabled["username"], "password": "wrong"},
    ]  # fmt: skip
    answers = [person.http.post(PATH, json=person.credentials() | one) for one in wrong]
    assert refused(answers[0], 400, "invalid_grant")["error"] == "invalid credentials"
    assert [without(answer) for answer in answers] == [without(answers[0])] * len(wrong)


def test_a_user_that_is_enabled_again_signs_in(each_world: World) -> None:
    server, person = each_world.server, each_world.person()
    for enabled in (False, True):
        change(server, app_user, {"enabled": enabled}, realm_id=person.realm_id, username=person.username)
    person.login()


@pytest.mark.parametrize(
    "missing", [("username",), ("password",), ("realm_id",), ("realm_id", "username", "password")]
)
def test_the_password_grant_needs_its_fields(admin: Person, missing: tuple[str, ...]) -> None:
    asked = {name: value for name, value in admin.credentials().items() if name not in missing}
    fields = refused(admin.http.post(PATH, json=asked), 400, "invalid_field")["fields"]
    assert fields == {f"/{name}": "required for the password grant" for name in missing}


@pytest.mark.parametrize(
    ("changed", "fields"),
    [
        ({"client_id": None}, {"/client_id": "expected str, got null"}),
        ({"client_secret": 7}, {"/client_secret": "expected str | null, got int"}),
        ({"password": ["x"]}, {"/password": "expected str | null, got array"}),
        ({"totp_code": 123456}, {"/totp_code": "expected str | null, got int"}),
        ({"scope": ["read"]}, {"/scope": "expected str | null, got array"}),
        ({"user_name": "x"}, {"/user_name": "unknown field; did you mean username?"}),
        ({"grant-type": "password"}, {"/grant-type": "unknown field; did you mean grant_type?"}),
        ({"refresh_token": "qrt_x"}, {"/refresh_token": "unknown field"}),
        ({"client_assertion": "x"}, {"/client_assertion": "unknown field; did you mean client_secret?"}),
    ],
    ids=str,
)
def test_a_body_of_another_shape_is_refused(admin: Person, changed: dict, fields: dict[str, str]) -> None:
    found = refused(admin.http.post(PATH, json=admin.credentials() | changed), 400, "invalid_field")["fields"]
    assert {pointer: reason.partition(";")[0] for pointer, reason in found.items()} == {
        pointer: reason.partition(";")[0] for pointer, reason in fields.items()
    }


def test_a_body_with_one_key_twice_is_refused(admin: Person) -> None:
    text = f'{{"client_id":"{admin.client_id}","client_id":"{admin.client_id}"}}'
    answer = admin.http.post(PATH, content=text, headers={"Content-Type": "application/json"})
    refused(answer, 400, "invalid_json")


def test_a_code_of_a_second_factor_is_ignored_for_whoever_has_none(admin: Person) -> None:
    for code in ("000000", "", "not digits"):
        ok(admin.http.post(PATH, json=admin.credentials() | {"totp_code": code}))


def test_a_form_is_refused_with_the_way_to_go(admin: Person) -> None:
    answer = refused(admin.http.post(PATH, data=admin.credentials()), 415, "unsupported_media_type")
    assert answer["hint"] == "form-encoded OAuth clients: /realms/{realm}/token"


@pytest.mark.parametrize(
    "media_type", [None, "", "text/plain", "application/jsonp", "application/json-patch+json", "*/*"]
)
def test_another_media_type_is_refused(world: World, media_type: str | None) -> None:
    headers = {} if media_type is None else {"Content-Type": media_type}
    answer = refused(nobody(world).post(PATH, content=b"{}", headers=headers), 415, "unsupported_media_type")
    assert answer["hint"] == "send Content-Type: application/json"


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
def test_only_post_is_offered(world: World, method: str) -> None:
    answer = nobody(world).request(method, PATH)
    assert (answer.status_code, answer.headers["allow"]) == (405, "OPTIONS, POST")


@pytest.mark.parametrize("authorization", ["Bearer garbage", "Basic YTpi", "", "x" * 9000])
def test_a_header_of_someone_else_changes_nothing(world: World, admin: Person, authorization: str) -> None:
    headers = {"Authorization": authorization}
    ok(nobody(world).post(PATH, json=admin.credentials(), headers=headers))
    bare = nobody(world).post(PATH, json={"realm_id": admin.realm_id}, headers=headers)
    assert refused(bare, 400, "invalid_field")["fields"] == {"/client_id": "required"}


@pytest.mark.parametrize("size", [60_000, 100_000, 1_000_000])
def test_a_long_body_is_read_also_when_it_arrives_with_its_header(
    admin: Person, world: World, size: int
) -> None:
    request = admin.http.build_request("POST", PATH, json=admin.credentials() | {"password": "x" * size})
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(request.content)}\r\n\r\n"
    host, _, port = world.server.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(head.encode() + request.content)
        assert connection.recv(12) == b"HTTP/1.1 400"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/realms/system/token"),
        ("GET", "/realms/system/authorize"), ("GET", "/v1/auth/policies"),
        ("POST", "/v1/auth/users/x/delete"), ("GET", "/v1/auth/grants"), ("GET", "/v1/auth/events"), ("POST", PATH + "/"),
    ],
)  # fmt: skip
def test_what_is_not_there_yet_is_not_offered(world: World, method: str, path: str) -> None:
    refused(world.operator.request(method, path, json={}), 404, "not_found")


def test_no_password_secret_or_token_stands_in_the_log(each_world: World) -> None:
    person = each_world.person()
    person.http.post(PATH, json=person.credentials() | {"password": "a wrong phrase of ada"})
    person.http.post("/v1/auth/token/refresh", json={"refresh_token": person.refresh_token})
    log = each_world.server.log.read_text()
    secrets = (
        PASSWORD,
        "a wrong phrase of ada",
        person.client_secret,
        person.access_token,
        person.refresh_token,
    )
    assert not [secret for secret in secrets if secret in log]


def scoped(world: World, realm_id: str) -> dict[str, Any]:
    """A client with a scope, made once per realm: many tests ask it the same kind of question."""
    known = _scoped.get((world.server.url, realm_id))
    if known is None:
        known = _scoped[world.server.url, realm_id] = world.client(realm_id, scope="read write")
    return known


_scoped: dict[tuple[str, str], dict[str, Any]] = {}
