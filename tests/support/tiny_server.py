"""Runs the supervisor with tiny workers: `tiny_server.py <workers> <seconds of silence> <origin>`.

The first workers are forked and those that replace them are not, as in the product.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace

from qimem.config.schema import Settings, WebSettings
from qimem.config.values import Address
from qimem.kernel.hardening import harden
from qimem.kernel.secret import SecretBytes
from qimem.observability.logging import configure
from qimem.server.order import Order
from qimem.server.sockets import base_url, reserve, share
from qimem.server.supervisor import Supervisor
from tests.support import tiny_worker


def hang() -> bool:
    """What is done at SIGHUP where a disk hangs."""
    time.sleep(600)
    return True


def run(workers: int, silence: float, origin: str) -> int:
    harden()
    configure(level="info", format="json")
    key = SecretBytes(bytes.fromhex(os.read(0, 64).decode()))
    settings = replace(Settings(), web=WebSettings(cors_origins=(origin,)))
    with reserve(Address("127.0.0.1", 0)) as listener:
        share(listener)
        host, port = listener.getsockname()
        url = base_url(listener)
        order = Order(settings, key, host, port, url)
        command = (sys.executable, "-m", "tests.support.tiny_worker")
        say = lambda: print(f"ready {url}", flush=True)  # noqa: E731
        with Supervisor(workers, command=command, silence_seconds=silence) as supervisor:
            supervisor.start(tiny_worker.work)
            return supervisor.run(order, say, hang)


if __name__ == "__main__":
    sys.exit(run(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]))
