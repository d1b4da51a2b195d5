"""`qimem token`: a fresh access token, alone on stdout."""

from __future__ import annotations

from pathlib import Path

import click

from qimem.cli.login import access_token
from qimem.cli.output import write
from qimem.kernel.refusal import Refused
from qimem.server.credentials import DEFAULT_FILE, CredentialsFile


@click.command()
@click.option(
    "--credentials",
    "file",
    metavar="F",
    type=click.Path(path_type=Path),
    default=DEFAULT_FILE,
    show_default=True,
    help="What init printed or the first start wrote; mode 0600.",
)
@click.option("--server", metavar="URL", help="Address of the server [the external_url in the file].")
def token(file: Path, server: str | None) -> None:
    """Print a fresh access token.

    \b
    curl -H "Authorization: Bearer $(qimem token)" http://127.0.0.1:8080/v1/security/keys
    """  # noqa: D301 - click reads the control character
    credentials = CredentialsFile(file).read()
    address = server or credentials.get("external_url")
    if not isinstance(address, str):
        raise Refused(f"{file} names no external_url", "name the server with --server")
    write(access_token(credentials, address))
