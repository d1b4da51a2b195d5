"""From settings to a serving server: reserve the address, open the installation, run one process or many."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from qimem.config.schema import Settings
from qimem.kernel.hardening import erase_variables, harden, is_setting
from qimem.kernel.refusal import Refused
from qimem.kernel.shared_memory import SharedMemory
from qimem.observability.logging import configure, logger
from qimem.server.directories import in_memory
from qimem.server.notify import InitSystem
from qimem.server.sockets import base_url, reserve, share
from qimem.server.supervisor import Supervisor

# The rest is imported when it is known to be needed: it takes half a second.
if TYPE_CHECKING:
    from qimem.bootstrap.first import Installed
    from qimem.server.installation import Opened


@dataclass(frozen=True, slots=True)
class Serving:
    """A server at the moment it begins to serve.

    Args:
        settings: Those in force, with the data directory in use.
        url: Its real address.
        installed: What was made, when the installation is new.
        admin_url: Real address of the admin listener, if there is one.
    """

    settings: Settings
    url: str
    installed: Installed | None
    admin_url: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What to launch.

    Args:
        announce: Called once when all workers serve, not on the event loop: it may talk to the server.
        throw_away: Keep everything in memory, and no credentials file.
    """

    settings: Settings
    announce: Callable[[Serving], None]
    throw_away: bool = False
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)


def launch(plan: Plan) -> int:
    """Serve until stopped; the exit code of the process.

    Raises:
        Refused: this will not start; the reason says what to change.
    """
    harden()
    # They are read, and the database's password may be among them.
    erase_variables(filter(is_setting, os.environ))
    init_system = InitSystem.adopt(os.environ)
    configure(level=plan.settings.log.level, format=plan.settings.log.format)
    with ExitStack() as stack:
        settings = plan.settings
        listener = stack.enter_context(reserve(settings.server.bind))
        bind = settings.server.admin_bind
        admin = None if bind is None else stack.enter_context(reserve(bind))
        if settings.database.mode == "stateless":
            settings = stack.enter_context(in_memory(settings))
        if settings.server.workers == 1:
            return _run_here(plan, settings, listener, admin, init_system)
        return _run_workers(plan, settings, listener, admin, init_system)


def _run_here(
    plan: Plan,
    settings: Settings,
    listener: socket.socket,
    admin: socket.socket | None,
    init_system: InitSystem,
) -> int:
    from qimem.bootstrap.serving import start  # noqa: PLC0415
    from qimem.server.http import Stop, runner, serve  # noqa: PLC0415

    url = base_url(listener)
    stop = Stop(init_system.stopping)
    beats: list[asyncio.Task[None]] = []
    with runner() as loop:
        stop.listen(loop.get_loop(), signal.SIGTERM, signal.SIGINT)
        opened = loop.run(_open(plan, settings, url))
        running = loop.run(start(settings, opened.root_key, url, throw_away=plan.throw_away))

        async def listening() -> None:
            serving = Serving(settings, url, opened.installed, None if admin is None else base_url(admin))
            await asyncio.to_thread(plan.announce, serving)
            await asyncio.to_thread(init_system.ready, url)
            beats.append(asyncio.create_task(init_system.beats()))

        loop.run(serve(running, settings, listener, stop=stop, listening=listening, admin=admin))
    logger().info("stopped", pid=os.getpid())
    return 0


def _run_workers(
    plan: Plan,
    settings: Settings,
    listener: socket.socket,
    admin: socket.socket | None,
    init_system: InitSystem,
) -> int:
    from qimem.server import worker  # noqa: PLC0415
    from qimem.server.order import Order  # noqa: PLC0415

    url = base_url(listener)
    shared = _shared_memory()
    with Supervisor(settings.server.workers, inherited=shared, init_system=init_system) as supervisor:
        _import_all(settings)
        supervisor.start(worker.main)
        opened = asyncio.run(_open(plan, settings, url))
        host, port = _shared(listener)
        order = Order(
            settings, opened.root_key, host, port, url, shared, None if admin is None else _shared(admin)
        )
        serving = Serving(settings, url, opened.installed, None if admin is None else base_url(admin))

        def serves() -> None:
            plan.announce(serving)
            init_system.ready(url)

        return supervisor.run(order, serves)


def _shared(listener: socket.socket) -> tuple[str, int]:
    """Where workers join in."""
    share(listener)
    host, port = listener.getsockname()[:2]
    return host, port


def _shared_memory() -> SharedMemory:
    from qimem.coordination.window_table import shared_windows  # noqa: PLC0415
    from qimem.observability.metrics import shared_metrics  # noqa: PLC0415

    try:
        return SharedMemory(shared_windows(), shared_metrics())
    except OSError as error:
        raise Refused(
            f"no memory that workers share: {error.strerror}", "give the server more memory"
        ) from error


async def _open(plan: Plan, settings: Settings, url: str) -> Opened:
    from qimem.bootstrap.first import AdminChoice  # noqa: PLC0415
    from qimem.server.installation import initialise_in_memory, open_or_initialise  # noqa: PLC0415

    if plan.throw_away:
        return await initialise_in_memory(settings, AdminChoice())
    return await open_or_initialise(settings, AdminChoice(), plan.environ, url=url)


def _import_all(settings: Settings) -> None:
    """What a worker imports until it serves; those that are forked after this have it."""
    import qimem.bootstrap.serving  # noqa: PLC0415
    import qimem.server.http  # noqa: PLC0415
    import qimem.server.installation  # noqa: PLC0415
    import qimem.web.kit.protocol  # noqa: PLC0415

    if settings.database.url:
        import qimem.storage.postgres  # noqa: F401, PLC0415
