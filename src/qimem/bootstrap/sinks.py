"""Where the checkpoints of this node's audit log are brought to."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from qimem.audit.sinks import FileSink, Sink, UrlSink
from qimem.config.schema import Settings
from qimem.kernel.limits import AUDIT_SINK_SECRET_BYTES_MAX, AUDIT_SINK_SECRET_BYTES_MIN
from qimem.kernel.refusal import Refused
from qimem.kernel.secret import SecretBytes
from qimem.outbound.fetcher import Fetcher, OutboundRules
from qimem.outbound.target import parse_target


def checkpoint_sinks(settings: Settings) -> list[Sink]:
    """Those that are configured.

    Raises:
        Refused: the shared secret cannot be used.
    """
    audit, outbound = settings.audit, settings.outbound
    sinks: list[Sink] = []
    if audit.checkpoint_file is not None:
        sinks.append(FileSink(audit.checkpoint_file))
    if audit.checkpoint_url is not None:
        rules = OutboundRules(outbound.allow_networks, outbound.allow_plain_http, outbound.ca_file)
        file = audit.checkpoint_secret_file
        secret = None if file is None else _secret(file)
        sinks.append(UrlSink(Fetcher(rules), parse_target(audit.checkpoint_url.reveal()), secret))
    return sinks


def _secret(file: Path) -> SecretBytes:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as opened:  # noqa: PTH123 - a descriptor
            found = os.fstat(descriptor)
            data = opened.read(AUDIT_SINK_SECRET_BYTES_MAX + 2) if stat.S_ISREG(found.st_mode) else b""
    except OSError as error:
        raise Refused(f"cannot read {file}: {error.strerror}", "see audit.checkpoint_secret_file") from error
    if found.st_mode & 0o077:
        raise Refused(f"{file} is open to others", f"chmod 600 {file}")
    secret = data.rstrip(b"\r\n")
    least, most = AUDIT_SINK_SECRET_BYTES_MIN, AUDIT_SINK_SECRET_BYTES_MAX
    if not least <= len(secret) <= most:
        raise Refused(
            f"{file} does not hold {least} to {most} bytes",
            f"openssl rand -base64 32 > {file}",
        )
    return SecretBytes(secret)
