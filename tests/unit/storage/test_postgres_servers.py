"""Which of the servers that a URL names is asked first."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from qimem.kernel.refusal import Refused
from qimem.storage.postgres_servers import Servers


def connected(host: str, port: int = 5432, hostaddr: str = "192.0.2.9") -> Any:
    return SimpleNamespace(info=SimpleNamespace(host=host, port=port, hostaddr=hostaddr))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u@a:5432/q",
        "postgresql:///q",
        "postgresql://u@[::1]:5/q",
        "postgresql:///q?host=/run/postgresql",
    ],
)
def test_a_single_server_is_left_to_the_url(url: str) -> None:
    servers = Servers(url)
    servers.found(connected("a"))
    assert servers.in_order() == {}


@pytest.mark.parametrize(
    ("url", "before", "found", "after"),
    [
        ("postgresql://u@a:1,b:2/q", {"host": "a,b", "port": "1,2"}, ("b", 2), {"host": "b,a", "port": "2,1"}),
        ("postgresql://u@a:1,b:2/q", {"host": "a,b", "port": "1,2"}, ("a", 1), {"host": "a,b", "port": "1,2"}),
        ("postgresql://u@a:1,b:2/q", {"host": "a,b", "port": "1,2"}, ("b", 1), {"host": "a,b", "port": "1,2"}),
        ("postgresql://u@a:1,a:2/q", {"host": "a,a", "port": "1,2"}, ("a", 2), {"host": "a,a", "port": "2,1"}),
        ("postgresql://u@a,b,c/q", {"host": "a,b,c", "port": ",,"}, ("c", 5432), {"host": "c,a,b", "port": ",,"}),
        ("postgresql:///q?host=a,b&port=7", {"host": "a,b", "port": "7,7"}, ("b", 7), {"host": "b,a", "port": "7,7"}),
        ("postgresql://u@a:1,b:2/q", {"host": "a,b", "port": "1,2"}, ("elsewhere", 1), {"host": "a,b", "port": "1,2"}),
        (
            "postgresql://u@[::1]:1,[::2]:2/q", {"host": "::1,::2", "port": "1,2"},
            ("::2", 2), {"host": "::2,::1", "port": "2,1"},
        ),
    ],
)  # fmt: skip
def test_the_one_that_was_found_last_is_asked_first(
    url: str, before: dict[str, str], found: tuple[str, int], after: dict[str, str]
) -> None:
    servers = Servers(url)
    assert servers.in_order() == before
    servers.found(connected(*found))
    assert servers.in_order() == after


def test_an_address_stays_with_its_name() -> None:
    servers = Servers("postgresql:///q?host=a,b&hostaddr=192.0.2.1,192.0.2.2")
    servers.found(connected("b", hostaddr="192.0.2.2"))
    assert servers.in_order() == {"host": "b,a", "hostaddr": "192.0.2.2,192.0.2.1"}


def test_the_order_of_the_others_stays() -> None:
    servers = Servers("postgresql://u@a,b,c/q")
    for host in "cb":
        servers.found(connected(host))
    assert servers.in_order()["host"] == "b,c,a"


@pytest.mark.parametrize(
    "url", ["postgresql://u:hidden@a:1,b:2,c/q?port=1,2", "postgresql://u:hidden@a/q?nonsense=1"]
)
def test_what_cannot_be_read_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(Refused) as refusal:
        Servers(url)
    assert "hidden" not in str(refusal.value)
