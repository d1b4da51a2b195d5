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
from qimem.server.tls import SharedMaterial, load, renewal_from_files, secured, secures_admin, use

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
    if not plan.throw_away:
        # Unheeded until it is listened for, whoever sends it.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # They are read, and the database's password may be among them.
    erase_variables(filter(is_setting, os.environ))
    init_system = InitSystem.adopt(os.environ)
    configure(level=plan.settings.log.level, format=plan.settings.log.format)
    with ExitStack() as stack:
        settings = plan.settings
        bound = _Bound.reserve(settings, stack)
        if settings.database.mode == "stateless":
            settings = stack.enter_context(in_memory(settings))
        if settings.server.workers == 1:
            return _run_here(plan, settings, bound, init_system)
        return _run_workers(plan, settings, bound, init_system)


@dataclass(frozen=True, slots=True)
class _Bound:
    """The sockets, and the addresses that clients reach them at."""

    listener: socket.socket
    url: str
    admin: socket.socket | None
    admin_url: str | None

    @classmethod
    def reserve(cls, settings: Settings, stack: ExitStack) -> _Bound:
        listener = stack.enter_context(reserve(settings.server.bind))
        url = base_url(listener, "http" if settings.tls.cert is None else "https")
        if settings.server.admin_bind is None:
            return cls(listener, url, None, None)
        admin = stack.enter_context(reserve(settings.server.admin_bind))
        return cls(listener, url, admin, base_url(admin, "https" if secures_admin(settings) else "http"))


def _run_here(plan: Plan, settings: Settings, bound: _Bound, init_system: InitSystem) -> int:
    from qimem.bootstrap.serving import start  # noqa: PLC0415
    from qimem.server.http import Listeners, Stop, runner, serve  # noqa: PLC0415

    stop = Stop()
    stop.tell(init_system.stopping)
    beats: list[asyncio.Task[None]] = []
    with runner() as loop:
        stop.listen(loop.get_loop(), signal.SIGTERM, signal.SIGINT)
        if not plan.throw_away:
            renew = renewal_from_files(settings.tls, lambda fresh: use(fresh, tls, settings.tls))
            # In a thread: the disk that the files are on may hang.
            loop.get_loop().add_signal_handler(signal.SIGHUP, loop.get_loop().run_in_executor, None, renew)
        # Only now: what becomes of the files from here on, a signal tells.
        tls = None if settings.tls.cert is None else secured(load(settings.tls), settings.tls)
        opened = loop.run(_open(plan, settings, bound.url))
        running = loop.run(start(settings, opened.root_key, bound.url, throw_away=plan.throw_away))

        async def listening() -> None:
            serving = Serving(settings, bound.url, opened.installed, bound.admin_url)
            await asyncio.to_thread(plan.announce, serving)
            await asyncio.to_thread(init_system.ready, bound.url)
            beats.append(asyncio.create_task(init_system.beats()))

        admin_tls = tls if secures_admin(settings) else None
        listeners = Listeners(bound.listener, tls, bound.admin, admin_tls)
        loop.run(serve(running, listeners, stop=stop, listening=listening))
    logger().info("stopped", pid=os.getpid())
    return 0


def _run_workers(plan: Plan, settings: Settings, bound: _Bound, init_system: InitSystem) -> int:
    from qimem.server import worker  # noqa: PLC0415
    from qimem.server.order import Order  # noqa: PLC0415

    shared, shown = _shared_memory()
    inherited = (*shared, shown.descriptor)
    with Supervisor(settings.server.workers, inherited=inherited, init_system=init_system) as supervisor:
        if settings.tls.cert is not None:
            shown.put(load(settings.tls))
        _import_all(settings)
        supervisor.start(worker.main)
        opened = asyncio.run(_open(plan, settings, bound.url))
        host, port = _shared(bound.listener)
        order = Order(
            settings,
            opened.root_key,
            host,
            port,
            bound.url,
            shared,
            None if bound.admin is None else _shared(bound.admin),
            None if settings.tls.cert is None else shown.descriptor,
        )
        serving = Serving(settings, bound.url, opened.installed, bound.admin_url)

        def serves() -> None:
            plan.announce(serving)
            init_system.ready(bound.url)

        return supervisor.run(order, serves, renewal_from_files(settings.tls, shown.put))


def _shared(listener: socket.socket) -> tuple[str, int]:
    """Where workers join in."""
    share(listener)
    host, port = listener.getsockname()[:2]
    return host, port


def _shared_memory() -> tuple[SharedMemory, SharedMaterial]:
    from qimem.coordination.window_table import shared_windows  # noqa: PLC0415
    from qimem.observability.metrics import shared_metrics  # noqa: PLC0415

    try:
        return SharedMemory(shared_windows(), shared_metrics()), SharedMaterial.empty()
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
