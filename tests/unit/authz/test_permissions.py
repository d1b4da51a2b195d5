from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qimem.authz.permissions import (
    BUILT_IN_ROLES,
    PLATFORM_RESOURCES,
    REALM_SCOPED,
    SCOPABLE,
    Permission,
    compile_permissions,
    parse,
    split,
)
from qimem.errors import Invalid

LINEAGE = UUID("0d3f6f2c-9a64-4d0e-8a52-6f0d3c1b2a19")
OTHER = UUID(int=7)
NAMES = [permission.value for permission in Permission]


@pytest.mark.parametrize("name", NAMES)
def test_a_platform_permission_is_its_own_canonical_name(name: str) -> None:
    assert parse(name) == name
    assert split(name) == (name, None)


@pytest.mark.parametrize("name", sorted(SCOPABLE))
@pytest.mark.parametrize(
    "spelled",
    [str(LINEAGE), str(LINEAGE).upper(), LINEAGE.hex, LINEAGE.hex.upper()],
    ids=["low", "up", "hex", "HEX"],
)
def test_every_spelling_of_a_lineage_is_one_permission(name: str, spelled: str) -> None:
    canonical = parse(f"{name}:{spelled}")
    assert canonical == f"{name}:{LINEAGE}"
    assert split(canonical) == (name, LINEAGE)


@pytest.mark.parametrize("name", sorted(set(NAMES) - SCOPABLE))
def test_a_permission_that_concerns_no_one_key_has_no_scope(name: str) -> None:
    with pytest.raises(Invalid, match=r"\Aunknown permission: "):
        parse(f"{name}:{LINEAGE}")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "mutant",
    ["{0}:", "{0}::", "{0}:*", "{0}:x", "{0} ", "{0}s", "{0}x:y", "{1}", "{1}:", "{1}::", "{1}:*", "{1}: ", "{2}", "{3}", "{4}", "{0}:{0}"],
)  # fmt: skip
def test_what_only_looks_like_a_platform_permission_is_refused(name: str, mutant: str) -> None:
    resource, _, action = name.partition(":")
    spelled = mutant.format(
        name, resource, name.upper(), f"{resource.title()}:{action}", f"{resource}:{action.upper()}"
    )
    with pytest.raises(Invalid, match="permission: ") as caught:
        parse(spelled)
    assert caught.value.code == "invalid_field"


@pytest.mark.parametrize("resource", sorted(PLATFORM_RESOURCES))
@pytest.mark.parametrize("action", ["destroy-everything", "admin", "x"])
def test_a_name_that_a_later_version_may_need_is_reserved(resource: str, action: str) -> None:
    for spelled in (f"{resource}:{action}", f"{resource.upper()}:{action}", f"{resource}:{action}:{LINEAGE}"):
        with pytest.raises(Invalid, match="unknown permission"):
            parse(spelled)


@pytest.mark.parametrize(
    "spelled",
    [
        "*",
        "realm:*",
        "a*",
        "*a",
        "",
        " ",
        "a b",
        "\n",
        "a\n",
        "\x7f",
        "\x00",
        "ä",
        "ｋｅｙｓ:read",
        "x" * 129,
    ],
)
def test_what_no_permission_can_be_is_refused(spelled: str) -> None:
    with pytest.raises(Invalid, match="not a permission: "):
        parse(spelled)


def test_an_overlong_name_is_not_repeated_in_full() -> None:
    with pytest.raises(Invalid) as caught:
        parse("x" * 1_000_000)
    assert len(caught.value.message) < 200


@pytest.mark.parametrize(
    "name",
    [
        "orders:approve",
        "Orders:Approve",
        "a",
        "!",
        "x" * 128,
        "key:read",
        "keysx:read",
        "xkeys:read",
        "user",
        ":keys:read",
        ":",
        "::",
    ],
)
def test_an_applications_own_name_is_kept_and_is_no_power(name: str) -> None:
    assert parse(name) == name
    assert split(name) is None
    held = compile_permissions(frozenset({name}))
    assert (held.everywhere, held.scoped, held.operator) == (frozenset(), {}, False)
    assert held.names == {name}


