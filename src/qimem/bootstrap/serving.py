"""Opens an installation and serves it."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, NamedTuple

from qimem import __version__
from qimem.audit.sinks import Sink
from qimem.bootstrap.audit import AuditLog
from qimem.bootstrap.core import KEYS, SIGNING_KEYS, Core
from qimem.bootstrap.database import location
from qimem.bootstrap.root_keys import look_in_custody, own_root_keys
from qimem.bootstrap.sinks import checkpoint_sinks
from qimem.bootstrap.watch import WorkerWatch
from qimem.config.schema import Settings
from qimem.coordination.rate_limits import Counter, RateLimits
from qimem.coordination.window_table import WindowTable
from qimem.crypto.randomness import token_text
from qimem.jobs.runner import JobRunner, Task
from qimem.jobs.tasks import ExpiredSweep, RemainsSweep
from qimem.kernel.clock import Clock, SystemClock
from qimem.kernel.ids import SYSTEM_REALM
from qimem.kernel.limits import SIGNING_KEYS_LOOK_SECONDS
from qimem.kernel.metering import TIERS, UNLIMITED_TIER
from qimem.kernel.refusal import Refused
from qimem.kernel.secret import SecretBytes
from qimem.kernel.shared_memory import SharedMemory
from qimem.kms.cipher import CipherService
from qimem.kms.instance import Instance
from qimem.kms.signing_keys import DueSigningKeys
from qimem.observability.logging import report_failed_job
from qimem.observability.metrics import CHECKPOINT_FAILURES, STRAYS, Metrics
from qimem.storage.database import OpenDatabase
from qimem.storage.repositories.instance import InstanceRepository
from qimem.storage.repositories.jobs import ExpiredRowsRepository, JobRepository
from qimem.storage.repositories.realm_remains import RealmRemainsRepository
from qimem.web import system
from qimem.web.admin import AdminApp
from qimem.web.api import audit, auth, authz, clients, me, realms, roles, security, users
from qimem.web.app import Around, create_app
from qimem.web.kit.forwarded import Peers
from qimem.web.oidc import jwks

_log = logging.getLogger(__name__)

_SWEEP_SECONDS = 600
_BUCKETS_LABEL = b"qimem rate limit buckets v1\0"
_SIGNING_KEYS_TASK = "signing-keys"
_INSTANCE = InstanceRepository()

ENDPOINTS = system.documented((
    *system.ENDPOINTS, *security.ENDPOINTS, *realms.ENDPOINTS, *roles.ENDPOINTS, *clients.ENDPOINTS,
    *users.ENDPOINTS, *me.ENDPOINTS, *auth.ENDPOINTS, *authz.ENDPOINTS, *audit.ENDPOINTS, *jwks.ENDPOINTS,
))  # fmt: skip
"""Every operation of the HTTP API."""


class Served(NamedTuple):
    """What the server is given: two ASGI applications, and how to tell them that it ends."""

    app: Any
    admin_app: Any
    drain: Callable[[], None]


class Running:
    """A started installation: the ASGI application, and how to end it."""

    def __init__(
        self,
        served: Served,
        core: Core,
        cipher: CipherService,
        jobs: JobRunner,
        closing: Sequence[Callable[[], Awaitable[None]]],
    ) -> None:
        self.app = served.app
        self.admin_app = served.admin_app
        self.drain = served.drain
        self._core = core
        self._cipher = cipher
        self._jobs = jobs
        self._closing = closing

    async def close(self) -> None:
        """Drain: stop background work, return unused message leases, sign the log, close the database."""
        async with AsyncExitStack() as stack:
            # Run from the last to the first; what fails keeps none of the others from running.
            stack.callback(self._core.keyring.close)
            stack.push_async_callback(self._core.database.close)
            stack.callback(self._core.lane.close)
            for close in self._closing:
                stack.push_async_callback(close)
            stack.push_async_callback(self._cipher.give_back_leases)
            await self._jobs.stop()


async def start(
    settings: Settings,
    root_key: SecretBytes,
    address: str,
    clock: Clock | None = None,
    *,
    shared: SharedMemory | None = None,
    throw_away: bool = False,
) -> Running:
    """Open the installation and build its services.

    Args:
        settings: Where the data is, and what to offer.
        root_key: Taken over; wiped when the installation is closed.
        address: `http://host:port` as bound; becomes the external URL at the first start without one.
        clock: By default the machine's.
        shared: Memory of all workers; None where this process is the only one.
        throw_away: A server for tests, of which nothing is kept.

    Raises:
        Refused: no installation, another root key, another external URL than the stored one, an audit log
            that cannot be written, or a secret file that cannot be used.
    """
    sinks = checkpoint_sinks(settings)
    database = location(settings).open()
    try:
        instance, root_keys = await own_root_keys(database, root_key, look_in_custody(settings))
        external_url = await _external_url(settings, database, instance, address)
        clock = clock or SystemClock()
        core = Core(database, root_keys, clock, external_url, throw_away=throw_away)
        log = await AuditLog.open(settings, core, instance)
    except BaseException:
        await database.close()
        raise
    cipher = CipherService(database, KEYS, core.keyring)
    services = core.services(cipher, log.intents, log.events, lambda: log.recorder.writable)
    counter = await _counter(settings, instance, core, shared)
    metrics = Metrics([endpoint.name for endpoint in ENDPOINTS], None if shared is None else shared.metrics)
    limits = _limits(settings, counter, throw_away=throw_away)
    origins = settings.web.cors_origins
    peers = Peers(settings.server.trusted_proxies, partial(metrics.count, STRAYS), clock.monotonic_seconds)
    around = Around(core.bearer, log.recorder, limits, metrics, peers)
    app = create_app(ENDPOINTS, services, around, cors_origins=origins)
    watching = _watching(core, log, sinks, metrics)
    jobs = _begun(core, database, log)
    # From the last to the first: what the log signs at its end is delivered as well.
    closing = (*watching, log.close, counter.close)
    admin_app = AdminApp(partial(_exposed, metrics, clock), services.readiness)
    return Running(Served(app, admin_app, services.readiness.drain), core, cipher, jobs, closing)


def _watching(
    core: Core, log: AuditLog, sinks: Sequence[Sink], metrics: Metrics
) -> tuple[Callable[[], Awaitable[None]], ...]:
    """Tells how this worker is, and brings checkpoints elsewhere; how to end both."""
    delivery = log.delivery(sinks, partial(metrics.count, CHECKPOINT_FAILURES))
    delivery.start()
    # All workers share the disk; one of them says so.
    space = log.space(_log.warning if metrics.first else _log.debug)
    watch = WorkerWatch(metrics, log.trail, core.lane, space, delivery, core.clock)
    watch.start()
    return watch.stop, delivery.close


def _limits(settings: Settings, counter: Counter, *, throw_away: bool) -> RateLimits:
    addresses = TIERS[UNLIMITED_TIER] if throw_away else settings.limits.address
    return RateLimits(counter, settings.limits.tiers, addresses)


def _exposed(metrics: Metrics, clock: Clock) -> bytes:
    # Loaded when somebody asks: most servers are never asked.
    from qimem.observability.exposition import exposed  # noqa: PLC0415

    return exposed(metrics, __version__, clock.monotonic_seconds())


async def _counter(
    settings: Settings, instance: Instance, core: Core, shared: SharedMemory | None
) -> Counter:
    clock = core.clock
    table = WindowTable(clock, None if shared is None else shared.windows, settings.server.workers)
    if settings.limits.valkey_url is None:
        return table
    # The driver takes a tenth of a second of the start of a server that has no use for it.
    from qimem.coordination.valkey_counter import ValkeyCounter  # noqa: PLC0415

    url, nodes = settings.limits.valkey_url, settings.limits.nodes
    # The same on all nodes, whichever root key they were started with; who reads the keys there must not learn
    # addresses by trying all of them.
    key = await core.internal.tag(SYSTEM_REALM, _BUCKETS_LABEL + instance.instance_id.bytes)
    return ValkeyCounter(url, instance.instance_id.hex, key, table, nodes, clock)


def _begun(core: Core, database: OpenDatabase, log: AuditLog) -> JobRunner:
    """What runs in the background, started."""
    holder = f"{os.uname().nodename}:{os.getpid()}:{token_text(6)}"
    jobs = JobRunner(database, JobRepository(), core.clock, holder, report_failed_job)
    sweep = ExpiredSweep(database, ExpiredRowsRepository(), core.clock)
    due = DueSigningKeys(
        database,
        SIGNING_KEYS,
        core.signing_keys(log.intents),
        core.clock,
        lambda draft: log.recorder.note(draft, draft.outcome),
        lambda error: report_failed_job(_SIGNING_KEYS_TASK, error),
    )
    remains = RemainsSweep(database, RealmRemainsRepository(), core.clock)
    jobs.start(
        [
            Task("realm-remains", _SWEEP_SECONDS, remains.run),
            Task("expired-rows", _SWEEP_SECONDS, sweep.run),
            Task(_SIGNING_KEYS_TASK, SIGNING_KEYS_LOOK_SECONDS, due.run),
        ]
    )
    return jobs


async def _external_url(settings: Settings, database: OpenDatabase, instance: Instance, address: str) -> str:
    configured, stored = settings.server.external_url, instance.external_url
    if stored is None:
        chosen = configured or address
        await database.write(lambda tx: _INSTANCE.set_external_url(tx, chosen))
        # Another worker may have been first; what is stored counts.
        again = await database.read(_INSTANCE.find)
        stored = again.external_url if again is not None else None
    if stored is None or (configured is not None and configured != stored):
        raise Refused(
            f"external_url is {stored}: tokens and clients already carry it",
            "remove the option or set it to the stored value",
        )
    return stored
