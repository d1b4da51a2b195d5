"""`qimem audit`: looks into the log of a node, with the server running or not."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qimem.cli.output import emit, output_option

if TYPE_CHECKING:
    from qimem.audit.delivered import Delivered
    from qimem.audit.events import Damage, Wanted
    from qimem.audit.log import StreamReport
    from qimem.wire.audit import AuditRecord

EXIT_ALTERED = 1
_TURN_SECONDS = 0.2

_data_dir = click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    default=Path("data"),
    # As for every other command; the rest of the configuration is of no use to these.
    envvar="QIMEM_SERVER__DATA_DIR",
    help="Directory of the data.",
)


@click.group()
def audit() -> None:
    """Look into the audit log."""


@audit.command()
@_data_dir
@click.option(
    "--public-key",
    type=click.Path(path_type=Path),
    help="The key to trust; by default the one beside the log.",
)
@click.option(
    "--anchor", type=click.Path(path_type=Path), help="A copy of `audit/heads` that was kept elsewhere."
)
@click.option(
    "--checkpoints",
    type=click.Path(path_type=Path),
    help="A file of checkpoints that were delivered: all of them have to be in the log.",
)
@output_option
def verify(
    data_dir: Path, public_key: Path | None, anchor: Path | None, checkpoints: Path | None, format: str
) -> int:
    """Check that the log is what was written: no record changed, gone, moved or put in.

    Needs the files and the public key alone. Ends with 1 when something is not what was written.
    """
    from qimem.audit.delivered import Delivered, read_delivered  # noqa: PLC0415 - heavy
    from qimem.audit.log import DIRECTORY, PUBLIC_KEY, read_public_key, verify_log  # noqa: PLC0415
    from qimem.audit.segment_file import read_heads  # noqa: PLC0415
    from qimem.kernel.refusal import Refused  # noqa: PLC0415

    log = data_dir / DIRECTORY
    try:
        key = read_public_key(public_key or log / PUBLIC_KEY)
        known = {} if anchor is None else read_heads(anchor)
        # First: what a running server delivers meanwhile is in the log by then.
        delivered = Delivered() if checkpoints is None else read_delivered(checkpoints, key)
        reports = verify_log(log, key, known, checkpoints=delivered.streams)
    except (OSError, ValueError) as error:
        raise Refused(
            "the audit log, its public key or the checkpoints cannot be read",
            "name them with --data-dir, --public-key and --checkpoints",
        ) from error
    emit([_row(report) for report in reports], format)
    if public_key is None:
        _say("trusted the key beside the log; keep a copy elsewhere and name it with --public-key")
    sound = checkpoints is None or _judged(checkpoints, delivered)
    return 0 if sound and all(report.fault is None for report in reports) else EXIT_ALTERED


def _row(report: StreamReport) -> dict[str, object]:
    reading = report.reading
    return {
        "stream": report.stream,
        "state": "ok" if report.fault is None else "altered",
        "segments": report.segments,
        "records": reading.records if reading else None,
        "unanchored": reading.unanchored if reading else None,
        "torn_bytes": reading.torn_bytes if reading else None,
        "fault": report.fault,
    }


def _judged(file: Path, delivered: Delivered) -> bool:
    """Whether a file of checkpoints proves anything and nothing against the log; says what it is."""
    for number in delivered.unreadable:
        _say(f"{file}: line {number} holds no checkpoint and was left out")
    for fault in delivered.faults:
        _say(f"{file}: {fault}")
    _say(f"{file}: {delivered.count} checkpoints were looked for")
    return bool(delivered.count) and not delivered.faults


@audit.command()
@_data_dir
@click.option("--realm", help="Only this realm.")
@click.option("--since", help="From this time on, RFC 3339.")
@click.option("--until", help="Before this time, RFC 3339.")
def export(data_dir: Path, realm: str | None, since: str | None, until: str | None) -> int:
    """Print records as JSON lines, stream after stream, oldest first.

    What is damaged is left out; then it says so and ends with 1.
    """
    from qimem.audit.events import Damage, Wanted  # noqa: PLC0415 - heavy modules load when the command runs

    damage = Damage(_say)
    _print(_all(_log_of(data_dir), Wanted(realm=realm, since=_time(since), until=_time(until)), damage))
    return EXIT_ALTERED if damage.found else 0


@audit.command()
@_data_dir
@click.option("--realm", help="Only this realm.")
@click.option(
    "-n", "lines", type=click.IntRange(0), default=10, help="Begin with so many of the last records."
)
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written from now on.")
def tail(data_dir: Path, realm: str | None, lines: int, *, follow: bool) -> int:
    """Print the last records as JSON lines."""
    from qimem.audit.events import AuditEvents, Damage, Follower, Wanted  # noqa: PLC0415 - heavy modules load when the command runs

    log = _log_of(data_dir)
    damage = Damage(_say)
    # First of all: what is written while the last records are looked for is shown as well.
    follower = Follower(log, damage)
    wanted = Wanted(realm=realm)
    found, _ = AuditEvents(log, damage).find(wanted, None, max(lines, 1))
    shown = {record.id for record in found}
    _print(reversed(found[:lines]))
    while follow:
        fresh = (record for record in follower.read() if record.id not in shown)
        _print(record for record in fresh if realm in (None, record.realm))
        time.sleep(_TURN_SECONDS)
    return 0


def _print(records: Iterable[AuditRecord]) -> None:
    from qimem.audit.record import encoded  # noqa: PLC0415 - heavy modules load when the command runs

    for record in records:
        sys.stdout.buffer.write(encoded(record))
    sys.stdout.buffer.flush()


def _say(text: str) -> None:
    click.echo(text, err=True)


def _log_of(data_dir: Path) -> Path:
    from qimem.audit.log import DIRECTORY  # noqa: PLC0415 - heavy modules load when the command runs
    from qimem.kernel.refusal import Refused  # noqa: PLC0415

    log = data_dir / DIRECTORY
    # An empty history would be taken for that of a node where nothing happened.
    if not os.access(log, os.R_OK | os.X_OK):
        raise Refused(
            f"there is no audit log at {log}, or it cannot be read", "name the data with --data-dir"
        )
    return log


def _all(log: Path, wanted: Wanted, damage: Damage) -> Iterator[AuditRecord]:
    from qimem.audit.events import records  # noqa: PLC0415 - heavy modules load when the command runs
    from qimem.audit.segment_file import segment_numbers, stream_paths  # noqa: PLC0415

    for stream in stream_paths(log):
        for number in segment_numbers(stream):
            yield from records(stream, number, wanted, damage)


def _time(given: str | None) -> str | None:
    from qimem.kernel.clock import parse_rfc3339, rfc3339  # noqa: PLC0415 - as above

    if given is None:
        return None
    try:
        return rfc3339(parse_rfc3339(given))
    except (ValueError, OverflowError):
        raise click.BadParameter("expected an RFC 3339 time such as 2026-01-31T12:00:00Z") from None
