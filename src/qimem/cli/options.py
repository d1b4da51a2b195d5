"""Flags that several commands share, and the configuration they lead to."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from qimem.config.load import Loaded, load

F = TypeVar("F", bound=Callable[..., Any])

_FLAGS = {
    "data_dir": ("server.data_dir", "--data-dir", "D", "Directory of the embedded database [data]."),
    "bind": ("server.bind", "--bind", "A", "Where to listen [127.0.0.1:8080]; port 0 is any free one."),
    "admin_bind": ("server.admin_bind", "--admin-bind", "A", "Where to serve metrics and health [nowhere]."),
    "workers": ("server.workers", "--workers", "N", "Worker processes [1]."),
    "tls_cert": ("tls.cert", "--tls-cert", "F", "Certificate chain in PEM: serve TLS 1.3."),
    "tls_key": ("tls.key", "--tls-key", "F", "Its private key in PEM."),
    "tls_client_ca": ("tls.client_ca", "--tls-client-ca", "F", "Authorities of client certificates in PEM."),
    "external_url": ("server.external_url", "--external-url", "U", "Base of issuers and audiences."),
    "database_url": (
        "database.url",
        "--database-url",
        "URL",
        "PostgreSQL in place of the embedded database.",
    ),
    "root_key_file": ("seal.root_key_file", "--root-key-file", "F", "The file of the root key."),
}


def settings_options(*names: str) -> Callable[[F], F]:
    """The named flags, and `--config`."""

    def decorate(command: F) -> F:
        for name in reversed(names):
            _, flag, metavar, summary = _FLAGS[name]
            command = click.option(flag, name, metavar=metavar, help=summary)(command)
        return click.option(
            "--config",
            "config_file",
            metavar="F",
            type=click.Path(path_type=Path),
            help="Configuration file [qimem.toml, if there is one].",
        )(command)

    return decorate


def read_settings(config_file: Path | None, given: dict[str, Any], **more: object) -> Loaded:
    """The configuration with these flags.

    Args:
        config_file: `--config`.
        given: Flag name → value, None where the flag was not given.
        more: Further options by name with `__` for the dot.

    Raises:
        Misconfigured: with every mistake.
    """
    flags: dict[str, object] = {_FLAGS[name][0]: value for name, value in given.items() if name in _FLAGS}
    flags |= {name.replace("__", "."): value for name, value in more.items()}
    return load(flags, os.environ, file=config_file)
