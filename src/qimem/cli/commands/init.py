"""`qimem init`: a new installation, and what opens it, once."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import click

from qimem.cli.admin import choose_admin
from qimem.cli.options import read_settings, settings_options
from qimem.cli.output import emit, output_option


@click.command()
@settings_options("data_dir", "database_url", "root_key_file", "external_url")
@click.option(
    "--admin-username", metavar="U", default="admin", show_default=True, help="The operator's name."
)
@click.option(
    "--admin-password-file",
    metavar="F",
    type=click.Path(path_type=Path),
    help="The operator's password, one line; - is stdin. Without it one is generated and printed.",
)
@output_option
def init(
    config_file: Path | None, admin_username: str, admin_password_file: Path | None, format: str, **given: Any
) -> None:
    """Make a new installation and print its credentials.

    Makes the data directory, the root key, the database, realm `system` with its operator, and one
    client. Ends with 7 when there is an installation already.

    \b
    qimem init --data-dir /var/lib/qimem/data -o json
    """  # noqa: D301 - click reads the control character
    from qimem.kernel.hardening import harden  # noqa: PLC0415
    from qimem.server.credentials import shown  # noqa: PLC0415 - heavy modules load when the command runs
    from qimem.server.installation import handed_out, initialise  # noqa: PLC0415

    harden()
    # Nothing listens here, so what only concerns listening must not stop it.
    settings = read_settings(config_file, given, server__bind="127.0.0.1:0").settings
    admin = choose_admin(admin_username, admin_password_file)
    installed = asyncio.run(initialise(settings, admin, os.environ))
    emit(shown(installed, None), format)
    handed_out(settings)
