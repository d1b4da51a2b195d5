"""`qimem backup`: encrypted copies of all data."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qimem.cli.options import read_settings, settings_options
from qimem.cli.output import emit, output_option

if TYPE_CHECKING:
    from qimem.bootstrap.backup import Judged


@click.group()
def backup() -> None:
    """Take and check encrypted copies of all data."""


@backup.command()
@settings_options("data_dir", "database_url", "root_key_file")
@click.option(
    "--to",
    metavar="FILE",
    type=click.Path(path_type=Path),
    required=True,
    help="The new file; never overwritten.",
)
@output_option
def create(config_file: Path | None, to: Path, format: str, **given: Any) -> None:
    """Copy all data as it is at one moment; servers may go on running.

    The file is encrypted under a key made from the root key, which is not in it: without the root key it is worth
    nothing. Nor are the audit log's files. The record `backup.create` stands in the audit log. Ends with 7 when the
    file is there already.

    \b
    qimem backup create --data-dir /var/lib/qimem/data --to /backup/qimem-monday.backup
    """  # noqa: D301 - click reads the control character
    from qimem.kernel.hardening import harden  # noqa: PLC0415
    from qimem.server.backups import create_backup  # noqa: PLC0415 - heavy modules load when the command runs

    harden()
    settings = read_settings(config_file, given, server__bind="127.0.0.1:0").settings
    emit({"file": str(to), **shown(create_backup(settings, os.environ, to))}, format)


@backup.command()
@click.argument("file", type=click.Path(path_type=Path))
@settings_options("data_dir", "root_key_file")
@output_option
def verify(config_file: Path | None, file: Path, format: str, **given: Any) -> None:
    """Read all of a backup and check every byte of it; needs the root key.

    Ends with 2 when it is damaged, with 78 when the root key is another one.

    \b
    qimem backup verify /backup/qimem-monday.backup --root-key-file /safe/root.key
    """  # noqa: D301 - click reads the control character
    from qimem.kernel.hardening import harden  # noqa: PLC0415
    from qimem.server.backups import verify_backup  # noqa: PLC0415 - heavy modules load when the command runs

    harden()
    settings = read_settings(config_file, given, server__bind="127.0.0.1:0").settings
    emit({"file": str(file), **shown(verify_backup(settings, os.environ, file))}, format)


def shown(judged: Judged) -> dict[str, object]:
    """What is told of a backup."""
    from qimem.kernel.clock import rfc3339  # noqa: PLC0415 - as above

    header = judged.header
    return {
        "backup_id": header.backup_id,
        "instance_id": header.instance_id,
        "schema": header.schema,
        "taken_at": rfc3339(header.taken_us),
        "rows": sum(judged.rows.values()),
        "realms": judged.rows.get("realm", 0),
        "keys": judged.rows.get("kms_version", 0),
    }
