"""`qimem migrate`: the version of the schema, and the way to this program's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from qimem.cli.options import read_settings, settings_options
from qimem.cli.output import emit, output_option


@click.group()
def migrate() -> None:
    """Bring the schema of the database up to date."""


@migrate.command()
@settings_options("data_dir", "database_url")
@output_option
def status(config_file: Path | None, format: str, **given: Any) -> None:
    """Tell the version of the schema, that of this program, and what would be run.

    `state` is current, old, newer or empty. Changes nothing.
    """
    from qimem.server.backups import state_of_schema  # noqa: PLC0415 - heavy modules load when the command runs
    from qimem.storage.migrations.runner import HEAD, pending  # noqa: PLC0415

    settings = read_settings(config_file, given, server__bind="127.0.0.1:0").settings
    version, state = state_of_schema(settings)
    steps = list(pending(version)) if state == "old" else []
    shown = steps if format != "table" else ", ".join(steps)
    emit({"state": state, "database": version, "program": HEAD, "pending": shown}, format)


@migrate.command()
@settings_options("data_dir", "database_url", "root_key_file")
@click.option(
    "--to",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Where the backup goes [<data-dir>.schema-<version>-<time>.backup].",
)
@click.option("--no-backup", is_flag=True, help="Take no backup.")
@output_option
def apply(config_file: Path | None, to: Path | None, no_backup: bool, format: str, **given: Any) -> None:
    """Take a backup, then bring the schema up to date; there is nothing to do when it is.

    `serve` does the same at its start. No version goes back: to return to the older program, restore the backup with it.
    """
    from qimem.kernel.hardening import harden  # noqa: PLC0415
    from qimem.server.backups import upgrade  # noqa: PLC0415 - heavy modules load when the command runs
    from qimem.storage.migrations.runner import HEAD  # noqa: PLC0415

    if no_backup and to is not None:
        raise click.UsageError("--to names the backup that --no-backup forgoes")
    harden()
    settings = read_settings(config_file, given, server__bind="127.0.0.1:0").settings
    done = upgrade(settings, os.environ, to=to, keep=not no_backup)
    kept = None if done.backup is None else str(done.backup)
    emit({"from": done.old, "to": HEAD, "backup": kept}, format)
