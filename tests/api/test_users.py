"""`POST /v1/auth/users`: one person per name in all its spellings, and no weak password."""

from __future__ import annotations

import hashlib
import json
from uuid import UUID

import pytest

from qimem.authz.permissions import REALM_SCOPED
from qimem.storage.schema import app_user, credential, idempotency
from tests.support.api import PASSWORD, Person, World
from tests.support.oauth import at_once, nobody, rows, taken_apart
from tests.support.server import ok, refused

PATH = "/v1/auth/users"
NAME_RULE = "not a username of RFC 8265: no spaces, controls or symbols"

SPELLINGS = [
    ("Ada", ["ada", "ADA", "aDA", "ａｄａ", "Ａda"]),
    ("ÁDA", ["áda", "A\u0301DA", "a\u0301da", "Ádａ"]),
    ("straße", ["STRAßE", "ｓtraße", "STRAẞE"]),
    ("ΣΊΣΥΦΟΣ", ["σίσυφος", "Σι\u0301συφος"]),
    ("가온", ["\u1100\u1161\u110b\u1169\u11ab"]),
    ("ガス", ["ｶﾞｽ", "カ\u3099ス"]),
    ("ada@shop.example", ["Ada@Shop.Example", "ada＠shop．example"]),
]
NOT_NAMES = [
    "", " ", "a da", " ada", "ada ", "ada\n", "ada\t", "\u0000", "ada\u0000", "a\u00a0da", "a\u200bda", "a\u00adda",
    "a\u200dda", "\ufeffada", "\u202eada", "ada\u2028", "ﬁsh", "x²", "½", "ªda", "ſam", "😀", "א1a", "אa", "١ada", "・",
    "a\u3000da", "ℌ", "\U000e0061", "\ufdd0", "\ue000", "a" * 129, "é" * 129, "a" * 100_000,
]  # fmt: skip
BAD_EMAILS = [
    "", " ", "ada", "@", "@shop.example", "ada@", "ada@shop", "ada@.", "ada@..", "ada@shop.", "ada@.example", "a b@shop.example",
    "ada@shop .example", "ada@shop.example\n", "ada@shop.example\r\nBcc: eve@evil.example", "ädä@shop.example", "ada@shöp.example",
    "ada@shop.example\u0000", "adа@shop.example", "ada@shop.example＠evil.example", "a" * 242 + "@shop.example",
    "ada@shop..example", "ada@.shop.example", "ada@shop.example@evil.example", "ada@shop.example,eve@evil.example",
    "ada@shop.example;eve@evil.example", "<ada@shop.example>", "Ada<ada@shop.example>", "ada@shop.example>", "ada@shop,example.com",
]  # fmt: skip


def body(realm_id: str, username: str, **more: object) -> dict:
    return {"realm_id": realm_id, "username": username, "password": PASSWORD, "roles": [], **more}


def login(world: World, client: dict, username: str, password: str = PASSWORD):
    credentials = {
        "client_id": client["client_id"],
        "client_secret": client["client_secret"],
        "realm_id": client["realm_id"],
        "username": username,
        "password": password,
    }
    return world.operator.post("/v1/auth/token", json=credentials)


def test_a_user_is_answered_without_the_password(each_world: World) -> None:
    realm_id = each_world.realm()
    asked = body(realm_id, "Ada", roles=["realm-admin"], email="Ada@Shop.example")
    answer = each_world.operator.post(PATH, json=asked)
    made = ok(answer)
    assert made == {
        "id": made["id"],
        "username": "Ada",
        "realm_id": realm_id,
        "roles": ["realm-admin"],
        "enabled": True,
        "created_at": made["created_at"],
        "email": "Ada@Shop.example",
    }
    assert UUID(made["id"]).version == 4
    assert PASSWORD not in answer.text


def test_the_password_is_kept_as_argon2id_alone(each_world: World) -> None:
    realm_id = each_world.realm()
    ok(each_world.operator.post(PATH, json=body(realm_id, "ada")))
    (kept,) = rows(each_world.server, credential, realm_id=realm_id)
    assert kept["data"].startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert PASSWORD not in str(rows(each_world.server, app_user, realm_id=realm_id))


def test_two_users_of_one_password_have_two_hashes(world: World) -> None:
    realm_id = world.realm()
    for name in ("ada", "eve"):
        ok(world.operator.post(PATH, json=body(realm_id, name)))
    assert len({row["data"] for row in rows(world.server, credential, realm_id=realm_id)}) == 2


