"""Readers of option values: text from a flag or variable, or a TOML value, to a typed one.

Every reader raises ValueError with a reason that does not repeat the value.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from qimem.kernel.addresses import is_this_machine
from qimem.kernel.limits import RATE_WINDOW_SECONDS_MAX
from qimem.kernel.metering import TIERS, UNITS_MAX, Allowance
from qimem.kernel.secret import SecretText
from qimem.outbound.target import parse_target

_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off"})


class Address(NamedTuple):
    """Where to listen. `host` is an IP address or a name; `port` 0 lets the system choose."""

    host: str
    port: int

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it. A name other than `localhost` may mean anything."""
        return is_this_machine(self.host)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def text(value: object) -> str:
    """Non-empty text."""
    if not isinstance(value, str) or not value:
        raise ValueError("expected text")
    return value


def boolean(value: object) -> bool:
    """`true` or `false`, and in variables also 1, 0, yes, no, on, off."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _TRUE | _FALSE:
        return value.lower() in _TRUE
    raise ValueError("expected true or false")


def integer(lowest: int, highest: int) -> Callable[[object], int]:
    """Whole numbers of a range, both ends included."""

    def read(value: object) -> int:
        if isinstance(value, str) and value.isascii() and value.isdigit():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
            raise ValueError(f"expected a whole number from {lowest} to {highest}")
        return value

    return read


def choice(*words: str) -> Callable[[object], str]:
    """One word of a closed set."""

    def read(value: object) -> str:
        if not isinstance(value, str) or value not in words:
            raise ValueError(f"expected one of: {', '.join(words)}")
        return value

    return read


def path(value: object) -> Path:
    """A file or directory; relative to the working directory."""
    return Path(text(value))


def address(value: object) -> Address:
    """`host:port`, `[IPv6]:port`, or `:port` for every interface."""
    host, separator, port = text(value).rpartition(":")
    if not separator or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError("expected host:port")
    if host.startswith("[") and host.endswith("]"):
        try:
            return Address(str(ipaddress.IPv6Address(host[1:-1])), int(port))
        except ValueError as error:
            raise ValueError("expected an IPv6 address between the brackets") from error
    if ":" in host:
        raise ValueError("expected host:port, an IPv6 host in brackets")
    return Address(host or "0.0.0.0", int(port))  # noqa: S104 - judged by the plain-HTTP rule


def external_url(value: object) -> str:
    """An absolute http or https URL without user, query and fragment; no slash at its end."""
    url = text(value)
    # urlsplit drops line breaks and outer spaces; what is kept goes into every token as it is.
    if not url.isascii() or any(char <= " " or char == "\x7f" for char in url):
        raise ValueError("expected a URL of visible ASCII characters")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or not _has_sound_port(parts):
        raise ValueError("expected an absolute http or https URL")
    if parts.username is not None or parts.query or parts.fragment or "?" in url or "#" in url:
        raise ValueError("expected a URL without user, query and fragment")
    return url.rstrip("/")


def _has_sound_port(parts: SplitResult) -> bool:
    try:
        return parts.port is None or parts.port > 0
    except ValueError:
        return False


def database_url(value: object) -> SecretText:
    """`postgresql://…`; kept as a secret, for it may carry a password."""
    url = text(value)
    # Nothing else of it is read here: it may name several servers, and then it is no URL as others know them.
    if not url.startswith(("postgresql://", "postgres://")):
        raise ValueError("expected a postgresql:// URL")
    return SecretText(url)


def valkey_url(value: object) -> SecretText:
    """`valkey://`, `redis://`, with `s` for TLS, or `unix://`; kept as a secret, for it may carry a password."""
    url = text(value)
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError("expected a valkey://, redis:// or unix:// URL") from None
    schemes = ("valkey://", "valkeys://", "redis://", "rediss://", "unix://")
    if not url.startswith(schemes) or not _has_sound_port(parts):
        raise ValueError("expected a valkey://, redis:// or unix:// URL")
    # The library takes further options there, a password among them.
    if parts.fragment or not re.fullmatch(r"(db=\d{1,4})?", parts.query):
        raise ValueError("expected no query but db=<number>")
    if not (parts.path if parts.scheme == "unix" else parts.hostname):
        raise ValueError("expected a host, or the path of a socket")
    return SecretText(url)


def target_url(value: object) -> SecretText:
    """Where the server sends requests: https, or http to this machine; kept as a secret, for its path may be one."""
    url = text(value)
    parse_target(url)
    return SecretText(url)


def networks(value: object) -> tuple[str, ...]:
    """Addresses or CIDR networks, as a list or comma-separated."""
    found = []
    for item in _items(value):
        try:
            found.append(str(ipaddress.ip_network(item)))
        except ValueError as error:
            raise ValueError("expected IP addresses or CIDR networks") from error
    return tuple(found)


def origins(value: object) -> tuple[str, ...]:
    """Exact web origins: scheme and host, a port where it is not the scheme's; no path, no `*`."""
    found = []
    for item in _items(value):
        parts = urlsplit(item)
        exact = f"{parts.scheme}://{parts.netloc}"
        if parts.scheme not in ("http", "https") or item != exact or "*" in item or "@" in item:
            raise ValueError("expected origins such as https://app.example.com")
        found.append(item)
    return tuple(found)


def words(value: object) -> tuple[str, ...]:
    """A command: its program and arguments as a list, or as one text with spaces between them."""
    found = tuple(value.split()) if isinstance(value, str) else tuple(_items(value))
    if not all(found) or (isinstance(value, str) and not found):
        raise ValueError("expected a command")
    return found


def allowance(value: object) -> Allowance:
    """`{ limit = 600, window_seconds = 60 }`, or as text `600/60`; the window is a minute where none is given."""
    if isinstance(value, str):
        units, _, seconds = value.partition("/")
        value = {"limit": units, "window_seconds": seconds or "60"}
    if not isinstance(value, Mapping) or "limit" not in value or value.keys() - {"limit", "window_seconds"}:
        raise ValueError("expected limit and window_seconds, or text such as 600/60")
    try:
        limit = integer(1, UNITS_MAX)(value["limit"])
        window = integer(1, RATE_WINDOW_SECONDS_MAX)(value.get("window_seconds", 60))
    except ValueError as error:
        raise ValueError(f"limit and window_seconds: {error}") from None
    return Allowance(limit, window)


def tiers(value: object) -> Mapping[str, Allowance]:
    """A table of tiers, or as text `free=600/60, pro=6000/60`; those that are not named stay as they are."""
    if isinstance(value, str):
        pairs = [item.partition("=") for item in _items(value)]
        value = {name.strip(): text.strip() for name, _, text in pairs}
    if not isinstance(value, Mapping) or value.keys() - TIERS.keys():
        raise ValueError(f"expected tables of these tiers: {', '.join(TIERS)}")
    return {**TIERS, **{name: allowance(given) for name, given in value.items()}}


def _items(value: object) -> list[str]:
    if isinstance(value, str):
        return [item.strip() for item in value.split(",") if item.strip()]
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return list(value)
    raise ValueError("expected a list of texts")