@settings(deadline=None)
@given(st.text(max_size=140))
def test_parsing_is_stable_and_never_yields_an_unknown_power(text: str) -> None:
    try:
        canonical = parse(text)
    except Invalid:
        return
    assert parse(canonical) == canonical
    assert "*" not in canonical
    parts = split(canonical)
    if parts is None:
        assert canonical == text
        assert text.partition(":")[0].lower() not in PLATFORM_RESOURCES
    else:
        assert parts[0] in NAMES


@settings(deadline=None)
@given(st.sampled_from(NAMES), st.text(max_size=3), st.text(max_size=3), st.text(max_size=40))
def test_nothing_near_a_platform_permission_is_taken_for_an_applications_own(
    name: str, before: str, between: str, after: str
) -> None:
    resource, _, action = name.partition(":")
    spelled = f"{resource}{between}:{before}{action}{after}"
    try:
        canonical = parse(spelled)
    except Invalid:
        return
    if not between:
        assert split(canonical) is not None


def test_no_role_means_no_permission() -> None:
    held = compile_permissions(frozenset())
    assert (held.names, held.everywhere, held.scoped, held.operator) == (frozenset(), frozenset(), {}, False)


def test_an_operator_may_everything() -> None:
    held = compile_permissions(frozenset({"*"}))
    assert held.operator
    assert held.everywhere == set(NAMES)


def test_a_realm_admin_may_everything_but_make_realms() -> None:
    held = compile_permissions(frozenset({"realm:*"}))
    assert not held.operator
    assert held.everywhere == set(NAMES) - {"realms:create", "realms:manage"} == REALM_SCOPED
    assert not held.crosses_realms


def test_who_runs_the_platform_may_everything_but_what_concerns_keys() -> None:
    held = compile_permissions(frozenset({"platform:*"}))
    assert held.crosses_realms
    assert not held.operator
    assert held.everywhere == {name for name in NAMES if not name.startswith("keys:")}
    assert compile_permissions(frozenset({"*"})).crosses_realms


@pytest.mark.parametrize(
    "name",
    [
        "realm:*x",
        "**",
        "realm",
        "realm:admin",
        "operator",
        "realm-admin",
        "* ",
        "platform:**",
        "platform",
        "Platform:*",
    ],
)
def test_nothing_but_the_wildcards_is_one(name: str) -> None:
    held = compile_permissions(frozenset({name}))
    assert not held.operator
    assert not held.everywhere & set(NAMES)


def test_scopes_are_collected_and_do_not_widen() -> None:
    held = compile_permissions(
        frozenset({f"keys:encrypt:{LINEAGE}", f"keys:encrypt:{OTHER}", f"keys:decrypt:{OTHER}", "keys:read"})
    )
    assert held.everywhere == {"keys:read"}
    assert held.scoped == {"keys:encrypt": {LINEAGE, OTHER}, "keys:decrypt": {OTHER}}


@pytest.mark.parametrize(
    ("wildcard", "beside", "means"),
    [
        ("*", set(NAMES), set(NAMES)),
        ("platform:*", {"keys:encrypt"}, set(NAMES) - SCOPABLE - {"keys:create"} | {"keys:encrypt"}),
        ("realm:*", {"realms:create", "realms:manage"}, set(NAMES)),
    ],
)
def test_a_wildcard_takes_nothing_from_what_stands_beside_it(
    wildcard: str, beside: set[str], means: set[str]
) -> None:
    # A set has no order: some of them come before the wildcard, some behind it.
    for number in range(20):
        held = compile_permissions(frozenset({wildcard, *beside, f"application:{number}"}))
        assert held.everywhere == means


def test_only_realm_system_has_the_wildcard_of_operators() -> None:
    assert BUILT_IN_ROLES == {"operator": "*", "platform-admin": "platform:*", "realm-admin": "realm:*"}
    assert SCOPABLE == {"keys:decrypt", "keys:encrypt", "keys:manage", "keys:read", "keys:rotate"}
