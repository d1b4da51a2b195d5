from __future__ import annotations

from uuid import UUID

import pytest

from qimem.authz.decisions import permits, require, require_everywhere, require_grantable, visible_lineages
from qimem.authz.permissions import REALM_SCOPED, Permission, compile_permissions
from qimem.errors import Forbidden
from qimem.kernel.context import Actor, RequestContext
from tests.unit.oauth.fakes import an_actor, asked_by

A, B = UUID(int=1), UUID(int=2)
ENCRYPT = Permission.KEYS_ENCRYPT


def holder(*names: str) -> Actor:
    return an_actor(*names)


def asking(*names: str) -> RequestContext:
    return asked_by(an_actor(*names))


@pytest.mark.parametrize(
    ("names", "lineage"),
    [
        (("keys:encrypt",), None), (("keys:encrypt",), A), (("realm:*",), A), (("*",), A), ((f"keys:encrypt:{A}",), A),
        ((f"keys:encrypt:{A}",), None), ((f"keys:encrypt:{A}", f"keys:encrypt:{B}"), B), (("keys:encrypt", f"keys:encrypt:{A}"), B),
    ],
)  # fmt: skip
def test_whoever_holds_it_passes(names: tuple[str, ...], lineage: UUID | None) -> None:
    require(asking(*names), ENCRYPT, lineage)
    assert permits(holder(*names).permissions, ENCRYPT)


@pytest.mark.parametrize(
    "names",
    [
        (),
        ("keys:decrypt",),
        (f"keys:decrypt:{A}",),
        ("orders:encrypt",),
        ("keys",),
        ("operator",),
        ("realm-admin",),
        ("realm",),
        ("keys:*",),
    ],
)
def test_whoever_lacks_it_is_denied_with_its_name(names: tuple[str, ...]) -> None:
    assert not permits(holder(*names).permissions, ENCRYPT)
    for lineage, resource in ((None, None), (A, f"lineage {A}")):
        with pytest.raises(Forbidden) as caught:
            require(asking(*names), ENCRYPT, lineage)
        assert (caught.value.permission, caught.value.resource) == ("keys:encrypt", resource)
        assert caught.value.message == "permission denied: keys:encrypt"
        assert caught.value.hint == "ask an administrator for keys:encrypt"


def test_a_scope_covers_its_own_lineage_alone() -> None:
    with pytest.raises(Forbidden):
        require(asking(f"keys:encrypt:{A}"), ENCRYPT, B)
    with pytest.raises(Forbidden):
        require(asking(f"keys:encrypt:{A}", f"keys:decrypt:{B}"), ENCRYPT, B)


def test_a_scope_is_not_enough_for_what_concerns_no_one_key() -> None:
    with pytest.raises(Forbidden) as caught:
        require_everywhere(asking(f"keys:encrypt:{A}"), ENCRYPT)
    assert (caught.value.permission, caught.value.resource) == ("keys:encrypt", None)
    require_everywhere(asking("keys:encrypt"), ENCRYPT)


@pytest.mark.parametrize("permission", list(Permission))
def test_a_realm_admin_passes_everywhere_but_at_the_platforms_own(permission: Permission) -> None:
    require_everywhere(asking("*"), permission)
    if permission in {"realms:create", "realms:manage"}:
        with pytest.raises(Forbidden):
            require_everywhere(asking("realm:*"), permission)
    else:
        require_everywhere(asking("realm:*"), permission)


@pytest.mark.parametrize(
    ("names", "seen"),
    [
        (("keys:encrypt",), None), (("realm:*",), None), (("*",), None), (("keys:encrypt", f"keys:encrypt:{A}"), None),
        ((f"keys:encrypt:{A}", f"keys:encrypt:{B}"), {A, B}), ((f"keys:decrypt:{A}",), set()), ((), set()),
    ],
)  # fmt: skip
def test_a_list_shows_what_may_be_used(names: tuple[str, ...], seen: set[UUID] | None) -> None:
    assert visible_lineages(asking(*names), ENCRYPT) == seen


LATTICE = [
    # held, given, first that is lacking
    ((), ("orders:approve", "x"), "roles:create"),
    (("users:create",), ("x",), "roles:create"),
    (("x",), ("x",), "roles:create"),
    (("clients:create", "users:create"), ("x",), "roles:create"),
    (("roles:create",), ("orders:approve", "x"), None),
    (("realm:*",), ("x",), None),
    ((), ("keys:encrypt",), "keys:encrypt"),
    ((), ("x", "keys:encrypt", "keys:decrypt"), "keys:encrypt"),
    (("roles:create",), ("roles:create", "users:create"), "users:create"),
    (("keys:encrypt",), ("keys:encrypt", f"keys:encrypt:{A}"), None),
    (("keys:encrypt",), (f"keys:decrypt:{A}",), f"keys:decrypt:{A}"),
    ((f"keys:encrypt:{A}",), (f"keys:encrypt:{A}",), None),
    ((f"keys:encrypt:{A}",), ("keys:encrypt",), "keys:encrypt"),
    ((f"keys:encrypt:{A}",), (f"keys:encrypt:{B}",), f"keys:encrypt:{B}"),
    ((f"keys:encrypt:{A}",), (f"keys:decrypt:{A}",), f"keys:decrypt:{A}"),
    (("realm:*",), ("realm:*",), None),
    (("realm:*",), tuple(sorted(REALM_SCOPED)), None),
    (("realm:*",), (f"keys:encrypt:{A}",), None),
    (("realm:*",), ("realms:create",), "realms:create"),
    (("realm:*",), ("*",), "*"),
    (tuple(sorted(REALM_SCOPED)), ("realm:*",), "realm:*"),
    ((*sorted(REALM_SCOPED), "realms:create"), ("*",), "*"),
    (("realms:create",), ("realms:create",), None),
    (("*",), ("*", "realm:*", "realms:create", "keys:encrypt", f"keys:encrypt:{A}", "x"), None),
]


@pytest.mark.parametrize(("held", "given", "lacking"), LATTICE)
def test_nobody_gives_what_they_lack(
    held: tuple[str, ...], given: tuple[str, ...], lacking: str | None
) -> None:
    if lacking is None:
        require_grantable(holder(*held), given)
        return
    with pytest.raises(Forbidden) as caught:
        require_grantable(holder(*held), given)
    assert caught.value.permission == lacking
    assert caught.value.hint == "a permission can be granted only by who holds it"


def test_giving_never_makes_more_of_what_was_held() -> None:
    # Whatever one may give away, the receiver may use nothing that the giver may not.
    universe = [
        "keys:encrypt",
        "keys:decrypt",
        f"keys:encrypt:{A}",
        f"keys:encrypt:{B}",
        "users:create",
        "realms:create",
        "realm:*",
        "*",
    ]
    for held in universe:
        giver = holder(held)
        for given in universe:
            try:
                require_grantable(giver, [given])
            except Forbidden:
                continue
            receiver = compile_permissions(frozenset({given}))
            assert receiver.everywhere <= giver.permissions.everywhere
            assert giver.permissions.operator or not receiver.operator
            for base, lineages in receiver.scoped.items():
                assert base in giver.permissions.everywhere or lineages <= giver.permissions.scoped[base]
