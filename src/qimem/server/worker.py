"""One worker process: takes its order from the pipe, serves, and shows that its loop turns.

    python -m qimem.server.worker <descriptor to read the order> <descriptor to report on>

Reports are single bytes: `r` once it serves, `h` every second after that, written by the event
loop itself, so that a loop which hangs goes silent. A refused start is reported as `!` and JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import sys
from typing import TYPE_CHECKING

from qimem.kernel.hardening import die_with, harden

if TYPE_CHECKING:
    from qimem.config.schema import Settings
    from qimem.server.http import Running, Start
    from qimem.server.order import Order
    from qimem.web.kit.tls import Tls

READY = b"r"
BEAT = b"h"
REFUSAL = b"!"
EXIT_REFUSED = 78


def main(arguments: list[str], start: Start | None = None) -> int:
    """Run one worker; the exit code of the process.

    Args:
        arguments: The two descriptors.
        start: Starts the application; the product's by default.
    """
    harden()
    parent = os.getppid()
    die_with(parent)
    # Ctrl-C and the end of a terminal reach the whole process group; only the supervisor answers them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    orders, reports = (int(argument) for argument in arguments)
    if _abandoned(reports):
        # It died before this process could learn who it was.
        return 1

    from qimem.kernel.refusal import Refused  # noqa: PLC0415 - after the hardening: before it, nothing is secret
    from qimem.observability.logging import configure  # noqa: PLC0415
    from qimem.server.http import runner  # noqa: PLC0415
    from qimem.server.order import Order  # noqa: PLC0415

    start = start or _product()
    # All that is imported is imported by now: the order comes when the installation is open.
    try:
        order = Order.receive(orders)
    except EOFError:
        return 1
    os.close(orders)
    configure(level=order.settings.log.level, format=order.settings.log.format)
    try:
        with runner() as loop:
            loop.run(_work(order, reports, start))
    except Refused as refused:
        os.write(reports, REFUSAL + json.dumps([refused.message, refused.hint]).encode())
        return EXIT_REFUSED
    return 0


def _product() -> Start:
    from qimem.bootstrap.serving import start  # noqa: PLC0415

    return start


def _abandoned(reports: int) -> bool:
    """Whether nobody reads the reports any more."""
    poll = select.poll()
    poll.register(reports, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


async def _work(order: Order, reports: int, start: Start) -> None:
    from qimem.server.http import Listeners, Stop, serve  # noqa: PLC0415
    from qimem.server.sockets import join  # noqa: PLC0415
    from qimem.server.tls import secures_admin  # noqa: PLC0415

    stop = Stop()
    stop.listen(asyncio.get_running_loop(), signal.SIGTERM)
    tls = None if order.tls is None else _secured(order.settings, order.tls)
    running: Running = await start(order.settings, order.root_key, order.url, shared=order.shared)
    beats: list[asyncio.Task[None]] = []

    async def listening() -> None:
        os.write(reports, READY)
        beats.append(asyncio.create_task(_beat(reports)))

    os.set_blocking(reports, False)
    admin = None if order.admin is None else join(*order.admin)
    admin_tls = tls if secures_admin(order.settings) else None
    listeners = Listeners(join(order.host, order.port), tls, admin, admin_tls)
    await serve(running, listeners, stop=stop, listening=listening)
    for beat in beats:
        beat.cancel()


def _secured(settings: Settings, descriptor: int) -> Tls:
    """What all workers show, and from the next SIGHUP on what is in their memory then."""
    from qimem.server.tls import Renewal, SharedMaterial, secured, use  # noqa: PLC0415

    shared = SharedMaterial(descriptor)
    tls = secured(shared.taken(), settings.tls)
    renew = Renewal(settings.tls, shared.taken, lambda fresh: use(fresh, tls, settings.tls))
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, renew)
    return tls


async def _beat(reports: int) -> None:
    from qimem.kernel.limits import HEARTBEAT_SECONDS  # noqa: PLC0415

    while True:
        try:
            # A full pipe means that the supervisor sleeps, which is not this worker's fault.
            with contextlib.suppress(BlockingIOError):
                os.write(reports, BEAT)
        except BrokenPipeError:
            # Where no signal comes at the parent's death, its closed pipe tells.
            os._exit(1)
        await asyncio.sleep(HEARTBEAT_SECONDS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
