"""`qimem serve`: the server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qimem.cli.options import read_settings, settings_options
from qimem.cli.output import write

if TYPE_CHECKING:
    from qimem.server.launch import Serving


@click.command()
@settings_options(
    "data_dir", "bind", "admin_bind", "workers", "tls_cert", "tls_key", "tls_client_ca", "database_url",
    "root_key_file", "external_url",
)  # fmt: skip
@click.option("--allow-plain-http", is_flag=True, default=None, help="Serve other machines without TLS.")
def serve(config_file: Path | None, allow_plain_http: bool | None, **given: Any) -> int:
    """Run the server.

    On an empty directory makes the installation first and writes its credentials to
    <data-dir>.credentials.json. Prints `ready http://…` once it serves; logs go to stderr. SIGHUP reads the
    TLS files anew.

    \b
    qimem serve --data-dir data --bind 127.0.0.1:8080
    """  # noqa: D301 - click reads the control character
    from qimem.server.launch import Plan, launch  # noqa: PLC0415 - heavy modules load when the command runs

    loaded = read_settings(config_file, given, server__allow_plain_http=allow_plain_http)
    return launch(Plan(loaded.settings, _announce))


def _announce(serving: Serving) -> None:
    from qimem.cli.greeting import greeting  # noqa: PLC0415

    for line in greeting(serving):
        write(line)
    if serving.admin_url is not None:
        write(f"metrics {serving.admin_url}/metrics")
    write(f"ready {serving.url}")
