"""The checks of `qimem doctor` on who reaches the server, and how."""

from __future__ import annotations

import http.client
import ipaddress
from collections.abc import Iterator

from qimem.cli.finding import Finding
from qimem.cli.login import trusting_only
from qimem.config.schema import Settings
from qimem.kernel.refusal import Refused
from qimem.observability.metrics import STRAYS
from qimem.server.tls import expiry_of, read, secures_admin

_SECONDS = 2.0
_PAGE_BYTES_MAX = 8 << 20
_DAY_SECONDS = 86_400
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - asked, not bound


def exposure(settings: Settings) -> Iterator[Finding]:
    """Each check that applies."""
    if settings.tls.cert is not None:
        yield _certificate(settings)
    yield _listener(settings)
    if settings.server.trusted_proxies:
        yield _proxies(settings)
    if settings.server.admin_bind is not None:
        yield _strays(settings)


def _certificate(settings: Settings) -> Finding:
    try:
        expiry = expiry_of(read(settings.tls).chain)
    except Refused as refused:
        return Finding("certificate", "fail", refused.message, refused.hint or "")
    days = int(abs(expiry.seconds) // _DAY_SECONDS)
    renew = f"renew {settings.tls.cert}, then send the server SIGHUP"
    match expiry.state:
        case "ended":
            return Finding("certificate", "fail", f"it ended {days} days ago", renew)
        case "early":
            return Finding("certificate", "fail", f"it begins in {days} days", "see that the clock is right")
        case "soon":
            return Finding("certificate", "warn", f"it ends in {days} days", renew)
    return Finding("certificate", "ok", f"it ends in {days} days", "")


def _listener(settings: Settings) -> Finding:
    server = settings.server
    if settings.tls.cert is not None:
        return Finding("listener", "ok", f"{server.bind}, TLS 1.3", "")
    if server.bind.loopback:
        return Finding("listener", "ok", f"{server.bind}, this machine only", "")
    if server.trusted_proxies:
        return Finding(
            "listener", "ok", f"{server.bind}, plain HTTP for the proxies in server.trusted_proxies", ""
        )
    advice = "give a certificate with --tls-cert and --tls-key"
    return Finding(
        "listener", "warn", f"{server.bind}, plain HTTP: tokens and keys can be read on the way", advice
    )


def _proxies(settings: Settings) -> Finding:
    networks = settings.server.trusted_proxies
    if any(ipaddress.ip_network(network).prefixlen == 0 for network in networks):
        advice = "name the proxies alone: whoever is believed chooses the address that limits and records count for"
        return Finding("trusted proxies", "warn", "everybody is one", advice)
    return Finding("trusted proxies", "ok", ", ".join(networks), "")


def _strays(settings: Settings) -> Finding:
    """What the running server has counted; it alone sees them."""
    check = "forwarded headers"
    count = _counted(settings)
    if count is None:
        return Finding(check, "ok", "no server to ask on the admin listener", "")
    if count == 0:
        return Finding(check, "ok", "none came from a peer that is no trusted proxy", "")
    advice = "name your proxy in server.trusted_proxies; the log names the peers"
    return Finding(check, "warn", f"ignored in {count} requests of peers that are no trusted proxies", advice)


def _counted(settings: Settings) -> int | None:
    bind = settings.server.admin_bind
    assert bind is not None
    host = _EVERYWHERE.get(bind.host, bind.host)
    connection = http.client.HTTPConnection(host, bind.port, timeout=_SECONDS)
    if secures_admin(settings):
        assert settings.tls.cert is not None
        own = trusting_only(settings.tls.cert)
        connection = http.client.HTTPSConnection(host, bind.port, timeout=_SECONDS, context=own)
    try:
        connection.request("GET", "/metrics")
        page = connection.getresponse().read(_PAGE_BYTES_MAX)
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    for line in page.decode("utf-8", "replace").splitlines():
        name, _, value = line.partition(" ")
        if name == STRAYS.name:
            return int(float(value))
    return None
