"""Header lines for browsers: none without a list, exact origins with one."""

from __future__ import annotations

import pytest

from qimem.web.kit.cors import Cors

LISTED = b"https://app.example"
CORS = Cors(["https://app.example", "http://localhost:3000"])
FOREIGN = [None, b"", b"null", b"*", b"https://app.example/", b"https://app.example:443", b"http://app.example",
           b"https://APP.EXAMPLE", b"https://app.example.evil.example", b"https://app.exampl", b" https://app.example",
           b"https://app.example\r\nx: y", b"https://app.example,https://app.example"]  # fmt: skip


@pytest.mark.parametrize("origin", [*FOREIGN, LISTED])
def test_without_a_list_there_is_nothing(origin: bytes | None) -> None:
    assert Cors([]).headers(origin) == b""
    assert Cors([]).preflight(origin, b"GET") == b""


@pytest.mark.parametrize("origin", FOREIGN)
def test_a_foreign_origin_gets_nothing_but_the_word_that_others_do(origin: bytes | None) -> None:
    assert CORS.headers(origin) == b"vary: Origin\r\n"
    assert CORS.preflight(origin, b"GET") == b""


@pytest.mark.parametrize("origin", [LISTED, b"http://localhost:3000"])
def test_a_listed_origin_is_given_back_exactly(origin: bytes) -> None:
    lines = CORS.headers(origin).split(b"\r\n")
    assert lines[:2] == [b"access-control-allow-origin: " + origin, b"vary: Origin"]
    assert lines[2].startswith(b"access-control-expose-headers: X-Request-Id, ")
    assert lines[3:] == [b""]


def test_a_preflight_allows_the_methods_of_the_path() -> None:
    lines = CORS.preflight(LISTED, b"GET, HEAD").split(b"\r\n")
    assert lines[0] == b"access-control-allow-methods: GET, HEAD"
    assert b"Authorization" in lines[1]
    assert lines[-1] == b""


def test_credentials_are_never_allowed() -> None:
    assert b"credentials" not in CORS.headers(LISTED) + CORS.preflight(LISTED, b"GET")
