"""Measure, print the tables, keep the result.

    python -m bench [--only encrypt] [--pairs 8] [--seconds 5] [--gate]

Ends with 0; with 1 when --gate was given and a gate failed; with 2 when something could not be measured.
"""

from __future__ import annotations

import argparse
import datetime as dt
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from bench import gates, machine, report
from bench.figures import Fact, Row, RunRefused
from bench.load import CONNECTIONS, wrk
from bench.report import Refusal, Report
from bench.scenarios import FULL, KEYS_PER_REALM, SCENARIOS, SMOKE, Effort, Stage
from bench.servers import ROOT
from qimem import __version__

PASSED, GATE_FAILED, NOT_MEASURED = 0, 1, 2
DISK = Path("/var/tmp")
"""On a disk where /tmp often is not; a private directory is made in it."""
_SCENARIO_SECONDS_MAX = 600
"""The load's access tokens live 900 seconds."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the bench; the exit code."""
    given = _parse(arguments)
    try:
        wrk()
    except RunRefused as refused:
        print(f"error: {refused}", file=sys.stderr)
        return NOT_MEASURED
    effort = _effort(given)
    names = [name for name in SCENARIOS if not given.only or name in given.only]
    with tempfile.TemporaryDirectory(prefix="qimem-bench-", dir=given.directory) as directory:
        result = _measure(Path(directory), effort, names, quick=given.quick)
    print(report.render(result))
    results = given.results or (None if given.quick else ROOT / "bench" / "results")
    if results is not None:
        report.keep(result, results)
    if result.refused:
        return NOT_MEASURED
    failed = any(judged.passed is False for judged in result.gates)
    return GATE_FAILED if given.gate and failed else PASSED


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Rates beside the floor, in one run."
    )
    parser.add_argument("--only", action="append", choices=SCENARIOS, help="this scenario; can be repeated")
    parser.add_argument("--pairs", type=_count, help=f"pairs per scenario [{FULL.pairs}]")
    parser.add_argument("--seconds", type=_count, help=f"seconds of each run [{FULL.seconds}]")
    parser.add_argument("--quick", action="store_true", help="a smoke run: no figure of it is judged or kept")
    parser.add_argument("--gate", action="store_true", help="end with 1 when a gate fails")
    parser.add_argument(
        "--results", type=Path, metavar="DIR", help="where to keep the result [bench/results]"
    )
    parser.add_argument(
        "--directory", type=Path, metavar="DIR", help=f"where the databases are made [{DISK}]"
    )
    given = parser.parse_args(arguments)
    if given.quick and given.gate:
        parser.error("a smoke run judges no gate")
    effort = _effort(given)
    if 2 * effort.pairs * effort.seconds > _SCENARIO_SECONDS_MAX:
        parser.error(f"a scenario of more than {_SCENARIO_SECONDS_MAX} s outlives its access tokens")
    if given.directory is None and DISK.is_dir():
        given.directory = DISK
    return given


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _effort(given: argparse.Namespace) -> Effort:
    effort = SMOKE if given.quick else FULL
    return replace(effort, pairs=given.pairs or effort.pairs, seconds=given.seconds or effort.seconds)


def _measure(directory: Path, effort: Effort, names: Sequence[str], *, quick: bool) -> Report:
    described = machine.describe(directory)
    rows: list[Row] = []
    facts: list[Fact] = []
    refused: list[Refusal] = []
    with Stage(directory, effort) as stage:
        for name in names:
            print(f"measuring {name} …", file=sys.stderr)
            try:
                for found in SCENARIOS[name](stage):
                    rows.append(found) if isinstance(found, Row) else facts.append(found)
            except RunRefused as error:
                refused.append(Refusal(name, str(error)))
    on_disk = described["file_system"] not in machine.MEMORY_FILE_SYSTEMS
    return Report(
        format=report.FORMAT,
        date=dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        product=f"qimem {__version__}",
        machine=described,
        method={"quick": quick, "connections": CONNECTIONS, "keys_per_realm": KEYS_PER_REALM}
        | _plain(effort),
        notes=_notes(effort, described, quick=quick, on_disk=on_disk),
        rows=rows,
        facts=facts,
        gates=gates.judge([*rows, *facts], quick=quick, on_disk=on_disk),
        refused=refused,
    )


def _plain(effort: Effort) -> dict[str, int | float]:
    few, many = effort.realms
    rest = {name: value for name, value in asdict(effort).items() if name != "realms"}
    return rest | {"realms_small": few, "realms_large": many}


def _notes(
    effort: Effort, described: dict[str, str | int | float], *, quick: bool, on_disk: bool
) -> list[str]:
    few, many = effort.realms
    load = (
        f"realms: the load goes around all {few} realms of the small database and around "
        f"{min(many, effort.cycled)} evenly spread ones of the {many:,} of the large"
    )
    notes = ["no limits: the product has none yet; PostgreSQL is not measured", load]
    if quick:
        notes.append("SMOKE RUN: these figures show that the bench works and nothing else")
    if float(described["busy_percent"]) > machine.BUSY_PERCENT_MAX:
        notes.append(f"THE MACHINE WAS NOT QUIET: {described['busy_percent']} % busy before the run")
    if not on_disk:
        notes.append(f"NOT DURABLE: the databases are on {described['file_system']}; use --directory")
    return notes


if __name__ == "__main__":
    # A bench that is told to stop stops its servers first.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main())
