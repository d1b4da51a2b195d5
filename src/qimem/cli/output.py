"""What commands print: results on stdout in the chosen format, errors on stderr with a hint."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from qimem.errors import Kind, QimemError
from qimem.kernel.refusal import Refused

F = TypeVar("F", bound=Callable[..., Any])

FORMATS = ("table", "json", "jsonl")

_CODES = {
    Kind.INVALID: 2,
    Kind.MISMATCH: 2,
    Kind.UNAUTHENTICATED: 4,
    Kind.FORBIDDEN: 5,
    Kind.NOT_FOUND: 6,
    Kind.CONFLICT: 7,
    Kind.PRECONDITION: 7,
    Kind.LIMITED: 8,
    Kind.UNAVAILABLE: 9,
    Kind.INTERNAL: 70,
}
_STATUS_CODES = {401: 4, 403: 5, 404: 6, 409: 7, 412: 7, 428: 7, 429: 8, 500: 70, 503: 9}


@dataclass
class Invocation:
    """One run of the program."""

    format: str = "table"


class Unreachable(Exception):
    """No server answered at the address."""


class ServerRefused(Exception):
    """A server answered with an error.

    Args:
        status: HTTP status.
        answer: The error body, as far as it is one of ours.
    """

    def __init__(self, status: int, answer: Mapping[str, object]) -> None:
        super().__init__(str(answer.get("error") or f"the server answered {status}"))
        self.status = status
        self.code = str(answer.get("code") or "internal")
        hint = answer.get("hint")
        self.hint = str(hint) if hint else None


def output_option(command: F) -> F:
    """`-o table|json|jsonl`; errors follow it as well."""

    def choose(ctx: click.Context, _: click.Parameter, value: str) -> str:
        ctx.find_object(Invocation).format = value  # type: ignore[union-attr]  # main() always gives one
        return value

    return click.option(
        "-o",
        "--output",
        "format",
        type=click.Choice(FORMATS),
        default="table",
        is_eager=True,
        callback=choose,
        help="How results are printed.",
    )(command)


def emit(result: Mapping[str, object] | Sequence[Mapping[str, object]], format: str) -> None:
    """Print a result: one object or a list of them."""
    if format == "json":
        single = isinstance(result, Mapping)
        write(json.dumps(dict(result) if single else list(result)))  # type: ignore[arg-type]  # told apart above
        return
    rows = [result] if isinstance(result, Mapping) else list(result)
    if format == "jsonl":
        for row in rows:
            write(json.dumps(dict(row)))
        return
    if isinstance(result, Mapping):
        rows = [{"name": name, "value": value} for name, value in result.items() if value is not None]
        _table(rows, header=False)
    else:
        _table(rows, header=True)


def write(line: str) -> None:
    """One line on stdout, out at once: others wait for it."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def say(line: str) -> None:
    """One line for people, on stderr."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def exit_code(error: BaseException) -> int:
    """The exit code that tells a script what class of failure this is."""
    match error:
        case Refused():
            return 78
        case QimemError():
            return _CODES[error.kind]
        case ServerRefused():
            return _STATUS_CODES.get(error.status, 2 if error.status < 500 else 9)
        case Unreachable():
            return 3
        case click.UsageError():
            return 2
        case _:
            return 70


def report(error: BaseException, format: str) -> None:
    """Say on stderr what failed and what to do about it."""
    message, code, hint = _explain(error)
    if format == "table":
        say(f"error: {message}")
        if hint:
            say(f"hint: {hint}")
        return
    answer = {"error": message, "code": code}
    say(json.dumps(answer | {"hint": hint} if hint else answer))


def _explain(error: BaseException) -> tuple[str, str, str | None]:
    match error:
        case Refused():
            return error.message, "refused", error.hint
        case QimemError():
            return error.message, error.code, error.hint
        case ServerRefused():
            return str(error), error.code, error.hint
        case Unreachable():
            return str(error), "unreachable", "is the server running? name its address with --server"
        case click.UsageError():
            command = error.ctx.command_path if error.ctx else "qimem"
            return error.format_message(), "usage", f"{command} --help"
        case _:
            from qimem.observability.logging import describe  # noqa: PLC0415 - heavy, and rarely needed

            return f"internal error: {describe(error)}", "internal", "this is a bug; please report it"


def _table(rows: Sequence[Mapping[str, object]], *, header: bool) -> None:
    if not rows:
        return
    names = list(rows[0])
    lines = [names] if header else []
    lines += [["" if row[name] is None else str(row[name]) for name in names] for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(names))]
    for line in lines:
        write("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