@pytest.mark.parametrize(("name", "others"), SPELLINGS, ids=ascii)
def test_every_spelling_of_a_name_is_one_user(each_world: World, name: str, others: list[str]) -> None:
    realm_id = each_world.realm()
    client = each_world.client(realm_id)
    made = ok(each_world.operator.post(PATH, json=body(realm_id, name)))
    assert made["username"] == name
    for other in (name, *others):
        taken = body(
            realm_id, other, password="quite another phrase", roles=["realm-admin"], email="eve@evil.example"
        )
        error = refused(each_world.operator.post(PATH, json=taken), 409, "already_exists")["error"]
        assert error == f"user already exists: {other}"
    (kept,) = rows(each_world.server, app_user, realm_id=realm_id)
    assert (str(kept["user_id"]), kept["username"], kept["email"]) == (made["id"], name, None)
    for other in (name, *others):
        _, claims, _ = taken_apart(ok(login(each_world, client, other))["access_token"])
        assert (claims["sub"], claims["roles"]) == (made["id"], [])
    refused(login(each_world, client, name, "quite another phrase"), 400, "invalid_grant")


def test_names_that_only_look_alike_are_two_users(world: World) -> None:
    realm_id = world.realm()
    ids = {
        ok(world.operator.post(PATH, json=body(realm_id, name)))["id"]
        for name in ("ada", "аda", "ádа", "ad4")
    }
    assert len(ids) == 4


def test_one_name_in_two_realms_is_two_users(each_world: World) -> None:
    one, two = (ok(each_world.operator.post(PATH, json=body(each_world.realm(), "ada"))) for _ in range(2))
    assert one["id"] != two["id"]


def test_of_eight_at_once_one_gets_the_name(each_world: World) -> None:
    realm_id = each_world.realm()
    spelled = ["raced", "Raced", "RACED", "ｒaced", "rAced", "raceD", "ＲＡＣＥＤ", "raCed"]
    calls = [lambda name=name: each_world.operator.post(PATH, json=body(realm_id, name)) for name in spelled]
    answers = at_once(calls)
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 7
    assert len(rows(each_world.server, app_user, realm_id=realm_id)) == 1
    assert len(rows(each_world.server, credential, realm_id=realm_id)) == 1


@pytest.mark.parametrize("name", NOT_NAMES, ids=lambda name: ascii(name[:12]))
def test_what_no_username_can_be_is_refused(admin: Person, name: str) -> None:
    answer = refused(admin.post(PATH, body(admin.realm_id, name)), 400, "invalid_field")
    assert answer["fields"] == {"/username": NAME_RULE}


@pytest.mark.parametrize(
    "name", ["a", "!", "~", "a" * 128, "名" * 128, "o'hara", 'a"b', "a/b\\c", "{x}", "0"], ids=ascii
)
def test_a_name_at_the_edge_of_the_rule_is_taken(world: World, name: str) -> None:
    assert ok(world.operator.post(PATH, json=body(world.realm(), name)))["username"] == name


@pytest.mark.parametrize(
    ("password", "rule"),
    [
        ("", "at least 8 characters"),
        ("seven77", "at least 8 characters"),
        ("é" * 7, "at least 8 characters"),
        ("e\u0301" * 7, "at least 8 characters"),
        ("x" * 257, "at most 256 characters"),
        ("ﬃ" * 86, "at most 256 characters"),
        ("password", "on the list of common passwords"),
        ("PASSWORD123", "on the list of common passwords"),
        ("PassWord123!", "on the list of common passwords"),
        ("ｐａｓｓｗｏｒｄ", "on the list of common passwords"),
        ("Correct Horse Battery Staple", "on the list of common passwords"),
        ("12345678", "on the list of common passwords"),
        ("QwertyuiOP", "on the list of common passwords"),
    ],
    ids=lambda value: ascii(value[:12]),
)
def test_a_weak_password_is_refused_and_not_repeated(admin: Person, password: str, rule: str) -> None:
    answer = refused(admin.post(PATH, body(admin.realm_id, "never", password=password)), 400, "weak_password")
    assert answer["error"] == f"password too weak: {rule}"
    assert answer.keys() == {"error", "code", "request_id"}


