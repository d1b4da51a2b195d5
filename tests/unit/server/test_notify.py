"""Messages to the service manager, over real datagram sockets."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from qimem.server.notify import InitSystem


@contextmanager
def listening(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(address)
        receiver.setblocking(False)
        yield receiver


def heard(receiver: socket.socket) -> list[str]:
    found = []
    while True:
        try:
            found.append(receiver.recv(4096).decode())
        except BlockingIOError:
            return found


def test_it_is_told_at_a_path(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with listening(address) as receiver:
        manager = InitSystem.adopt({"NOTIFY_SOCKET": address})
        manager.ready("http://127.0.0.1:8080")
        manager.stopping()
        assert heard(receiver) == [
            "READY=1\nSTATUS=serving http://127.0.0.1:8080",
            "STOPPING=1\nSTATUS=draining",
        ]


def test_it_is_told_at_an_abstract_name() -> None:
    name = f"qimem-{uuid.uuid4()}"
    with listening(f"\0{name}") as receiver:
        InitSystem.adopt({"NOTIFY_SOCKET": f"@{name}"}).stopping()
        assert heard(receiver) == ["STOPPING=1\nSTATUS=draining"]


def test_what_named_it_is_taken_out_of_the_environment() -> None:
    environ = {"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "HOME": "/"}
    InitSystem.adopt(environ)
    assert environ == {"HOME": "/"}


@pytest.mark.parametrize("address", ["", "notify", "vsock:2:1234", "./notify"])
def test_what_is_no_address_is_nobody(address: str) -> None:
    assert InitSystem.adopt({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "10"}) == InitSystem()


def test_without_one_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", lambda *_: pytest.fail("a socket was opened"))
    manager = InitSystem.adopt({})
    manager.ready("http://127.0.0.1:1")
    manager.beat()
    manager.stopping()


def test_one_that_is_gone_harms_nothing(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    manager = InitSystem.adopt({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1"})
    manager.ready("http://127.0.0.1:1")
    with listening(address):
        pass
    manager.beat()
    manager.stopping()


def test_a_name_that_is_too_long_for_a_socket_harms_nothing() -> None:
    InitSystem.adopt({"NOTIFY_SOCKET": "/" + "x" * 200}).stopping()


def test_without_a_descriptor_left_beats_go_on_once_there_is_one(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def flooded(manager: InitSystem) -> None:
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        beats = asyncio.create_task(manager.beats())
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, most))
            await asyncio.sleep(0.05)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        assert heard(receiver) == ["READY=1\nSTATUS=serving http://x"]
        await asyncio.sleep(0.05)
        beats.cancel()

    with listening(address) as receiver:
        manager = InitSystem(address, 0.01)
        manager.ready("http://x")
        asyncio.run(flooded(manager))
        assert "WATCHDOG=1" in heard(receiver)


def test_one_that_does_not_read_holds_nobody_up(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with listening(address) as receiver:
        manager = InitSystem.adopt({"NOTIFY_SOCKET": address})
        # The system queues some ten messages for who does not read.
        for _ in range(2_000):
            manager.stopping()
        assert 0 < len(heard(receiver)) < 2_000


def test_that_it_serves_is_told_to_one_that_is_slow_to_read(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with listening(address) as receiver:
        manager = InitSystem.adopt({"NOTIFY_SOCKET": address})
        for _ in range(2_000):
            manager.stopping()
        telling = threading.Thread(target=manager.ready, args=("http://127.0.0.1:1",))
        telling.start()
        telling.join(0.2)
        found = []
        while telling.is_alive():
            found += heard(receiver)
        telling.join()
        assert "READY=1\nSTATUS=serving http://127.0.0.1:1" in found + heard(receiver)


def test_no_socket_is_left_open(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with listening(address):
        before = os.listdir("/proc/self/fd")
        InitSystem.adopt({"NOTIFY_SOCKET": address}).stopping()
        assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize(
    ("microseconds", "pid", "seconds"),
    [
        ("30000000", "", 15.0),
        ("30000000", "ours", 15.0),
        ("30000000", "1", 0.0),
        ("", "", 0.0),
        ("0", "", 0.0),
        ("-1", "", 0.0),
        ("٣", "", 0.0),
        ("soon", "", 0.0),
    ],
)
def test_the_watchdog_is_told_twice_in_its_time(microseconds: str, pid: str, seconds: float) -> None:
    named = str(os.getpid()) if pid == "ours" else pid
    environ = {"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": microseconds, "WATCHDOG_PID": named}
    assert InitSystem.adopt(environ).beat_seconds == seconds


def test_a_beat_is_sent_when_it_is_due_and_not_before(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with listening(address) as receiver:
        manager = InitSystem.adopt({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "3600000000"})
        manager.beat()
        assert heard(receiver) == []
        manager.ready("http://127.0.0.1:1")
        manager.beat()
        manager.beat()
        assert heard(receiver)[1:] == ["WATCHDOG=1"]


def test_it_beats_for_as_long_as_the_loop_turns(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")

    async def some_time(manager: InitSystem) -> None:
        manager.ready("http://127.0.0.1:1")
        beating = asyncio.create_task(manager.beats())
        await asyncio.sleep(0.2)
        beating.cancel()

    with listening(address) as receiver:
        asyncio.run(some_time(InitSystem.adopt({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "40000"})))
        assert len(heard(receiver)) >= 3


def test_who_asks_for_no_beat_costs_no_task() -> None:
    asyncio.run(asyncio.wait_for(InitSystem("/run/notify").beats(), 5))
