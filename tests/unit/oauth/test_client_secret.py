from __future__ import annotations

import pytest

from qimem.crypto.mac import digest
from qimem.oauth.client_secret import living_secret_ids, secret_id
from tests.unit.oauth.fakes import a_client

NOW_US = 1_000_000
OLD, NEW = digest(b"old"), digest(b"new")


def test_a_secret_has_one_name_that_is_no_part_of_its_digest() -> None:
    # Tokens that are out name their secret: another name would end them all.
    assert secret_id(NEW) == "YERo2fyFXCOb"
    assert secret_id(NEW) != secret_id(OLD)


@pytest.mark.parametrize(
    ("until_us", "living"),
    [
        (None, {NEW}),
        (0, {NEW}),
        (NOW_US - 1, {NEW}),
        (NOW_US, {NEW}),
        (NOW_US + 1, {NEW, OLD}),
    ],
)
def test_the_secret_before_lives_until_its_time_is_over(until_us: int | None, living: set[bytes]) -> None:
    client = a_client(secret_digest=NEW, previous_digest=OLD, previous_until_us=until_us)
    assert living_secret_ids(client, NOW_US) == {secret_id(each) for each in living}


def test_a_public_client_has_no_living_secret() -> None:
    assert living_secret_ids(a_client(secret_digest=None), NOW_US) == frozenset()
    before = a_client(secret_digest=None, previous_digest=None, previous_until_us=NOW_US + 1)
    assert living_secret_ids(before, NOW_US) == frozenset()
