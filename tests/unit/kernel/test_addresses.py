from __future__ import annotations

import pytest

from qimem.kernel.addresses import customer_of, is_this_machine, keeps_secrets


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


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1"])
def test_what_is_said_here_stays_here(host: str) -> None:
    assert is_this_machine(host)
    assert keeps_secrets(f"http://[{host}]:80" if ":" in host else f"http://{host}:80")


@pytest.mark.parametrize(
    "host",
    ["", "0.0.0.0", "::", "10.0.0.1", "127.1", "localhost.example", "127.0.0.1.example", "::ffff:10.0.0.1"],
)
def test_elsewhere_it_is_read_unless_there_is_tls(host: str) -> None:
    assert not is_this_machine(host)
    written = f"[{host}]" if ":" in host else host
    assert not keeps_secrets(f"http://{written}")
    assert keeps_secrets(f"https://{written}/base")


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1", "//127.0.0.1", "ftp://127.0.0.1", "http://127.0.0.1@id.example", "http://:80"]
)
def test_what_is_no_address_of_here_keeps_nothing(url: str) -> None:
    assert not keeps_secrets(url)


def test_what_is_no_url_is_refused() -> None:
    with pytest.raises(ValueError, match="IPv6"):
        keeps_secrets("http://[::1")
