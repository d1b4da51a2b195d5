from __future__ import annotations

import pytest

from qimem.crypto.mac import digest
from qimem.oauth.client_secret import FOREVER_US, secret_id, taken_until_us
from tests.unit.oauth.fakes import a_client

NOW_US = 1_000_000
OLD, NEW = digest(b"old"), digest(b"new")


def test_a_secret_has_one_name_that_is_no_part_of_its_digest() -> None:
    # Tokens that are out name their secret: another name would end them all.
    assert secret_id(NEW) == "YERo2fyFXCOb"
    assert secret_id(NEW) != secret_id(OLD)


@pytest.mark.parametrize(
    ("until_us", "told"), [(None, 0), (0, 0), (NOW_US, NOW_US), (FOREVER_US, FOREVER_US)]
)
def test_the_secret_before_is_taken_until_its_time_is_over(until_us: int | None, told: int) -> None:
    client = a_client(secret_digest=NEW, previous_digest=OLD, previous_until_us=until_us)
    assert taken_until_us(client, secret_id(OLD)) == told
    assert taken_until_us(client, secret_id(NEW)) == FOREVER_US


@pytest.mark.parametrize("name", [None, "", secret_id(OLD), secret_id(NEW)[:-1], secret_id(NEW).lower()])
def test_any_other_secret_is_not_taken(name: str | None) -> None:
    for more in (
        {},
        {"previous_until_us": NOW_US},
        {"previous_digest": digest(b"x"), "previous_until_us": NOW_US},
    ):
        assert taken_until_us(a_client(secret_digest=NEW, **more), name) == 0
        assert taken_until_us(a_client(secret_digest=None, **more), name) == 0
