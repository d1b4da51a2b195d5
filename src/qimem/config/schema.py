"""Every option of the server: one frozen dataclass per section, each field with default, unit and help.

Realms, clients, keys and policies are not here; they live in the database.
"""

# ruff: noqa: RUF009 - an option is a dataclass field, made once per class

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any

from qimem.config import values
from qimem.config.values import Address
from qimem.kernel.limits import NODES_MAX, WORKERS_MAX
from qimem.kernel.metering import TIERS, Allowance
from qimem.kernel.secret import SecretText


def _option(default: object, read: Callable[[object], object], help: str, *, unit: str = "") -> Any:
    metadata = {"read": read, "help": help, "unit": unit}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """The section `[server]`."""

    data_dir: Path = _option(Path("data"), values.path, "Directory of the embedded database.")
    bind: Address = _option(
        Address("127.0.0.1", 8080), values.address, "Where to listen; port 0 is any free."
    )
    admin_bind: Address | None = _option(
        None, values.address, "Where metrics and health are served to whoever can reach it; unset is nowhere."
    )
    workers: int = _option(1, values.integer(1, WORKERS_MAX), "Worker processes.", unit="processes")
    external_url: str | None = _option(
        None,
        values.external_url,
        "Base of issuers and audiences; stored at first start, the address by default.",
    )
    allow_plain_http: bool = _option(
        False, values.boolean, "Serve other machines without TLS and without a trusted proxy."
    )
    trusted_proxies: tuple[str, ...] = _option(
        (), values.networks, "Proxies whose forwarded headers are believed, as CIDR networks."
    )


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """The section `[tls]`."""

    cert: Path | None = _option(
        None,
        values.path,
        "Certificate in PEM, then those that lead to its authority; with it, only TLS 1.3 is spoken.",
    )
    key: Path | None = _option(None, values.path, "Its private key in PEM, without a passphrase.")
    client_ca: Path | None = _option(
        None, values.path, "Authorities in PEM whose client certificates are taken; unset, none is asked for."
    )
    client_certificates: str = _option(
        "optional", values.choice("optional", "required"), "Whether a client without a certificate is served."
    )


@dataclass(frozen=True, slots=True)
class DatabaseSettings:
    """The section `[database]`."""

    mode: str = _option(
        "stateful", values.choice("stateful", "stateless"), "stateless keeps everything in memory."
    )
    url: SecretText | None = _option(
        None, values.database_url, "PostgreSQL to use in place of the embedded database."
    )
    url_file: Path | None = _option(
        None, values.path, "File that holds database.url, which may then hold a password."
    )


@dataclass(frozen=True, slots=True)
class ConsistencySettings:
    """The section `[consistency]`."""

    mode: str = _option(
        "strict",
        values.choice("strict", "bounded"),
        "bounded, on PostgreSQL alone: requests that change nothing see what other workers changed within 0.1 s.",
    )


@dataclass(frozen=True, slots=True)
class SealSettings:
    """The section `[seal]`."""

    source: str = _option(
        "auto",
        values.choice("auto", "file", "credential"),
        "Where the root key comes from; auto takes the systemd credential when there is one.",
    )
    root_key_file: Path | None = _option(
        None, values.path, "File of the root key; by default beside the data directory."
    )


@dataclass(frozen=True, slots=True)
class WebSettings:
    """The section `[web]`."""

    cors_origins: tuple[str, ...] = _option((), values.origins, "Exact origins that may read answers.")


@dataclass(frozen=True, slots=True)
class LimitsSettings:
    """The section `[limits]`."""

    tiers: Mapping[str, Allowance] = _option(
        TIERS,
        values.tiers,
        "What a client of each tier may ask for; of what is not named, the defaults stay.",
        unit="units / seconds",
    )
    address: Allowance = _option(
        Allowance(1_200, 60),
        values.allowance,
        "What an address may ask for without proving who asks; of IPv6 its /64.",
        unit="units / seconds",
    )
    valkey_url: SecretText | None = _option(
        None, values.valkey_url, "Valkey or Redis (7.0 or newer) in which several nodes count together."
    )
    valkey_url_file: Path | None = _option(
        None, values.path, "File that holds limits.valkey_url, which may then hold a password."
    )
    nodes: int = _option(
        2,
        values.integer(1, NODES_MAX),
        "Among how many each limit is divided while Valkey cannot be reached.",
        unit="nodes",
    )


