"""Readers of values: what they refuse, and that reasons never repeat the value."""

from __future__ import annotations

import pytest

from qimem.config import values
from qimem.config.values import Address
from qimem.kernel.metering import TIERS, UNITS_MAX, Allowance


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("127.0.0.1:0", Address("127.0.0.1", 0)),
        ("[::1]:65535", Address("::1", 65535)),
        (":80", Address("0.0.0.0", 80)),
        ("localhost:80", Address("localhost", 80)),
    ],
)
def test_addresses(text: str, read: Address) -> None:
    assert values.address(text) == read


@pytest.mark.parametrize(
    "text", ["", "80", "h", "h:", "h:65536", "h:-1", "h:8٠", "::1:80", "[::g]:80", 80, None]
)
def test_no_addresses(text: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        values.address(text)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com",
        "ftp://h",
        "https://",
        "https://u@h",
        "https://u:p@h",
        "https://h?q",
        "https://h?",
        "https://h#f",
        1,
    ],
)
def test_no_external_urls(url: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        values.external_url(url)


def test_an_external_url_ends_without_a_slash() -> None:
    assert values.external_url("https://id.example:8443/base/") == "https://id.example:8443/base"


@pytest.mark.parametrize("value", ["maybe", "", 1, None, "tru"])
def test_no_booleans(value: object) -> None:
    with pytest.raises(ValueError, match="true or false"):
        values.boolean(value)


@pytest.mark.parametrize("value", [0, 5, "0", "5", "-1", "1.5", "", True, None, 1.0, "٣"])
def test_no_integers_of_the_range(value: object) -> None:
    with pytest.raises(ValueError, match="from 1 to 4"):
        values.integer(1, 4)(value)


@pytest.mark.parametrize("value", [["10.0.0.1/8"], "10.0.0.0/33", ["x"], [1], 7])
def test_no_networks(value: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        values.networks(value)


@pytest.mark.parametrize(
    "value",
    [
        "*",
        "https://*.example",
        "https://a.example/",
        "https://a.example/p",
        "a.example",
        "null",
        "https://u@a",
    ],
)
def test_no_origins(value: str) -> None:
    with pytest.raises(ValueError, match="expected origins"):
        values.origins(value)


@pytest.mark.parametrize(
    "url", ["postgresql://u@a:1,b:2/q", "postgres://u@[::1]:1,[::2]:2/q", "postgresql:///q?host=/run"]
)
def test_database_urls(url: str) -> None:
    assert values.database_url(url).reveal() == url


@pytest.mark.parametrize("value", ["mysql://h/d", "sqlite:///x", "h", "", 3])
def test_no_database_urls(value: object) -> None:
    with pytest.raises(ValueError, match="expected") as caught:
        values.database_url(value)
    assert not value or str(value) not in str(caught.value) or value == "h"


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("600/60", Allowance(600, 60)),
        ("600", Allowance(600, 60)),
        (f"{UNITS_MAX}/86400", Allowance(UNITS_MAX, 86_400)),
        ({"limit": 1, "window_seconds": 1}, Allowance(1, 1)),
        ({"limit": 5}, Allowance(5, 60)),
    ],
)
def test_allowances(given: object, read: Allowance) -> None:
    assert values.allowance(given) == read


@pytest.mark.parametrize(
    "given",
    [
        "", "/60", "0/60", "1/0", "1/86401", "-1", f"{UNITS_MAX + 1}", "1/60/60", "1 / 60", "many", 600, None, [600, 60], {},
        {"window_seconds": 60}, {"limit": 0}, {"limit": True}, {"limit": 1.5}, {"limit": 1, "window": 60},
        {"limit": 1, "window_seconds": None},
    ],
)  # fmt: skip
def test_no_allowances(given: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        values.allowance(given)


@pytest.mark.parametrize(
    "given", ["free=5/10, enterprise=7", {"free": {"limit": 5, "window_seconds": 10}, "enterprise": "7/60"}]
)
def test_tiers_that_are_not_named_stay_as_they_are(given: object) -> None:
    read = values.tiers(given)
    assert read == TIERS | {"free": Allowance(5, 10), "enterprise": Allowance(7, 60)}
    assert TIERS["free"] == Allowance(600, 60)


@pytest.mark.parametrize(
    "given", ["gold=5", "free", "free=", "free=x", {"gold": {"limit": 1}}, {"free": 5}, 5, None]
)
def test_no_tiers(given: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        values.tiers(given)


@pytest.mark.parametrize(
    "url",
    [
        "valkey://h", "valkeys://h:6379", "redis://u:p@h/1", "rediss://[::1]:6380/0", "unix:///run/valkey.sock",
        "unix://u:p@/run/valkey.sock?db=1",
    ],
)  # fmt: skip
def test_valkey_urls(url: str) -> None:
    read = values.valkey_url(url)
    assert read.reveal() == url
    assert url not in repr(read)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "h",
        "http://h",
        "valkey://",
        "redis://h:0",
        "redis://h:x",
        "unix://",
        "postgresql://h",
        "VALKEY://h",
        "redis://[::1",
        "redis://h?password=x",
        "unix:///s?password=x",
        "redis://h?db=x",
        "redis://h?socket_timeout=1",
        "redis://h#f",
        5,
        None,
    ],
)
def test_no_valkey_urls(url: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        values.valkey_url(url)


@pytest.mark.parametrize("url", ["https://a.example", "https://a.example:8443/x?y", "http://127.0.0.1:1/"])
def test_urls_that_requests_go_to(url: str) -> None:
    read = values.target_url(url)
    assert read.reveal() == url
    assert "example" not in repr(read)


@pytest.mark.parametrize(
    "url", ["", 5, None, "a.example", "ftp://a.example", "https://u:hunter2@a.example", "https://127.1"]
)
def test_no_urls_that_requests_go_to(url: object) -> None:
    with pytest.raises(ValueError, match="expected") as refused:
        values.target_url(url)
    assert "hunter2" not in str(refused.value)
