from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest

from qimem.errors import Conflict, Invalid, QimemError
from qimem.kms.models import KeyRef, check_can_decrypt, check_can_encrypt, check_can_rotate, key_not_found
from tests.unit.kms.fakes import a_version

VERSION = replace(a_version(1), lineage_id=UUID(int=2))
KEY, LINEAGE = UUID(int=1), UUID(int=2)

STATES = {
    # (active, enabled): what encrypt, decrypt and rotate answer
    (True, True): (None, None, None),
    (True, False): ("key_disabled", "key_disabled", None),
    (False, True): ("key_inactive", None, "key_inactive"),
    (False, False): ("key_inactive", "key_disabled", "key_inactive"),
}


def code(check, version) -> str | None:
    try:
        check(version)
    except QimemError as error:
        return error.code
    return None


@pytest.mark.parametrize(("state", "expected"), STATES.items(), ids=str)
def test_each_state_allows_what_the_table_says(state, expected) -> None:
    version = replace(VERSION, active=state[0], enabled=state[1])
    checks = (check_can_encrypt, check_can_decrypt, check_can_rotate)
    assert tuple(code(check, version) for check in checks) == expected


def test_an_inactive_version_tells_which_lineage_to_use() -> None:
    with pytest.raises(Invalid) as encrypt:
        check_can_encrypt(replace(VERSION, active=False))
    with pytest.raises(Conflict) as rotate:
        check_can_rotate(replace(VERSION, active=False))
    assert encrypt.value.message == rotate.value.message == f"key is inactive: {KEY}"
    assert encrypt.value.hint == f"encrypt by lineage_id {LINEAGE}"
    assert rotate.value.hint == f"rotate by lineage_id {LINEAGE}"


def test_a_disabled_version_is_named() -> None:
    with pytest.raises(Invalid) as refusal:
        check_can_decrypt(replace(VERSION, enabled=False))
    assert refusal.value.message == f"key is disabled: {KEY}"


@pytest.mark.parametrize(
    ("ref", "text"),
    [
        (KeyRef(key_id=KEY), str(KEY)),
        (KeyRef(lineage_id=LINEAGE), str(LINEAGE)),
        (KeyRef(name="orders"), "orders"),
        (KeyRef(name=""), ""),
    ],
)
def test_an_absent_key_is_told_by_what_it_was_asked_with(ref: KeyRef, text: str) -> None:
    error = key_not_found(ref)
    assert (error.message, error.code) == (f"key not found: {text}", "key_not_found")


def test_an_id_a_lineage_and_a_name_are_never_the_same_reference() -> None:
    refs = {KeyRef(key_id=KEY), KeyRef(lineage_id=KEY), KeyRef(name=str(KEY))}
    assert len(refs) == 3
