"""Listening sockets."""

from __future__ import annotations

import socket

import pytest

from qimem.config.values import Address
from qimem.kernel.refusal import Refused
from qimem.server.sockets import base_url, join, reserve, share


def test_port_zero_gets_a_real_port() -> None:
    with reserve(Address("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert port
        assert base_url(listener) == f"http://127.0.0.1:{port}"


def test_a_wildcard_is_shown_as_an_address_that_clients_can_use() -> None:
    with reserve(Address("0.0.0.0", 0)) as listener:
        assert base_url(listener).startswith("http://127.0.0.1:")


def test_ipv6_is_shown_in_brackets() -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    with reserve(Address("::1", 0)) as listener:
        assert base_url(listener).startswith("http://[::1]:")


def test_a_taken_port_is_refused() -> None:
    with reserve(Address("127.0.0.1", 0)) as first:
        first.listen()
        with pytest.raises(Refused, match="in use"):
            reserve(Address("127.0.0.1", first.getsockname()[1]))


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_of_another_machine_is_refused(host: str) -> None:
    with pytest.raises(Refused, match="cannot listen") as caught:
        reserve(Address(host, 0))
    assert "--bind" in caught.value.hint


def test_workers_join_the_port_and_a_second_server_does_not() -> None:
    with reserve(Address("127.0.0.1", 0)) as parent:
        share(parent)
        host, port = parent.getsockname()
        with join(host, port) as one, join(host, port) as two:
            one.listen()
            two.listen()
            with pytest.raises(Refused, match="in use"):
                reserve(Address(host, port))


def test_the_reserving_socket_takes_no_connections() -> None:
    with reserve(Address("127.0.0.1", 0)) as parent, pytest.raises(ConnectionRefusedError):
        socket.create_connection(parent.getsockname())
