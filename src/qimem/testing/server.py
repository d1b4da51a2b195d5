"""Serves on a thread of this process, on a free port of the loopback address."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

from qimem.bootstrap.first import AdminChoice, Installed
from qimem.bootstrap.serving import start
from qimem.client import Client, Credentials
from qimem.config.schema import Settings
from qimem.config.values import Address
from qimem.kernel.clock import MovableClock
from qimem.kernel.limits import DRAIN_SECONDS, WORKER_START_SECONDS
from qimem.kernel.secret import SecretText
from qimem.observability.logging import configure_guest
from qimem.server.directories import in_memory
from qimem.server.http import Listeners, Stop, runner
from qimem.server.http import serve as serve_until
from qimem.server.installation import initialise_in_memory
from qimem.server.sockets import base_url, reserve
from qimem.wire.clients import CreateClientRequest
from qimem.wire.realms import CreateRealmRequest
from qimem.wire.users import CreateUserRequest, User

PASSWORD: Final = "password"  # noqa: S105 - of users of a throw-away server


@dataclass(frozen=True, slots=True)
class Tenant:
    """A realm of its own, and who runs it.

    Args:
        url: Of the server.
        realm_id: Of the realm.
        client_id: A client with role `realm-admin`.
        client_secret: Its secret.
        admin: That client, signed in.
    """

    url: str
    realm_id: str
    client_id: str
    client_secret: str
    admin: Client

    def user(self, username: str, password: str = PASSWORD, roles: Sequence[str] = ()) -> User:
        """Add a user. Any password will do."""
        request = CreateUserRequest(username=username, password=password, roles=list(roles))
        return self.admin.users.create(request)

    def signed_in(self, username: str, password: str = PASSWORD) -> Client:
        """A user of the realm, through the tenant's client."""
        credentials = Credentials(
            self.client_id, SecretText(self.client_secret), self.realm_id, username, SecretText(password)
        )
        return Client(self.url, credentials)


class LocalServer:
    """A running server.

    Args:
        url: Where it serves.
        installed: What its installation handed out.
        clock: Its time: `clock.advance(900)` has access tokens expire.
    """

    def __init__(self, url: str, installed: Installed, clock: MovableClock) -> None:
        self.url = url
        self.clock = clock
        self._numbers = itertools.count(1)
        self._closing = ExitStack()
        who = Credentials(
            installed.client_id,
            installed.client_secret,
            installed.realm_id,
            installed.username,
            installed.password,
        )
        self.operator = self._kept(Client(url, who))

    def tenant(self) -> Tenant:
        """A new realm."""
        realm_id = f"tenant-{next(self._numbers)}"
        self.operator.realms.create(CreateRealmRequest(id=realm_id, name=realm_id))
        made = self.operator.clients.create(
            CreateClientRequest(realm_id=realm_id, redirect_uris=[], roles=["realm-admin"], tier="unlimited")
        )
        secret = made.client_secret or ""
        admin = self._kept(Client.of_application(self.url, made.client_id, secret, realm_id))
        return Tenant(self.url, realm_id, made.client_id, secret, admin)

    def close(self) -> None:
        """Close the clients that were made here."""
        self._closing.close()

    def _kept(self, client: Client) -> Client:
        return self._closing.enter_context(client)


@contextmanager
def serve() -> Iterator[LocalServer]:
    """A server until the end of the block.

    Raises:
        Refused: it does not start here.
    """
    configure_guest()
    clock, stop = MovableClock(), Stop()
    ready: Future[Installed] = Future()
    with ExitStack() as stack:
        settings = stack.enter_context(in_memory(Settings()))
        listener = stack.enter_context(reserve(Address("127.0.0.1", 0)))
        url = base_url(listener)

        async def work() -> None:
            opened = await initialise_in_memory(settings, AdminChoice())
            assert opened.installed is not None
            installed = opened.installed
            running = await start(settings, opened.root_key, url, clock, throw_away=True)

            async def listening() -> None:
                ready.set_result(installed)

            await serve_until(running, Listeners(listener), stop=stop, listening=listening)

        def run() -> None:
            try:
                with runner() as loop:
                    loop.run(work())
            except BaseException as error:  # noqa: BLE001 - told to who waits
                if not ready.done():
                    ready.set_exception(error)

        thread = threading.Thread(target=run, name="qimem", daemon=True)
        thread.start()
        server = LocalServer(url, ready.result(WORKER_START_SECONDS), clock)
        try:
            yield server
        finally:
            server.close()
            stop.ask()
            thread.join(DRAIN_SECONDS)