@pytest.mark.parametrize(
    "password",
    ["eight ch", "x" * 256, "password is a part of it", "пароль-раз", "🔑" * 8, "ﬃ" * 85, "tab\tand\u0000null", " " * 8],
    ids=lambda value: ascii(value[:12]),
)  # fmt: skip
def test_a_good_password_signs_in(world: World, password: str) -> None:
    realm_id = world.realm()
    ok(world.operator.post(PATH, json=body(realm_id, "ada", password=password)))
    client = world.client(realm_id)
    ok(login(world, client, "ada", password))
    refused(login(world, client, "ada", password[:-1]), 400, "invalid_grant")
    refused(login(world, client, "ada", password.swapcase() + " "), 400, "invalid_grant")


@pytest.mark.parametrize(
    ("first", "typed"),
    [
        ("caf\u00e9 au lait", "cafe\u0301 au lait"),
        ("cafe\u0301 au lait", "caf\u00e9 au lait"),
        ("ｆｕｌｌ width", "full width"),
        ("e\u0301" * 200, "e\u0301" * 200),
        ("\u1112\u1161\u11ab" * 120, "한" * 120),
        ("한" * 120, "\u1112\u1161\u11ab" * 120),
    ],
    ids=lambda value: ascii(value[:6]),
)
def test_the_same_keys_on_two_keyboards_are_one_password(world: World, first: str, typed: str) -> None:
    realm_id = world.realm()
    ok(world.operator.post(PATH, json=body(realm_id, "ada", password=first)))
    ok(login(world, world.client(realm_id), "ada", typed))


@pytest.mark.parametrize("email", BAD_EMAILS, ids=lambda email: ascii(email[:40]))
def test_what_is_no_single_address_is_refused(world: World, admin: Person, email: str) -> None:
    asked = body(admin.realm_id, world.fresh("user"), email=email)
    answer = refused(admin.post(PATH, asked), 400, "invalid_field")
    assert answer["fields"] == {"/email": "not an e-mail address"}


@pytest.mark.parametrize(
    "email", ["a@b.c", "Ada.L+shop@mail.shop.example", "o'hara@shop.example", "a" * 241 + "@shop.example"]
)
def test_an_address_is_kept_as_it_is_spelled(world: World, admin: Person, email: str) -> None:
    made = ok(admin.post(PATH, body(admin.realm_id, world.fresh("user"), email=email)))
    assert made["email"] == email


@pytest.mark.parametrize(
    ("changed", "fields"),
    [
        ({"username": None}, {"/username": "expected str, got null"}),
        ({"username": 7}, {"/username": "expected str, got int"}),
        ({"password": 12345678}, {"/password": "expected str | null, got int"}),
        ({"roles": "realm-admin"}, {"/roles": "expected array, got str"}),
        ({"roles": None}, {"/roles": "expected array, got null"}),
        ({"roles": [None]}, {"/roles/0": "expected str, got null"}),
        ({"email": ["a@b.c"]}, {"/email": "expected str | null, got array"}),
        ({"id": "0" * 32}, {"/id": "unknown field"}),
        ({"enabled": True}, {"/enabled": "unknown field"}),
        ({"permissions": ["*"]}, {"/permissions": "unknown field"}),
        ({"email_verified": True}, {"/email_verified": "unknown field"}),
        ({"user_name": "x"}, {"/user_name": "unknown field; did you mean username?"}),
    ],
    ids=str,
)
def test_a_body_of_another_shape_is_refused(admin: Person, changed: dict, fields: dict[str, str]) -> None:
    asked = body(admin.realm_id, "never") | changed
    assert refused(admin.post(PATH, asked), 400, "invalid_field")["fields"] == fields


@pytest.mark.parametrize("field", ["username", "password", "roles"])
def test_a_field_is_required(admin: Person, field: str) -> None:
    asked = {name: value for name, value in body(admin.realm_id, "never").items() if name != field}
    assert refused(admin.post(PATH, asked), 400, "invalid_field")["fields"] == {
        f"/{field}": "required" if field != "password" else "either this or password_hash must be given"
    }


@pytest.mark.parametrize("role", ["absent", "Realm-Admin", "operator", ""])
def test_an_absent_role_is_refused_and_leaves_nothing(each_world: World, role: str) -> None:
    realm_id = each_world.realm()
    asked = body(realm_id, "ada", roles=["realm-admin", role])
    error = refused(each_world.operator.post(PATH, json=asked), 400, "role_not_found")["error"]
    assert error == f"role not found: {role}"
    assert not rows(each_world.server, app_user, realm_id=realm_id)
    assert not rows(each_world.server, credential, realm_id=realm_id)


def test_an_absent_role_with_a_null_character_is_absent_on_every_database(each_world: World) -> None:
    asked = body(each_world.realm(), "ada", roles=["a\u0000b"])
    refused(each_world.operator.post(PATH, json=asked), 400, "role_not_found")


