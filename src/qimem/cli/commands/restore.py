"""`qimem restore`: an installation out of a backup."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from qimem.cli.options import read_settings, settings_options
from qimem.cli.output import emit, output_option, say


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@settings_options("data_dir", "database_url", "root_key_file")
@output_option
def restore(config_file: Path | None, file: Path, format: str, **given: Any) -> None:
    """Make an installation of a backup, in an empty data directory and an empty database.

    There is all of it afterwards, or nothing. Everybody has to sign in again: tokens of before are refused, whether
    they were issued before the backup or after it. What was disabled, deleted or changed after the backup was taken is
    as it was then. Ends with 7 when the place is not empty, with 2 when the backup is damaged.

    \b
    qimem restore /backup/qimem-monday.backup --data-dir /var/lib/qimem/data --root-key-file /safe/root.key
    """  # noqa: D301 - click reads the control character
    from qimem.bootstrap.backup import Judged  # noqa: PLC0415
    from qimem.cli.commands.backup import shown  # noqa: PLC0415
    from qimem.kernel.hardening import harden  # noqa: PLC0415
    from qimem.server.backups import restore_backup  # noqa: PLC0415 - heavy modules load when the command runs

    harden()
    settings = read_settings(config_file, given, server__bind="127.0.0.1:0").settings
    restored = restore_backup(settings, os.environ, file)
    told = shown(Judged(restored.header, restored.rows))
    emit({"data_dir": str(settings.server.data_dir), **told, "grants_revoked": restored.grants}, format)
    for realm_id in restored.damaged:
        say(f"warning: realm {realm_id}: its keys cannot be unwrapped, as when the backup was taken")
    say(f"do again what was disabled, deleted or changed after {told['taken_at']}")
