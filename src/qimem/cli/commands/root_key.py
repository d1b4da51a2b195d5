"""`qimem root-key`: replaces the root key, for who holds the host."""

from __future__ import annotations

import asyncio
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from qimem.cli.options import read_settings, settings_options
from qimem.cli.output import emit, output_option


@click.group(name="root-key")
def root_key() -> None:
    """Replace the root key while servers run."""


@root_key.command()
@settings_options("data_dir", "database_url", "root_key_file")
@click.option(
    "--new-root-key-file",
    "new_file",
    metavar="F",
    type=click.Path(path_type=Path),
    help="The new key; on the embedded database one is made without it.",
)
@output_option
def rotate(config_file: Path | None, new_file: Path | None, format: str, **given: Any) -> None:
    """Put a new root key in the place of the old one, which opens nothing here any more.

    Servers may be running, and refuse no request meanwhile. Cut off at any moment, it goes on when it is repeated.
    The new key waits as <root key file>.next until everything is under it. Its records stand in the audit log as
    `root-key.rotate` and `root-key.retire`.

    \b
    qimem root-key rotate --data-dir /var/lib/qimem/data
    """  # noqa: D301 - click reads the control character
    from qimem.kernel.hardening import harden  # noqa: PLC0415
    from qimem.server import root_key as work  # noqa: PLC0415 - heavy modules load when the command runs

    harden()
    settings = read_settings(config_file, given).settings
    emit(asdict(asyncio.run(work.rotate(settings, os.environ, new_file))), format)


@root_key.command()
@settings_options("data_dir", "database_url", "root_key_file")
@output_option
def status(config_file: Path | None, format: str, **given: Any) -> None:
    """Show the root keys in use: one, or two while a rotation is under way.

    Newest first; how many realms' keys each one wraps, and whether this host has it.
    """
    from qimem.kernel.hardening import harden  # noqa: PLC0415
    from qimem.server import root_key as work  # noqa: PLC0415 - heavy modules load when the command runs

    harden()
    settings = read_settings(config_file, given).settings
    emit([asdict(each) for each in asyncio.run(work.status(settings))], format)
