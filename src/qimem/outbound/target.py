"""A URL that requests go to, in the one spelling that leaves no doubt which host it means."""

from __future__ import annotations

import ipaddress
import re
from typing import Final, NamedTuple
from urllib.parse import urlsplit

_LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_NAME: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_NUMBER: Final = re.compile(r"(?:0[xX][0-9A-Fa-f]*|[0-9]+)")
_PATH: Final = re.compile(r"/[!-~]*")
_BRACKETED: Final = re.compile(r"\[[0-9A-Fa-f:.]+\](?::[0-9]+)?")
_URL_CHARS_MAX: Final = 2_048
_PORTS: Final = {"https": 443, "http": 80}


class Target(NamedTuple):
    """Where a request goes.

    Args:
        host: A name, or an IP address without brackets.
        path: With the query.
    """

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> bytes:
        """Value of the header `Host`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}").encode()


def parse_target(url: str) -> Target:
    """Read an https or http URL without user, password and fragment.

    Raises:
        ValueError: it is none. The reason does not repeat it.
    """
    if len(url) > _URL_CHARS_MAX or not url.isascii() or any(char <= " " or char in "\\\x7f" for char in url):
        raise ValueError("expected a URL of visible ASCII characters")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("expected a URL") from None
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ValueError("expected an absolute https URL")
    if "@" in parts.netloc or "#" in url:
        raise ValueError("expected a URL without user, password and fragment")
    if port == 0:
        raise ValueError("expected a port from 1 to 65535")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not _PATH.fullmatch(path):
        raise ValueError("expected a path")
    return Target(parts.scheme, _host(parts.hostname, parts.netloc), port or _PORTS[parts.scheme], path)


def _host(host: str, netloc: str) -> str:
    if netloc.startswith("["):
        try:
            # `urlsplit` takes `[::1].example` for ::1, other programs for something else.
            return str(ipaddress.IPv6Address(host if _BRACKETED.fullmatch(netloc) else ""))
        except ValueError:
            raise ValueError("expected an IPv6 address between the brackets") from None
    if not _NAME.fullmatch(host) or len(host) > 253:
        raise ValueError("expected a host name or address")
    if _NUMBER.fullmatch(host.rpartition(".")[2]):
        # Resolvers take 2130706433, 0x7f.1 and 127.1 for 127.0.0.1; nobody who means well writes them.
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise ValueError("expected an IPv4 address of four decimal numbers") from None
    return host