def test_a_role_of_another_realm_is_absent(world: World, admin: Person) -> None:
    role = world.role(world.realm(), ["mine"])
    refused(admin.post(PATH, body(admin.realm_id, "never", roles=[role])), 400, "role_not_found")


def test_a_user_has_each_role_once_and_at_most_64(world: World, admin: Person) -> None:
    one = world.role(admin.realm_id, ["mine"])
    made = ok(admin.post(PATH, body(admin.realm_id, world.fresh("user"), roles=[one, "realm-admin", one])))
    assert made["roles"] == [one, "realm-admin"]
    many = body(admin.realm_id, "never", roles=[f"role-{number}" for number in range(65)])
    assert refused(admin.post(PATH, many), 400, "invalid_field")["fields"] == {"/roles": "at most 64 roles"}


@pytest.mark.parametrize("lacking", ["realm:*", "keys:encrypt", "clients:create", "keys:decrypt:" + "0" * 32])
def test_a_user_is_given_nothing_that_their_maker_lacks(each_world: World, lacking: str) -> None:
    person = each_world.person("users:create", "mine")
    role = "realm-admin" if lacking == "realm:*" else each_world.role(person.realm_id, ["mine", lacking])
    answer = refused(
        person.post(PATH, body(person.realm_id, "never", roles=[role])), 403, "permission_denied"
    )
    assert answer["permission"].replace("-", "") == lacking.replace("-", "")
    assert not rows(each_world.server, app_user, realm_id=person.realm_id, username="never")


def test_a_user_is_given_what_their_maker_holds(world: World) -> None:
    person = world.person("users:create", "keys:encrypt", "roles:create")
    role = world.role(person.realm_id, ["keys:encrypt", "users:create", "orders:approve"])
    assert ok(person.post(PATH, body(person.realm_id, "ada", roles=[role])))["roles"] == [role]


def test_what_an_application_trusts_is_given_with_the_right_to_make_roles_alone(world: World) -> None:
    person = world.person("users:create", "orders:approve")
    role = world.role(person.realm_id, ["orders:approve"])
    answer = refused(person.post(PATH, body(person.realm_id, "ada", roles=[role])), 403, "permission_denied")
    assert answer["permission"] == "roles:create"


def test_nobody_but_an_operator_makes_an_operator(world: World) -> None:
    person = world.person(realm_id="system")
    asked = body("system", world.fresh("user"), roles=["operator"])
    answer = refused(person.post(PATH, asked), 403, "permission_denied")
    assert (answer["error"], answer["permission"]) == ("permission denied: *", "*")
    assert ok(world.operator.post(PATH, json=asked))["roles"] == ["operator"]


def test_another_realm_looks_like_an_absent_one(world: World, admin: Person) -> None:
    for realm_id in (world.realm(), "system", "absent"):
        error = refused(admin.post(PATH, body(realm_id, "never")), 404, "realm_not_found")["error"]
        assert error == f"realm not found: {realm_id}"


def test_without_the_right_no_user_is_made(world: World) -> None:
    person = world.person(*sorted(REALM_SCOPED - {"users:create"}))
    answer = refused(person.post(PATH, body(person.realm_id, "never")), 403, "permission_denied")
    assert (answer["error"], answer["permission"]) == ("permission denied: users:create", "users:create")
    refused(nobody(world).post(PATH, json={}), 401, "unauthenticated")


def test_a_repetition_gets_the_same_user(each_world: World) -> None:
    asked, key = body(each_world.realm(), "ada"), {"Idempotency-Key": each_world.fresh("key")}
    first, second = (each_world.operator.post(PATH, json=asked, headers=key) for _ in range(2))
    assert ok(second) == ok(first)
    assert second.headers["idempotency-replayed"] == "true"


def test_a_remembered_request_gives_nothing_to_guess_the_password_against(each_world: World) -> None:
    asked = json.dumps(body(each_world.realm(), "ada")).encode()
    key = {"Idempotency-Key": each_world.fresh("key"), "Content-Type": "application/json"}
    made = ok(each_world.operator.post(PATH, content=asked, headers=key))
    (kept,) = rows(each_world.server, idempotency, realm_id="system", object_id=made["id"])
    # Whoever copies the database and guesses the password must meet Argon2 and the pepper, never a bare digest.
    assert bytes(kept["body_digest"]) != hashlib.sha256(asked).digest()
