"""A server for one load: keeps what it received and answers what it is told to."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Callable
from typing import Any, Self

Answer = tuple[int, bytes]


class Recorder:
    """Listens on loopback; stands where the bench has a `Server`.

    Args:
        answer: Request body → status and body; called under a lock.
    """

    name = "recorder"

    def __init__(self, answer: Callable[[bytes], Answer]) -> None:
        self.received: list[bytes] = []
        self.processes = [{1: 0.0}, {1: 0.5}]
        self._answer = answer
        self._lock = threading.Lock()
        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cpu(self) -> dict[int, float]:
        return self.processes.pop(0) if self.processes else {}

    cores = None

    def last_words(self) -> str:
        return "its last words"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _take(self, head: bytes, body: bytes) -> bytes:
        with self._lock:
            self.received.append(head + body)
            status, content = self._answer(body)
        return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(content), content)

    def _handler(self) -> Any:
        take = self._take

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                try:
                    while True:
                        head = b""
                        while not head.endswith(b"\r\n\r\n"):
                            line = self.rfile.readline()
                            if not line:
                                return
                            head += line
                        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
                        self.wfile.write(take(head, self.rfile.read(length)))
                except OSError:
                    # wrk hangs up in the middle of a request when its time is over.
                    return

        return Handler
