"""`qimem serve` under a service manager: a real process, and the socket that systemd would listen on."""

from __future__ import annotations

import queue
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.processes import eventually
from tests.support.server import Server

SECONDS = 30.0


class Manager:
    """What systemd hears, and from whom; read at once, for a full queue takes no more."""

    def __init__(self, receiver: socket.socket) -> None:
        self._heard: queue.Queue[tuple[str, int]] = queue.Queue()
        self._receiver = receiver
        self._listening = threading.Thread(target=self._listen)
        self._listening.start()

    def next(self) -> tuple[str, int]:
        """The next message, and the process that sent it."""
        return self._heard.get(timeout=SECONDS)

    def until(self, start: str) -> tuple[str, int]:
        """The next message that begins so; beats before it are passed over, and nothing else."""
        while True:
            message, pid = self.next()
            if message.startswith(start):
                return message, pid
            assert message == "WATCHDOG=1", message

    def close(self) -> None:
        self._receiver.shutdown(socket.SHUT_RD)
        self._listening.join()

    def _listen(self) -> None:
        room = socket.CMSG_SPACE(struct.calcsize("3i"))
        while True:
            message, control, _, _ = self._receiver.recvmsg(4096, room)
            if not message:
                return
            ((_, _, credentials),) = control
            self._heard.put((message.decode(), struct.unpack("3i", credentials)[0]))


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        receiver.bind(str(tmp_path / "notify"))
        made = Manager(receiver)
        yield made
        made.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(
        tmp_path, environment={"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
    )
    yield made
    made.stop()


@pytest.mark.parametrize("workers", [1, 2])
def test_the_manager_hears_of_the_whole_life_from_the_main_process(
    server: Server, manager: Manager, workers: int
) -> None:
    server.workers = workers
    server.start()
    assert server.process is not None
    main = server.process.pid
    # And no beat before it.
    assert manager.next() == (f"READY=1\nSTATUS=serving {server.url}", main)
    for _ in range(3):
        assert manager.next() == ("WATCHDOG=1", main)
    assert server.stop() == 0
    assert manager.until("STOPPING=1") == ("STOPPING=1\nSTATUS=draining", main)


def test_a_worker_that_is_started_later_does_not_know_the_manager(server: Server, manager: Manager) -> None:
    server.workers = 2
    server.start()
    assert server.process is not None
    main = psutil.Process(server.process.pid)
    first = main.children()
    first[0].kill()
    eventually(lambda: any(child not in first for child in main.children()))
    (successor,) = [child for child in main.children() if child not in first]
    eventually(lambda: len(successor.cmdline()) > 3)
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC"} & successor.environ().keys()
    assert "PATH" in successor.environ()


def test_a_manager_that_is_gone_stops_no_server(server: Server) -> None:
    server.start()
    assert server.stop() == 0
