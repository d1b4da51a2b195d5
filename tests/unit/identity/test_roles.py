from __future__ import annotations

from uuid import UUID

import pytest

from qimem.errors import Conflict, Forbidden, Invalid, InvalidFields, NotFound
from qimem.identity.models import RoleRecord
from qimem.identity.roles import BuiltInRoles, RoleAssignment, RoleService
from qimem.kernel.ids import SYSTEM_REALM, RealmId
from tests.unit.kernel.fakes import NO_TX
from tests.unit.oauth.fakes import ACME, OTHER, Setting, an_actor, asked_by

pytestmark = pytest.mark.anyio

LINEAGE = UUID(int=9)
MAKER = an_actor("roles:create", "keys:read", f"keys:encrypt:{LINEAGE}")


@pytest.fixture
def setting() -> Setting:
    return Setting()


def service(setting: Setting) -> RoleService:
    return RoleService(setting.work, setting.epochs, setting.roles, setting.clock)


async def test_a_role_is_kept_canonical(setting: Setting) -> None:
    asked = ["x", "keys:read", f"keys:encrypt:{LINEAGE.hex.upper()}", "x"]
    role = await service(setting).create(asked_by(MAKER), "fresh", asked)
    kept = ["x", "keys:read", f"keys:encrypt:{LINEAGE}"]
    assert (role.name, role.realm_id, role.permissions) == ("fresh", ACME, kept)
    assert setting.roles.rows[ACME, "fresh"] == RoleRecord(
        ACME, "fresh", tuple(kept), built_in=False, created_us=setting.clock.now_us()
    )


async def test_an_existing_role_is_not_overwritten(setting: Setting) -> None:
    before = setting.roles.rows[ACME, "clerk"]
    with pytest.raises(Conflict, match=r"\Arole already exists: clerk\Z") as caught:
        await service(setting).create(asked_by(MAKER), "clerk", [])
    assert caught.value.code == "already_exists"
    assert setting.roles.rows[ACME, "clerk"] is before


@pytest.mark.parametrize("name", ["operator", "realm-admin"])
async def test_a_built_in_name_is_taken_also_where_the_role_does_not_exist(
    setting: Setting, name: str
) -> None:
    with pytest.raises(Conflict) as caught:
        await service(setting).create(asked_by(MAKER), name, [])
    assert caught.value.code == "already_exists"
    assert (ACME, name) not in setting.roles.rows


@pytest.mark.parametrize(
    "holder", [(), ("role:create",), ("users:create", "clients:create"), (f"roles:create:{LINEAGE}",)]
)
async def test_without_the_right_nothing_is_made(setting: Setting, holder: tuple[str, ...]) -> None:
    with pytest.raises(Forbidden) as caught:
        await service(setting).create(asked_by(an_actor(*holder)), "fresh", [])
    assert caught.value.permission == "roles:create"
    assert (ACME, "fresh") not in setting.roles.rows


@pytest.mark.parametrize(
    "permission",
    [
        "users:create",
        "keys:encrypt",
        f"keys:encrypt:{UUID(int=8)}",
        f"keys:decrypt:{LINEAGE}",
        "realms:create",
    ],
)
async def test_nothing_is_given_that_the_maker_lacks(setting: Setting, permission: str) -> None:
    with pytest.raises(Forbidden) as caught:
        await service(setting).create(asked_by(MAKER), "fresh", ["x", permission])
    assert caught.value.permission == permission
    assert (ACME, "fresh") not in setting.roles.rows


@pytest.mark.parametrize("permission", ["*", "realm:*", "keys:nothing", "keys", "", "ä", "x" * 129])
async def test_a_faulty_permission_is_pointed_at_also_for_an_operator(
    setting: Setting, permission: str
) -> None:
    with pytest.raises(InvalidFields) as caught:
        await service(setting).create(asked_by(an_actor("*")), "fresh", ["x", "y", permission])
    assert list(caught.value.fields) == ["/permissions/2"]


