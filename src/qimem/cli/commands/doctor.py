"""`qimem doctor`: looks at an installation, running or not, and says what to change."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click

from qimem.cli.options import read_settings, settings_options
from qimem.cli.output import emit, output_option

EXIT_FAILED = 1


@click.command()
@settings_options("data_dir", "bind", "admin_bind", "tls_cert", "tls_key", "database_url", "root_key_file")
@output_option
def doctor(config_file: Path | None, format: str, **given: Any) -> int:
    """Check data directory, root key, database, listeners, host and leftovers.

    Each check is ok, warn or fail, with advice. Ends with 1 when one fails. Changes nothing.
    """
    from qimem.cli.examination import examine  # noqa: PLC0415 - heavy modules load when the command runs
    from qimem.kernel.hardening import harden  # noqa: PLC0415

    harden()
    settings = read_settings(config_file, given).settings
    findings = asyncio.run(examine(settings))
    emit([finding.row() for finding in findings], format)
    return EXIT_FAILED if any(finding.state == "fail" for finding in findings) else 0