@dataclass(frozen=True, slots=True)
class LogSettings:
    """The section `[log]`."""

    level: str = _option("info", values.choice("debug", "info", "warning", "error"), "Least level logged.")
    format: str = _option(
        "json", values.choice("json", "text"), "One JSON object a line, or text for people."
    )


@dataclass(frozen=True, slots=True)
class AuditSettings:
    """The section `[audit]`."""

    mode: str = _option(
        "strict",
        values.choice("strict", "interval"),
        "strict answers when the record is on the disk; interval writes five times a second.",
    )
    retention_days: int | None = _option(
        None,
        values.integer(1, 36_500),
        "Sealed segments are given up at this age; unset keeps them.",
        unit="days",
    )
    retention_mebibytes: int | None = _option(
        None,
        values.integer(16, 2**30),
        "Sealed segments of a stream, one for each worker, may take this much, compressed; unset is no limit.",
        unit="MiB",
    )
    archive_command: tuple[str, ...] = _option(
        (),
        values.words,
        "Given each segment's path before it is given up; it is kept unless this ends with 0.",
    )
    checkpoint_file: Path | None = _option(
        None, values.path, "Signed checkpoints are appended to it; to be on another machine's disk."
    )
    checkpoint_url: SecretText | None = _option(
        None, values.target_url, "Signed checkpoints are posted to it as JSON."
    )
    checkpoint_secret_file: Path | None = _option(
        None, values.path, "Holds a secret of 16 bytes or more: what is posted carries an HMAC with it."
    )
    checkpoint_seconds: int = _option(
        60, values.integer(1, 86_400), "How often new checkpoints are brought there.", unit="seconds"
    )


@dataclass(frozen=True, slots=True)
class OutboundSettings:
    """The section `[outbound]`."""

    allow_networks: tuple[str, ...] = _option(
        (),
        values.networks,
        "Networks that the server may send requests to though they are not public, as CIDR networks.",
    )
    allow_plain_http: bool = _option(
        False, values.boolean, "Send requests over http to this machine, if its address is in allow_networks."
    )
    ca_file: Path | None = _option(
        None, values.path, "Certificates to trust in place of the system's when requests are sent."
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """The whole configuration."""

    server: ServerSettings = field(default_factory=ServerSettings)
    tls: TlsSettings = field(default_factory=TlsSettings)
    database: DatabaseSettings = field(default_factory=DatabaseSettings)
    consistency: ConsistencySettings = field(default_factory=ConsistencySettings)
    seal: SealSettings = field(default_factory=SealSettings)
    web: WebSettings = field(default_factory=WebSettings)
    audit: AuditSettings = field(default_factory=AuditSettings)
    outbound: OutboundSettings = field(default_factory=OutboundSettings)
    limits: LimitsSettings = field(default_factory=LimitsSettings)
    log: LogSettings = field(default_factory=LogSettings)


SECTIONS: dict[str, type[Any]] = {
    "server": ServerSettings,
    "tls": TlsSettings,
    "database": DatabaseSettings,
    "consistency": ConsistencySettings,
    "seal": SealSettings,
    "web": WebSettings,
    "audit": AuditSettings,
    "outbound": OutboundSettings,
    "limits": LimitsSettings,
    "log": LogSettings,
}


def options() -> Iterator[tuple[str, Field[Any]]]:
    """Every option as (`section.field`, its dataclass field)."""
    for section, settings in SECTIONS.items():
        for entry in fields(settings):
            yield f"{section}.{entry.name}", entry


def build(chosen: dict[str, object]) -> Settings:
    """Settings from typed values by option name; what is missing has its default."""
    sections: dict[str, dict[str, object]] = {section: {} for section in SECTIONS}
    for option, value in chosen.items():
        section, _, name = option.partition(".")
        sections[section][name] = value
    return Settings(**{section: SECTIONS[section](**given) for section, given in sections.items()})