async def test_a_role_for_a_realm_that_is_gone_is_not_made(setting: Setting) -> None:
    with pytest.raises(NotFound) as caught:
        await service(setting).create(asked_by(an_actor("*"), RealmId("gone")), "fresh", [])
    assert caught.value.code == "realm_not_found"


def given(
    setting: Setting,
    *names: str,
    by: tuple[str, ...] = ("keys:read", "roles:create"),
    realm_id: RealmId = ACME,
) -> tuple[str, ...]:
    return RoleAssignment(setting.roles).check(NO_TX, an_actor(*by), realm_id, names)


async def test_each_role_is_given_once_and_in_order(setting: Setting) -> None:
    setting.roles.rows[ACME, "empty"] = RoleRecord(ACME, "empty", (), built_in=False, created_us=0)
    assert given(setting, "empty", "clerk", "empty") == ("empty", "clerk")
    assert given(setting) == ()


@pytest.mark.parametrize("name", ["absent", "", "Clerk", "clerk ", "operator"])
async def test_an_absent_role_is_named(setting: Setting, name: str) -> None:
    with pytest.raises(Invalid) as caught:
        given(setting, "clerk", name)
    assert (caught.value.code, caught.value.message) == ("role_not_found", f"role not found: {name}")


async def test_a_role_of_another_realm_is_absent(setting: Setting) -> None:
    with pytest.raises(Invalid, match="role not found: clerk"):
        given(setting, "clerk", by=("*",), realm_id=OTHER)


async def test_a_role_that_carries_too_much_is_not_given(setting: Setting) -> None:
    with pytest.raises(Forbidden) as caught:
        given(setting, "clerk", "robot")
    assert caught.value.permission == "keys:encrypt"
    with pytest.raises(Forbidden):
        given(setting, "clerk", by=())


async def test_more_than_64_roles_are_refused_before_any_is_looked_up(setting: Setting) -> None:
    names = [f"role-{number}" for number in range(65)]
    with pytest.raises(InvalidFields, match="at most 64 roles"):
        given(setting, *names)
    for name in names:
        setting.roles.rows[ACME, name] = RoleRecord(ACME, name, (), built_in=False, created_us=0)
    assert len(given(setting, *names[1:], *names[1:])) == 64


@pytest.mark.parametrize(
    ("realm_id", "expected"),
    [
        (OTHER, {"realm-admin": ("realm:*",)}),
        (SYSTEM_REALM, {"realm-admin": ("realm:*",), "platform-admin": ("platform:*",), "operator": ("*",)}),
    ],
)
async def test_a_new_realm_has_its_built_in_roles(
    setting: Setting, realm_id: RealmId, expected: dict[str, tuple[str, ...]]
) -> None:
    setting.roles.rows.clear()
    built_in = BuiltInRoles(setting.roles)
    built_in.provision(NO_TX, realm_id, built_in.prepare(realm_id, 7), 7)
    assert {name: role.permissions for (_, name), role in setting.roles.rows.items()} == expected
    assert {(role.built_in, role.created_us, role.realm_id) for role in setting.roles.rows.values()} == {
        (True, 7, realm_id)
    }


async def test_operators_are_given_by_operators_and_admins_by_admins(setting: Setting) -> None:
    BuiltInRoles(setting.roles).provision(NO_TX, SYSTEM_REALM, None, 7)
    assert given(setting, "operator", "realm-admin", by=("*",), realm_id=SYSTEM_REALM)
    assert given(setting, "realm-admin", by=("realm:*",), realm_id=SYSTEM_REALM)
    with pytest.raises(Forbidden):
        given(setting, "operator", by=("realm:*",), realm_id=SYSTEM_REALM)
    with pytest.raises(Forbidden):
        given(setting, "realm-admin", by=("users:create", "roles:create"), realm_id=SYSTEM_REALM)
