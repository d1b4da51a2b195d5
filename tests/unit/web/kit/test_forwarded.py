"""An address that a stranger wrote is never taken for one that a proxy saw."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qimem.kernel import limits
from qimem.web.kit.forwarded import Peers

PROXY = "10.0.0.1"
STRANGER = "192.0.2.7"
NETWORKS = ("10.0.0.0/8", "2001:db8:1::/48")


class Watched:
    def __init__(self, networks: tuple[str, ...] = NETWORKS) -> None:
        self.now = 1000.0
        self.strays = 0
        self.peers = Peers(networks, self._count, lambda: self.now)

    def _count(self) -> None:
        self.strays += 1

    def address(self, peer: str, *values: str, name: str = "x-forwarded-for") -> str:
        lines = [(b"host", b"a"), *((name.encode(), value.encode("latin-1")) for value in values)]
        return self.peers.address_behind(peer, dict(lines), lines)


def logged(capfd: pytest.CaptureFixture[str]) -> list[Any]:
    from qimem.observability.logging import configure

    configure(level="info", format="json")
    return [json.loads(line) for line in capfd.readouterr().err.splitlines()]


@pytest.mark.parametrize(
    ("values", "address"),
    [
        (["6.6.6.6"], "6.6.6.6"),
        (["6.6.6.6:5678"], "6.6.6.6"),
        (["2001:db8::1"], "2001:db8::1"),
        (["[2001:db8::1]"], "2001:db8::1"),
        (["[2001:DB8:0::1]:99"], "2001:db8::1"),
        (["::ffff:6.6.6.6"], "6.6.6.6"),
        (["1.1.1.1, 6.6.6.6"], "6.6.6.6"),
        (["1.1.1.1,\t6.6.6.6 "], "6.6.6.6"),
        (["1.1.1.1", "6.6.6.6"], "6.6.6.6"),
        (["6.6.6.6, 10.1.2.3"], "6.6.6.6"),
        (["6.6.6.6, 10.1.2.3:99, [2001:db8:1::5]:1"], "6.6.6.6"),
        (["10.9.9.9, 10.1.2.3"], "10.9.9.9"),
    ],
)
def test_the_last_address_that_is_no_proxy_counts(values: list[str], address: str) -> None:
    watched = Watched()
    assert watched.address(PROXY, *values) == address
    assert watched.strays == 0


@pytest.mark.parametrize(
    "garbage",
    ["unknown", "_hidden", "", " ", "a.example", "6.6.6.6:", "6.6.6.6:123456", "6.6.6.6:x", "6.6.6", "6.6.6.6/8", "06.6.6.6",
     "[2001:db8::1", "2001:db8::1]", "[6.6.6.6", "fe80::1%eth0", "[fe80::1%a]:1", "::1%6.6.6.6", "\xb9.1.1.1", "6.6.6.6\x00",
     "999.1.1.1", "for=6.6.6.6", '"6.6.6.6"', "6.6.6.6;7.7.7.7", "0x6060606", "101058054", ":::", "[]:1"],
)  # fmt: skip
def test_what_is_no_address_never_becomes_one(garbage: str) -> None:
    watched = Watched()
    assert watched.address(PROXY, garbage) == PROXY
    # Whoever passed it on answers for it, and what stands before it was seen by nobody who is trusted.
    assert watched.address(PROXY, f"6.6.6.6, {garbage}, 10.1.2.3") == "10.1.2.3"
    assert watched.address(PROXY, f"{garbage}, 6.6.6.6") == "6.6.6.6"


def test_of_an_endless_list_the_end_counts() -> None:
    watched = Watched()
    hops = ["10.0.0.2"] * limits.FORWARDED_HOPS_MAX
    assert watched.address(PROXY, ", ".join(["6.6.6.6", *hops])) == "10.0.0.2"
    assert watched.address(PROXY, ", ".join(["6.6.6.6", *hops[1:]])) == "6.6.6.6"
    assert watched.address(PROXY, "," * 30_000) == PROXY


@pytest.mark.parametrize("name", ["x-forwarded-for", "x-forwarded-proto", "forwarded"])
@pytest.mark.parametrize("networks", [(), NETWORKS], ids=["no proxies", "other proxies"])
def test_a_peer_that_is_no_proxy_is_not_believed_and_counted(networks: tuple[str, ...], name: str) -> None:
    watched = Watched(networks)
    assert watched.address(STRANGER, "6.6.6.6", name=name) == STRANGER
    assert watched.strays == 1


@pytest.mark.parametrize("peer", ["10.0.0.1.example", "", "not an address"])
def test_a_peer_without_an_address_is_no_proxy(peer: str) -> None:
    assert Watched().address(peer, "6.6.6.6") == peer


def test_only_the_list_of_a_proxy_is_read() -> None:
    watched = Watched()
    assert watched.address(PROXY, "for=6.6.6.6", name="forwarded") == PROXY
    assert watched.address(PROXY, "https", name="x-forwarded-proto") == PROXY
    assert watched.address(STRANGER) == STRANGER
    assert watched.strays == 0


def test_a_stray_peer_is_logged_once_a_minute(capfd: pytest.CaptureFixture[str]) -> None:
    logged(capfd)
    watched = Watched()
    for _ in range(3):
        watched.address(STRANGER, "6.6.6.6")
    for last in range(3):
        watched.address(f"2001:db8::{last}", "6.6.6.6")
    lines = logged(capfd)
    assert [line["address"] for line in lines] == [STRANGER, "2001:db8::0"]
    assert {line["level"] for line in lines} == {"warning"}
    assert "6.6.6.6" not in json.dumps(lines)
    watched.now += limits.STRAY_PEERS_SECONDS
    watched.address(STRANGER, "6.6.6.6")
    assert len(logged(capfd)) == 1
    assert watched.strays == 7


def test_a_crowd_of_stray_peers_fills_neither_memory_nor_log(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qimem.web.kit.forwarded.STRAY_PEERS_MAX", 5)
    logged(capfd)
    watched = Watched()
    for last in range(100):
        watched.address(f"192.0.2.{last}", "6.6.6.6")
    assert len(logged(capfd)) == 5
    assert watched.strays == 100
