"""The fetcher against a real TLS server on loopback, and against names that mean other hosts than they say."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from qimem.kernel.limits import OUTBOUND_ANSWER_BYTES_MAX, OUTBOUND_RESOLVING_MAX, OUTBOUND_SECONDS
from qimem.outbound import fetcher as module
from qimem.outbound.answer import Answer, OutboundFailed
from qimem.outbound.fetcher import Fetcher, OutboundRules
from qimem.outbound.target import parse_target
from tests.support.strange_server import HOST, Authority, StrangeServer

pytestmark = pytest.mark.anyio

LOOPBACK = ("127.0.0.0/8",)
BODY = b'{"a":1}'


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> float:
    monkeypatch.setattr(module, "OUTBOUND_SECONDS", 0.4)
    return 0.4


def resolver(*answers: Sequence[str]) -> Callable[[str], Sequence[Any]]:
    """Says one answer after the other, the last one for ever."""
    left = list(answers)

    def resolve(_host: str) -> Sequence[Any]:
        said = left.pop(0) if len(left) > 1 else left[0]
        return [ipaddress.ip_address(address) for address in said]

    return resolve


def a_fetcher(authority: Authority | None, resolve: Any = None, **rules: Any) -> Fetcher:
    file = None if authority is None else authority.file
    given = {"allow_networks": LOOPBACK, "ca_file": file} | rules
    return Fetcher(OutboundRules(**given), resolve or resolver(["127.0.0.1"]))


async def post(fetcher: Fetcher, url: str, **headers: str) -> Answer:
    return await fetcher.post(parse_target(url), BODY, headers)


async def refusal(fetcher: Fetcher, url: str) -> str:
    with pytest.raises(OutboundFailed) as failed:
        await post(fetcher, url)
    return str(failed.value)


async def test_a_request_arrives_whole_at_the_host_it_names(authority: Authority) -> None:
    with StrangeServer(authority) as server:
        url = f"https://{HOST}:{server.port}/in?x=1"
        assert await post(a_fetcher(authority), url, **{"X-A": "b"}) == Answer(200, b"ok")
    (request,) = server.requests
    head, _, body = request.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert (lines[0], body) == (b"POST /in?x=1 HTTP/1.1", BODY)
    assert {b"Host: %b:%d" % (HOST.encode(), server.port), b"X-A: b", b"Content-Length: 7"} <= set(lines)
    assert server.names == [HOST]


async def test_an_address_is_checked_against_the_certificate(authority: Authority) -> None:
    with StrangeServer(authority) as server:
        assert (await post(a_fetcher(authority), f"https://127.0.0.1:{server.port}")).status == 200


@pytest.mark.parametrize("status", [400, 404, 500])
async def test_a_refusal_is_an_answer(authority: Authority, status: int) -> None:
    answer = b"HTTP/1.1 %d x\r\nContent-Length: 0\r\n\r\n" % status
    with StrangeServer(authority, answer) as server:
        assert (await post(a_fetcher(authority), f"https://{HOST}:{server.port}")).status == status


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_nothing_is_followed(authority: Authority, status: int) -> None:
    with StrangeServer(authority) as other:
        place = b"Location: https://127.0.0.1:%d/\r\n" % other.port
        answer = b"HTTP/1.1 %d x\r\n%bContent-Length: 0\r\n\r\n" % (status, place)
        with StrangeServer(authority, answer) as server:
            assert "redirects" in await refusal(a_fetcher(authority), f"https://{HOST}:{server.port}")
    assert other.connections == 0


async def test_a_name_is_asked_for_once_and_the_address_that_was_judged_is_used(authority: Authority) -> None:
    asked: list[str] = []
    answers = resolver(["127.0.0.1"], ["169.254.169.254"])

    def resolve(host: str) -> Any:
        asked.append(host)
        return answers(host)

    with StrangeServer(authority) as server:
        fetcher = a_fetcher(authority, resolve)
        assert (await post(fetcher, f"https://{HOST}:{server.port}")).status == 200
        assert asked == [HOST]
        assert "may not be reached" in await refusal(fetcher, f"https://{HOST}:{server.port}")
    assert (asked, server.connections) == ([HOST, HOST], 1)


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"], ["0.0.0.0"], ["169.254.169.254"], ["10.0.0.1"], ["::1"], ["::ffff:127.0.0.1"],
        ["::ffff:7f00:1"], ["64:ff9b::7f00:1"], ["fe80::1"], ["fd00::1"], ["8.8.8.8", "127.0.0.1"],
        ["127.0.0.1", "8.8.8.8"],
    ],
)  # fmt: skip
async def test_a_name_that_means_what_is_not_public_is_not_reached(
    authority: Authority, addresses: list[str]
) -> None:
    with StrangeServer(authority) as server:
        fetcher = a_fetcher(authority, resolver(addresses), allow_networks=())
        assert "may not be reached" in await refusal(fetcher, f"https://{HOST}:{server.port}")
    assert server.connections == 0


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "[::1]", "0.0.0.0", "[::]", "[::ffff:127.0.0.1]", "169.254.169.254"]
)
async def test_an_address_in_the_url_is_judged_like_one_of_a_name(authority: Authority, host: str) -> None:
    with StrangeServer(authority) as server:
        fetcher = a_fetcher(authority, allow_networks=())
        assert "may not be reached" in await refusal(fetcher, f"https://{host}:{server.port}")
    assert server.connections == 0


async def test_the_system_takes_numbers_for_addresses_and_they_are_judged() -> None:
    for spelling in ("2130706433", "0x7f000001", "127.1", "0177.0.0.1"):
        assert {str(address) for address in module.system_resolver(spelling)} == {"127.0.0.1"}
    target = parse_target("https://a.example")._replace(host="2130706433")
    with pytest.raises(OutboundFailed, match="may not be reached"):
        await Fetcher(OutboundRules()).post(target, BODY, {})


async def test_a_certificate_of_an_unknown_authority_is_refused(authority: Authority) -> None:
    with StrangeServer(authority) as server:
        fetcher = a_fetcher(authority, ca_file=None)
        assert "certificate" in await refusal(fetcher, f"https://{HOST}:{server.port}")
    assert server.requests == []


async def test_a_certificate_of_another_host_is_refused(authority: Authority) -> None:
    with StrangeServer(authority) as server:
        assert "certificate" in await refusal(a_fetcher(authority), f"https://other.example:{server.port}")
    assert server.requests == []


@pytest.mark.parametrize(
    ("rules", "resolved"),
    [
        ({}, "127.0.0.1"),
        ({"allow_plain_http": True, "allow_networks": ()}, "127.0.0.1"),
        ({"allow_plain_http": True, "allow_networks": ("10.0.0.0/8",)}, "10.0.0.1"),
        ({"allow_plain_http": True}, "8.8.8.8"),
    ],
)
async def test_plain_http_goes_nowhere(rules: dict[str, Any], resolved: str) -> None:
    with StrangeServer(None) as server:
        fetcher = a_fetcher(None, resolver([resolved]), **rules)
        assert await refusal(fetcher, f"http://{HOST}:{server.port}") in {
            "it is not https",
            "its address may not be reached: see outbound.allow_networks",
        }
    assert server.connections == 0


async def test_plain_http_goes_to_this_machine_where_the_operator_says_so() -> None:
    with StrangeServer(None) as server:
        fetcher = a_fetcher(None, allow_plain_http=True)
        assert (await post(fetcher, f"http://{HOST}:{server.port}")).status == 200


async def test_proxies_of_the_environment_are_not_heeded(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    with StrangeServer(authority) as server, StrangeServer(None) as proxy:
        for name in ("https_proxy", "HTTPS_PROXY", "ALL_PROXY", "http_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert (await post(a_fetcher(authority), f"https://{HOST}:{server.port}")).status == 200
    assert proxy.connections == 0


async def test_an_answer_that_is_too_large_is_not_read_to_its_end(authority: Authority) -> None:
    sent = 0

    def flood(connection: socket.socket) -> None:
        nonlocal sent
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(20_000):
            connection.sendall(bytes(65_536))
            sent += 65_536

    with StrangeServer(authority, behavior=flood) as server:
        assert "too large" in await refusal(a_fetcher(authority), f"https://{HOST}:{server.port}")
    assert sent < 1_000 * OUTBOUND_ANSWER_BYTES_MAX


async def test_an_answer_that_drips_takes_no_longer_than_the_whole_may(
    authority: Authority, hurried: float
) -> None:
    with StrangeServer(authority) as server:

        def drip(connection: socket.socket) -> None:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
            while not server.wait(0.05):
                connection.sendall(b"x")

        server.behavior = drip
        began = time.monotonic()
        assert "in time" in await refusal(a_fetcher(authority), f"https://{HOST}:{server.port}")
        assert time.monotonic() - began < hurried + 1


async def test_a_server_that_says_nothing_is_given_up(hurried: float) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        began = time.monotonic()
        assert "in time" in await refusal(a_fetcher(None), f"https://{HOST}:{port}")
        assert time.monotonic() - began < hurried + 1


async def test_a_resolver_that_hangs_is_given_up_and_takes_few_threads(hurried: float) -> None:
    gate = threading.Event()

    def hang(_host: str) -> Any:
        gate.wait()
        return []

    fetcher = a_fetcher(None, hang)
    asked = [refusal(fetcher, f"https://{HOST}") for _ in range(OUTBOUND_RESOLVING_MAX + 3)]
    began = time.monotonic()
    said = await asyncio.gather(*asked)
    assert time.monotonic() - began < hurried + 1
    assert (
        sorted(said)
        == ["no answer in time"] * OUTBOUND_RESOLVING_MAX + ["too many names are being resolved"] * 3
    )
    gate.set()


async def test_a_name_without_an_address_is_told() -> None:
    def fail(_host: str) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    assert "no address" in await refusal(a_fetcher(None, fail), f"https://{HOST}")


async def test_the_next_address_is_tried_where_one_refuses(authority: Authority) -> None:
    with StrangeServer(authority) as server:
        fetcher = a_fetcher(authority, resolver(["127.0.0.2", "127.0.0.1"]))
        assert (await post(fetcher, f"https://{HOST}:{server.port}")).status == 200


async def test_nobody_there_is_told_without_the_url() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    said = await refusal(a_fetcher(None), f"https://{HOST}:{port}/secret-path")
    assert "connection fails" in said
    assert "secret" not in said


async def test_who_asks_and_leaves_holds_no_connection(authority: Authority) -> None:
    came, left = threading.Event(), threading.Event()

    def wait(connection: socket.socket) -> None:
        came.set()
        try:
            connection.recv(1)
        finally:
            left.set()

    with StrangeServer(authority, behavior=wait) as server:
        asking = asyncio.create_task(post(a_fetcher(authority), f"https://{HOST}:{server.port}"))
        assert await asyncio.to_thread(came.wait, 5)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        assert await asyncio.to_thread(left.wait, 5)
    assert asking.cancelled()


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\nb", "a\rb", "ä"])
async def test_a_header_brings_no_other_one(value: str) -> None:
    with pytest.raises(ValueError, match="header"):
        await post(a_fetcher(None), f"https://{HOST}", **{"X-A": value})


def test_all_of_it_takes_three_seconds_at_most() -> None:
    assert OUTBOUND_SECONDS == 3.0
