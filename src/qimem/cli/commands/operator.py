"""`qimem operator`: what only who holds the host may do."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import click

from qimem.cli.options import read_settings, settings_options
from qimem.cli.output import emit, output_option


@click.group()
def operator() -> None:
    """Act on the host, where nobody can sign in any more."""


@operator.command()
@settings_options("data_dir", "database_url", "root_key_file")
@click.option(
    "--username", metavar="U", default="recovered", show_default=True, help="The new operator's name."
)
@output_option
def recover(config_file: Path | None, username: str, format: str, **given: Any) -> None:
    """Add an operator and print its credentials, once; servers may be running.

    Needs the data and the root key. Its record stands in the audit log as `operator.recover`. Ends with 7 when the
    name is taken. Afterwards disable or delete what is not trusted any more.

    \b
    qimem operator recover --data-dir /var/lib/qimem/data --username rescue -o json
    """  # noqa: D301 - click reads the control character
    from qimem.kernel.hardening import harden  # noqa: PLC0415
    from qimem.server.credentials import shown  # noqa: PLC0415 - heavy modules load when the command runs
    from qimem.server.installation import recover_operator  # noqa: PLC0415

    harden()
    settings = read_settings(config_file, given, server__bind="127.0.0.1:0").settings
    emit(shown(asyncio.run(recover_operator(settings, username, os.environ)), None), format)
