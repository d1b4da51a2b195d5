"""Listening sockets: one for a single process, or one port shared by several workers."""

from __future__ import annotations

import socket

from qimem.config.values import Address
from qimem.kernel.refusal import Refused


def reserve(bind: Address) -> socket.socket:
    """Bind the address exclusively, without listening yet.

    Raises:
        Refused: it is taken, not allowed, or not an address of this machine.
    """
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            bind.host, bind.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise Refused(f"cannot listen on {bind}: {error.strerror}", "choose another --bind") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(where)
    except OSError as error:
        listener.close()
        raise Refused(f"cannot listen on {bind}: {error.strerror}", "choose another --bind") from error
    return listener


def share(listener: socket.socket) -> None:
    """Let workers of this user bind the same port.

    Set only after the exclusive bind: otherwise a second server would join the first one's port
    and silently take half of its connections.
    """
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


def join(host: str, port: int) -> socket.socket:
    """A worker's own socket on the shared port; the kernel spreads connections over all of them."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listener.bind((host, port))
    return listener


def base_url(listener: socket.socket, scheme: str = "http") -> str:
    """`http://host:port` with the real port, and a host that a client on this machine can use."""
    host, port = listener.getsockname()[:2]
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - reading, not binding
    return f"{scheme}://{Address(reachable, port)}"
