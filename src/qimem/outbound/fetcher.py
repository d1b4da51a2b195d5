"""Sends a request to a URL that somebody else chose, without being turned against its own network.

https, and to what the operator lists also http to this machine. The name is resolved once, every address it has is judged,
and the connection goes to an address that was judged (DNS rebinding); certificates are checked against the name. Nothing is
followed, no variable of the environment is heeded, and all of it together takes three seconds at most.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from qimem.kernel.limits import OUTBOUND_RESOLVING_MAX, OUTBOUND_SECONDS
from qimem.outbound.answer import Answer, AnswerReader, OutboundFailed
from qimem.outbound.reach import IpAddress, Reach
from qimem.outbound.target import Target

_READ_BYTES: Final = 16 * 1024
_ADDRESSES_MAX: Final = 3

Resolve = Callable[[str], Sequence[IpAddress]]
"""The addresses of a name; may block, and raises OSError."""


def system_resolver(host: str) -> Sequence[IpAddress]:
    """What the machine's resolver says, in its order of preference.

    Raises:
        OSError: it says nothing.
    """
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [ipaddress.ip_address(str(place[0]).partition("%")[0]) for *_, place in found]


@dataclass(frozen=True, slots=True)
class OutboundRules:
    """What may be reached, and whom to believe.

    Args:
        allow_networks: CIDR networks that may be reached though they are not public.
        allow_plain_http: http to this machine, where `allow_networks` holds its address.
        ca_file: Certificates to trust in place of the system's.
    """

    allow_networks: tuple[str, ...] = ()
    allow_plain_http: bool = False
    ca_file: Path | None = None


class Fetcher:
    """Sends requests.

    Args:
        rules: Of the operator.
        resolve: Asked once for each request.
    """

    def __init__(self, rules: OutboundRules, resolve: Resolve = system_resolver) -> None:
        self._rules = rules
        self._reach = Reach(rules.allow_networks)
        self._resolve = resolve
        self._tls: ssl.SSLContext | None = None
        self._resolving = threading.Semaphore(OUTBOUND_RESOLVING_MAX)

    async def post(self, target: Target, body: bytes, headers: Mapping[str, str]) -> Answer:
        """POST to it.

        Args:
            target: Where.
            body: Content.
            headers: Beside those that every request has.

        Returns:
            An answer of any status but a redirection.

        Raises:
            OutboundFailed: it may not be reached, or does not answer in time with something that can be read.
        """
        try:
            async with asyncio.timeout(OUTBOUND_SECONDS):
                answer = await self._exchange(target, _request(target, body, headers))
        except TimeoutError:
            raise OutboundFailed("no answer in time") from None
        except ssl.SSLCertVerificationError:
            raise OutboundFailed("the certificate is not good for this host") from None
        except ssl.SSLError:
            raise OutboundFailed("TLS fails") from None
        except OSError as error:
            raise OutboundFailed(f"the connection fails: {error.strerror or type(error).__name__}") from None
        if 300 <= answer.status < 400:
            raise OutboundFailed("it redirects, and nothing is followed")
        return answer

    async def _exchange(self, target: Target, request: bytes) -> Answer:
        reader, writer = await self._connect(target, await self._judged(target))
        try:
            writer.write(request)
            await writer.drain()
            answers = AnswerReader()
            while True:
                answer = answers.feed(await reader.read(_READ_BYTES))
                if answer is not None:
                    return answer
        finally:
            # Nothing is waited for: the other side may be anybody.
            writer.transport.abort()

    async def _judged(self, target: Target) -> Sequence[IpAddress]:
        """Where to connect to: all of it may be reached."""
        addresses = await self._addresses(target.host)
        if not addresses:
            raise OutboundFailed("the name has no address")
        # One that may not be reached among others is how a name is made to mean another host the next time.
        if not all(self._reach.admits(address) for address in addresses):
            raise OutboundFailed("its address may not be reached: see outbound.allow_networks")
        if target.scheme != "https":
            local = all(address.is_loopback for address in addresses)
            if not (self._rules.allow_plain_http and local):
                raise OutboundFailed("it is not https")
        return list(dict.fromkeys(addresses))[:_ADDRESSES_MAX]

    async def _connect(
        self, target: Target, addresses: Sequence[IpAddress]
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        tls = await self._context() if target.scheme == "https" else None
        name = target.host if tls is not None else None
        failure: OSError = TimeoutError()
        for address in addresses:
            try:
                async with asyncio.timeout(OUTBOUND_SECONDS / len(addresses)):
                    return await asyncio.open_connection(
                        str(address), target.port, ssl=tls, server_hostname=name, limit=_READ_BYTES
                    )
            except ssl.SSLError:
                raise
            except OSError as error:
                failure = error
        raise failure

    async def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            file = self._rules.ca_file
            # Reading a few hundred certificates takes 20 ms.
            self._tls = await asyncio.to_thread(ssl.create_default_context, cafile=file)
        return self._tls

    async def _addresses(self, host: str) -> Sequence[IpAddress]:
        try:
            return [ipaddress.ip_address(host)]
        except ValueError:
            pass
        if not self._resolving.acquire(blocking=False):
            raise OutboundFailed("too many names are being resolved")
        loop = asyncio.get_running_loop()
        found: asyncio.Future[Sequence[IpAddress]] = loop.create_future()

        def settle(addresses: Sequence[IpAddress]) -> None:
            if not found.done():
                found.set_result(addresses)

        def resolve() -> None:
            try:
                addresses = self._resolve(host)
            except (OSError, UnicodeError):
                addresses = ()
            finally:
                self._resolving.release()
            with contextlib.suppress(RuntimeError):
                # The loop may be closed by now.
                loop.call_soon_threadsafe(settle, addresses)

        # A thread that nobody waits for: resolvers take half a minute to give up, and the process must end.
        threading.Thread(target=resolve, name="resolve", daemon=True).start()
        return await found


def _request(target: Target, body: bytes, headers: Mapping[str, str]) -> bytes:
    if not all(part.isascii() and part.isprintable() for pair in headers.items() for part in pair):
        raise ValueError("a header of visible ASCII characters was expected")
    lines = b"".join(f"{name}: {value}\r\n".encode("ascii") for name, value in headers.items())
    return (
        b"POST %b HTTP/1.1\r\nHost: %b\r\nUser-Agent: qimem\r\nConnection: close\r\n"
        b"Accept-Encoding: identity\r\nContent-Length: %d\r\n%b\r\n%b"
    ) % (target.path.encode("ascii"), target.authority, len(body), lines, body)
