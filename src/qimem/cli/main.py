"""The root command, and the one place where an error becomes an exit code.

Nothing heavy is imported here: `qimem --help` has to answer at once, so each command's module is
loaded when the command is asked for, and its one-line help stands in the table below.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

import click

from qimem import __version__
from qimem.cli.output import Invocation, exit_code, report

EXIT_BUG = 70
EXIT_INTERRUPTED = 130

_COMMANDS = {
    "init": ("init", "init", "Make a new installation and print its credentials."),
    "serve": ("serve", "serve", "Run the server; on an empty directory make the installation first."),
    "dev": ("dev", "dev", "Run a throw-away server in memory."),
    "token": ("token", "token", "Print a fresh access token."),
    "doctor": ("doctor", "doctor", "Look for what is wrong with an installation."),
    "config": ("config", "config", "Look at the configuration."),
    "audit": ("audit", "audit", "Look into the audit log."),
    "backup": ("backup", "backup", "Take and check encrypted copies of all data."),
    "restore": ("restore", "restore", "Make an installation of a backup, in an empty place."),
    "migrate": ("migrate", "migrate", "Bring the schema of the database up to date."),
    "operator": ("operator", "operator", "Act on the host, where nobody can sign in any more."),
    "root-key": ("root_key", "root_key", "Replace the root key while servers run."),
    "envelope": ("envelope", "envelope", "Look into envelopes."),
}


class _LazyGroup(click.Group):
    """A group whose commands are imported when used."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        if cmd_name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(f"qimem.cli.commands.{module}"), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, _, summary) in _COMMANDS.items()])


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 2 bad request, 3 network, 4 unauthenticated, 5 forbidden, 6 not found, "
    "7 conflict, 8 limited, 9 unavailable, 70 bug, 78 refused configuration.",
)
@click.version_option(__version__, message="qimem %(version)s")
def root() -> None:
    """Encryption as a service and identity, behind one HTTP API.

    \b
    qimem serve                    a server on ./data, made at the first start
    qimem dev                      a throw-away server in memory
    """  # noqa: D301 - click reads the control character


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: Without the program's name; the process's own by default.

    Returns:
        The exit code.
    """
    invocation = Invocation()
    try:
        code = root.main(
            args=None if arguments is None else list(arguments),
            prog_name="qimem",
            standalone_mode=False,
            obj=invocation,
        )
    except click.exceptions.Exit as done:
        return done.exit_code
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output left; what is still buffered must not fail once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # noqa: BLE001 - the last stop: nothing may end in a bare traceback
        report(error, invocation.format)
        return exit_code(error)
    return code if isinstance(code, int) else 0
