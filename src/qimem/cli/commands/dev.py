"""`qimem dev`: a server whose data and keys are gone when it ends."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qimem.cli.options import read_settings, settings_options
from qimem.cli.output import emit, output_option, say, write

if TYPE_CHECKING:
    from qimem.server.launch import Serving


@click.command()
@settings_options("bind", "tls_cert", "tls_key")
@click.option(
    "--fixtures", metavar="F", type=click.Path(path_type=Path), help="Realm, client and user to begin with."
)
@output_option
def dev(config_file: Path | None, fixtures: Path | None, format: str, **given: Any) -> int:
    """Run a throw-away server in memory, on loopback only.

    Prints its credentials with an access token, then `ready http://…`. Never opens a real data
    directory.

    \b
    qimem dev -o json --bind 127.0.0.1:0
    """  # noqa: D301 - click reads the control character
    from qimem.cli.login import Server, access_token  # noqa: PLC0415 - heavy modules load when the command runs
    from qimem.config.fixtures import read_fixtures  # noqa: PLC0415
    from qimem.config.load import loopback_only  # noqa: PLC0415
    from qimem.config.refusal import Misconfigured  # noqa: PLC0415
    from qimem.server.credentials import shown  # noqa: PLC0415
    from qimem.server.launch import Plan, launch  # noqa: PLC0415

    # In memory whatever the environment says: a throw-away server never meets real data.
    settings = read_settings(
        config_file, given, database__mode="stateless", server__workers=1, server__allow_plain_http=True,
        tls__client_certificates="optional",
    ).settings  # fmt: skip
    known = None if fixtures is None else read_fixtures(fixtures)
    mistakes = loopback_only(settings.server.bind)
    if mistakes:
        raise Misconfigured(mistakes)

    def announce(serving: Serving) -> None:
        assert serving.installed is not None
        credentials = shown(serving.installed, serving.url)
        if known is not None:
            from qimem.cli.furnishing import furnish  # noqa: PLC0415

            credentials = furnish(serving.settings, serving.url, credentials, known)
        server = Server.own(serving.settings, serving.url)
        emit(credentials | {"access_token": access_token(server, credentials)}, format)
        say("everything in this server is lost when it ends")
        write(f"ready {serving.url}")

    return launch(Plan(settings, announce, throw_away=True))
