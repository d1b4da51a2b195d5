from __future__ import annotations

import ipaddress

import pytest

from qimem.outbound import reach
from qimem.outbound.reach import Reach, is_own

PRIVATE = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254",
    "168.63.129.16", "169.254.0.1", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.192",
    "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1",
    "224.0.1.1", "239.1.1.1", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::127.0.0.1", "::8.8.8.8", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:10.0.0.1",
    "::ffff:0:8.8.8.8", "64:ff9b::127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::169.254.169.254",
    "64:ff9b:1::8.8.8.8", "100::1", "2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:db8::1",
    "2002:7f00:1::", "2002:a00:1::", "2002:808:808::", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254",
    "fe80::1", "fec0::1", "ff02::1", "4000::1",
]  # fmt: skip
PUBLIC = ["1.1.1.1", "8.8.8.8", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2606:4700::1111", "2a00:1450::1"]


def admits(address: str, *allowed: str) -> bool:
    return Reach(allowed).admits(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", PRIVATE)
def test_what_is_not_public_is_not_reached(address: str) -> None:
    assert not admits(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_what_is_public_is_reached(address: str) -> None:
    assert admits(address)


def test_the_operator_lists_what_else_may_be_reached() -> None:
    assert admits("10.1.2.3", "10.1.0.0/16")
    assert admits("::ffff:10.1.2.3", "10.1.0.0/16")
    assert admits("64:ff9b::10.1.2.3", "10.1.0.0/16")
    assert admits("fd12::1", "fd12::/32", "10.0.0.0/8")
    assert not admits("10.2.2.3", "10.1.0.0/16")
    assert not admits("169.254.169.254", "10.0.0.0/8", "127.0.0.0/8")


def test_a_public_address_of_this_machine_is_not_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "is_own", lambda address: str(address) == "8.8.8.8")
    assert not admits("8.8.8.8")
    assert not admits("::ffff:8.8.8.8")
    assert admits("1.1.1.1")
    assert admits("8.8.8.8", "8.8.8.8/32")


def test_this_machine_knows_its_own_addresses() -> None:
    assert is_own(ipaddress.ip_address("127.0.0.1"))
    assert not is_own(ipaddress.ip_address("8.8.8.8"))
    assert not is_own(ipaddress.ip_address("2606:4700::1111"))
