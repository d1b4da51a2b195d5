from __future__ import annotations

import pytest

from qimem.outbound.target import Target, parse_target


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://a.example", Target("https", "a.example", 443, "/")),
        ("HTTPS://A.Example:8443/x/y?z=1&w", Target("https", "a.example", 8443, "/x/y?z=1&w")),
        ("https://10.0.0.1/", Target("https", "10.0.0.1", 443, "/")),
        ("https://[2001:DB8:0::1]:1/", Target("https", "2001:db8::1", 1, "/")),
        ("http://127.0.0.1:80/", Target("http", "127.0.0.1", 80, "/")),
        ("https://xn--bcher-kva.example?q", Target("https", "xn--bcher-kva.example", 443, "/?q")),
    ],
)
def test_a_url_is_read(url: str, target: Target) -> None:
    assert parse_target(url) == target


@pytest.mark.parametrize(
    "url",
    [
        "", "a.example", "//a.example", "ftp://a.example", "file:///etc/passwd", "https://", "https:///x",
        "https://u@a.example", "https://u:p@a.example", "https://a.example@", "https://@a.example",
        "https://a.example/#f", "https://a.example#", "https://a.example:0", "https://a.example:99999",
        "https://a.example:x", "https://a b.example", "https://a.example/ x", "https://a.example/\r\nX: y",
        "https://a.example\\@b.example", "https://a.example/\t", "https://ä.example", "https://a_b.example",
        "https://-a.example", "https://a..example", "https://a.example.", "https://*.example", "https://%61.example",
        "https://2130706433", "https://0x7f000001", "https://0x7f.1", "https://127.1", "https://0177.0.0.1",
        "https://127.0.0.01", "https://1.2.3.4.5", "https://0x", "https://a.0x7f", "https://[::1", "https://::1",
        "https://[fe80::1%25eth0]", "https://[fe80::1%eth0]", "https://[127.0.0.1]", "https://[v1.x]",
        "https://[::1].a.example", "https://[::1]a.example:443",
        "https://a.example/" + "x" * 3_000, "https://" + "a." * 130 + "example",
    ],
)  # fmt: skip
def test_a_url_of_which_two_readers_could_think_differently_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="expected") as refused:
        parse_target(url)
    assert not url or url not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "authority"),
    [
        ("https://a.example", b"a.example"),
        ("https://a.example:444", b"a.example:444"),
        ("http://a.example:443", b"a.example:443"),
        ("https://[::1]", b"[::1]"),
        ("https://[::1]:9", b"[::1]:9"),
    ],
)
def test_the_host_header_names_host_and_port(url: str, authority: bytes) -> None:
    assert parse_target(url).authority == authority
