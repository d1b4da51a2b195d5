from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qimem.errors import InvalidFields
from qimem.oauth.client_metadata import check_metadata, check_redirect_uris
from qimem.oauth.registration import Registration

LONG = "https://a.example/" + "x" * 2030


def fault(*uris: str) -> dict[str, str]:
    try:
        check_redirect_uris(uris, "/redirect_uris")
    except InvalidFields as error:
        return error.fields
    return {}


@pytest.mark.parametrize(
    "uri",
    [
        "https://a.example", "https://a.example/?x", "https://a.example:1/", "https://a.example:65535/", "https://a/", "https://1.2.3.4/",
        "https://[::1]/", "https://a.example/%2a", "https://a.example/@x", "https://a.example/?u=https://b@c", "https://A.EXAMPLE/",
        "http://localhost", "http://localhost:1/", "http://127.0.0.1:65535/x?y", "http://[::1]/", "http://LOCALHOST/", "http://localhost/?next=http://x",
        "com.example:/", "com.example.app://x/y", "a.b:c", "a+b.c-d:x", LONG,
    ],
)  # fmt: skip
def test_an_exact_absolute_uri_passes(uri: str) -> None:
    assert fault(uri) == {}


FAULTS = [
    ("not a URI without wildcards, spaces and backslashes", [
        "", " ", "https://a.example/ ", "https://a.example/\t", "https://a.example/\r\nx", "https://a.example/\0", "https://ä.example/",
        "https://a.example/é", "https://*.example/", "https://a.example/*", "https://a.example\\b", "https://a.example/<", "https://a.example/>",
        'https://a.example/"', "https://a.example/^", "https://a.example/`", "https://a.example/{", "https://a.example/|", "https://a.example/}",
        "https://a.example/\x7f", "https://a。example/", LONG + "x",
    ]),
    ("not an absolute URI", ["https://a.example:x/", "https://a.example:99999/", "https://[::1/", "https://a]b/", "https://[x]/", "http://[::1%25lo]/", "http://localhost:80x/"]),
    ("must not have a fragment", ["https://a.example/#", "https://a.example/#x", "https://a.example#x", "http://localhost#@evil.example/", "com.example:/#x"]),
    ("must not have user information", ["https://u@a.example/", "https://u:p@a.example/", "https://@a.example/", "https://a.example@b.example/",
                                        "http://localhost@evil.example/", "com.example://u@x/"]),
    ("not an absolute URI with a lower-case scheme", ["a.example", "/x", "x", "//a.example/x", "?x", "HTTPS://a.example/", "hTTps://a.example/",
                                                      "COM.example:/x", "https://a.example:0/", ":x", "1a.b:x", "a_b.c:x"]),
    ("needs a host", ["https:", "https:/", "https://", "https:///x", "https:a.example", "https://:443/", "https://?x"]),
    ("http is only for localhost, 127.0.0.1 and [::1]", [
        "http:", "http://", "http://a.example/", "http://localhost.example/", "http://localhost./", "http://127.0.0.1.example/", "http://127.0.0.2/",
        "http://127.1/", "http://2130706433/", "http://0x7f.0.0.1/", "http://0/", "http://0.0.0.0/", "http://[::]/", "http://[::2]/",
        "http://[::ffff:127.0.0.1]/", "http://[0:0:0:0:0:0:0:1]/", "http://xlocalhost/", "http://local-host/",
    ]),
    ("scheme must be https, http on loopback, or private with a dot in it", [
        "javascript:alert(1)", "data:text/html,x", "file:///x", "ftp://a.example/", "urn:ietf:wg:oauth:2.0:oob", "myapp:/x", "localhost:3000",
        "about:blank", "ws://localhost/", "vbscript:x", "blob:https://a.example/x", "a.:x", "a..b:x",
    ]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("uri", "reason"),
    [(uri, reason) for reason, uris in FAULTS for uri in uris],
    ids=lambda value: ascii(value[:40]),
)
def test_a_uri_that_could_lead_elsewhere_is_named_with_the_reason(uri: str, reason: str) -> None:
    assert fault("https://good.example/", "com.good:/", uri, "*") == {"/redirect_uris/2": reason}


@pytest.mark.parametrize(
    "uri",
    ["http://evil.example[::1]/", "http://[::1]evil.example/", "http://[::1].evil.example/", "http://[::1]x:80/", "http://localhost[::1]/",
     "http://evil.example[::1]:80/", "https://a.example[::1]/", "https://[::1]x/"],
)  # fmt: skip
def test_a_host_in_brackets_is_the_whole_host(uri: str) -> None:
    # urlsplit() looks between the brackets and forgets what stands around them.
    assert list(fault(uri)) == ["/redirect_uris/0"]


def test_there_are_at_most_32() -> None:
    many = [f"https://a.example/{number}" for number in range(33)]
    assert fault(*many[1:]) == {}
    assert fault(*many) == {"/redirect_uris": "at most 32"}
    assert fault() == {}


schemes = st.sampled_from(["https://", "http://", "com.example:", "HTTP://", "javascript:", "//", ""])
pieces = st.lists(
    st.sampled_from(["localhost", "127.0.0.1", "[::1]", "a.example", "@", "#", "*", "\\", ":", "/", "?", ".", "%2e", " ", "\n", "é", "x", "443", "]"]),
    max_size=8,
).map("".join)  # fmt: skip


@settings(deadline=None, max_examples=1500)
@given(st.builds(lambda scheme, rest: scheme + rest, schemes, pieces) | st.text(max_size=60))
def test_whatever_passes_can_only_lead_where_it_says(uri: str) -> None:
    if fault(uri):
        return
    assert uri.isascii()
    assert not set(uri) & set(' *\\#<>"^`{|}\n\r\t\0')
    scheme, _, rest = uri.partition(":")
    assert scheme == "https" or "." in scheme or (scheme == "http" and rest.startswith("//"))
    authority = rest.removeprefix("//").split("/")[0].split("?")[0] if rest.startswith("//") else ""
    assert "@" not in authority
    if scheme == "http":
        host = (
            authority.rpartition(":")[0]
            if authority.rpartition(":")[2].isdigit()
            else authority.removesuffix(":")
        )
        assert host.lower() in {"localhost", "127.0.0.1", "[::1]"}
    if scheme == "https":
        assert authority


KEY = {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}
SCOPE = "scope tokens of RFC 6749 §3.3 with single spaces between"
KEYS = "must be a JWK Set with a keys array (RFC 7517 §5)"
REJECTED: list[tuple[dict[str, Any], str, str]] = [
    ({"name": ""}, "/name", "must have 1 to 256 characters"),
    ({"name": "x" * 257}, "/name", "must have 1 to 256 characters"),
    *(({"response_types": types}, "/response_types", "only code is offered")
      for types in (["token"], ["id_token"], ["code", "code"], ["code id_token"], ["CODE"], [""], ["none"])),
    *(({"scope": scope}, "/scope", SCOPE)
      for scope in ("", " ", " a", "a ", "a  b", "a\tb", "a\nb", "é", 'a"b', "a\\b", "a\0b", "\x7f", "x" * 1025)),
    ({"jwks": {"keys": []}, "jwks_uri": "https://a.example/"}, "/jwks_uri", "jwks and jwks_uri exclude each other (RFC 7591 §2)"),
    *(({"jwks_uri": uri}, "/jwks_uri", "must be an https URI")
      for uri in ("", "x", "http://a.example/", "http://localhost/", "com.example:/x", "https://", "https://u@a.example/", "https://a.example/#x", "HTTPS://a.example/")),
    *(({"jwks": jwks}, "/jwks", KEYS) for jwks in ({}, {"keys": None}, {"keys": {}}, {"keys": "x"}, {"keys": [1]}, {"keys": [{}]}, {"keys": [{"kty": 1}]}, {"KEYS": []})),
    *(({"jwks": {"keys": [KEY, KEY | {member: "AA"}]}}, "/jwks", "must hold public keys only") for member in ("d", "p", "q", "dp", "dq", "qi", "oth", "k")),
    ({"jwks": {"keys": [KEY | {"x5c": ["A" * 65_536]}]}}, "/jwks", "at most 65536 bytes"),
    ({"jwks": {"keys": [KEY], "more": "é" * 11_000}}, "/jwks", "at most 65536 bytes"),
]  # fmt: skip


@pytest.mark.parametrize(("metadata", "pointer", "reason"), REJECTED, ids=lambda value: ascii(value)[:40])
def test_faulty_metadata_is_named_with_the_reason(
    metadata: dict[str, Any], pointer: str, reason: str
) -> None:
    with pytest.raises(InvalidFields) as caught:
        check_metadata(Registration(redirect_uris=(), **metadata))
    assert caught.value.fields == {pointer: reason}


@pytest.mark.parametrize(
    "metadata",
    [
        {}, {"name": "x"}, {"name": "✓" * 256}, {"response_types": []}, {"response_types": ["code"]}, {"scope": "a"}, {"scope": "!#[]~ a:b/c"},
        {"scope": "x" * 1024}, {"jwks": {"keys": []}}, {"jwks": {"keys": [KEY, {"kty": "OKP", "x": "AA"}]}}, {"jwks_uri": "https://a.example/jwks?x"},
    ],
    ids=lambda value: ascii(value)[:40],
)  # fmt: skip
def test_good_metadata_passes(metadata: dict[str, Any]) -> None:
    check_metadata(Registration(redirect_uris=(), **metadata))
