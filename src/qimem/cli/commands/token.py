"""`qimem token`: a fresh access token, alone on stdout."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from qimem.cli.login import Server, access_token
from qimem.cli.output import ServerRefused, write
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
@click.option("--server", "url", metavar="URL", help="Address of the server [the external_url in the file].")
@click.option(
    "--totp-code",
    metavar="TEXT",
    help="Of the second factor: six digits, or a recovery code [a terminal is asked for it].",
)
@click.option("--allow-plain-http", is_flag=True, help="Send secrets to another machine without TLS.")
def token(file: Path, url: str | None, totp_code: str | None, allow_plain_http: bool) -> None:
    """Print a fresh access token.

    \b
    curl -H "Authorization: Bearer $(qimem token)" http://127.0.0.1:8080/v1/security/keys
    """  # noqa: D301 - click reads the control character
    credentials = CredentialsFile(file).read()
    address = url or credentials.get("external_url")
    if not isinstance(address, str):
        raise Refused(f"{file} names no external_url", "name the server with --server")
    server = Server.at(address, allow_plain_http=allow_plain_http)
    try:
        fresh = access_token(server, credentials, totp_code)
    except ServerRefused as refused:
        if refused.code != "mfa_required":
            raise
        fresh = _with_code(server, credentials, refused)
    write(fresh)


def _with_code(server: Server, credentials: Mapping[str, Any], refused: ServerRefused) -> str:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        # A script would wait for ever.
        refused.hint = "give the code with --totp-code"
        raise refused
    # Beside stdout, which is the token's alone; hidden, for a recovery code that fails is still good.
    code: str = click.prompt("code of the second factor", hide_input=True, err=True)
    return access_token(server, credentials, code)
