from __future__ import annotations

import pytest

from qimem.kernel.addresses import customer_of


@pytest.mark.parametrize(
    ("address", "customer"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("::1", "::/64"),
        ("", ""),
        ("unix", "unix"),
    ],
)
def test_an_address_as_far_as_one_customer_can_change_it(address: str, customer: str) -> None:
    assert customer_of(address) == customer
