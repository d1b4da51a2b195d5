"""Measure the product beside OpenBao and oidc-provider, print the table, keep the result.

    python -m bench.compare [--pairs 6] [--seconds 4] [--gate] [--quick]

Exit codes as those of `python -m bench`.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from bench import callers, gates, load, machine, report
from bench.__main__ import DISK, GATE_FAILED, NOT_MEASURED, PASSED
from bench.callers import TEXT
from bench.compare import oidc_provider, openbao
from bench.compare.openbao import OpenBao, TransitCaller
from bench.figures import Row, RunRefused
from bench.gates import Gate
from bench.load import CONNECTIONS, Request
from bench.report import Refusal, Report
from bench.scenarios import FULL, SMOKE, Effort, Stage, loaded
from bench.servers import ROOT, Installation, Server
from qimem import __version__

LARGE_TEXT = (TEXT * 512)[: 32 * 1024]
_CORES = (0, 1)
"""Of the server, and of the load: on both sides of a pair the same."""

GATES = (
    Gate("encrypt ÷ OpenBao", "encrypt", "rate ratio", "at least", 2.2, 2.5, "×", durable=True),
    Gate("decrypt ÷ OpenBao", "decrypt", "rate ratio", "at least", 2.2, 2.5, "×", durable=True),
    Gate(
        "client credentials ÷ oidc-provider",
        "client credentials",
        "rate ratio",
        "at least",
        2,
        4,
        "×",
        durable=True,
    ),
    Gate("introspect ÷ oidc-provider", "introspect", "rate ratio", "at least", 2, 4, "×", durable=True),
    Gate("encrypt p99 ÷ OpenBao", "encrypt", "p99 ratio", "at most", 1, 0.5, "×", durable=True),
    Gate("decrypt p99 ÷ OpenBao", "decrypt", "p99 ratio", "at most", 1, 0.5, "×", durable=True),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison; the exit code."""
    given = _parse(arguments)
    if not openbao.BINARY.exists():
        print("error: OpenBao is missing\nhint:  make compare installs it", file=sys.stderr)
        return NOT_MEASURED
    effort = SMOKE if given.quick else replace(FULL, pairs=given.pairs, seconds=given.seconds)
    with tempfile.TemporaryDirectory(prefix="qimem-bench-", dir=given.directory) as directory:
        result = _measure(Path(directory), effort, quick=given.quick)
    print(report.render(result))
    if not given.quick:
        report.keep(result, given.results, "openbao-")
    if result.refused:
        return NOT_MEASURED
    failed = any(judged.passed is False for judged in result.gates)
    return GATE_FAILED if given.gate and failed else PASSED


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.compare", description="Rates beside OpenBao, in one run."
    )
    parser.add_argument("--pairs", type=int, default=6, help="pairs per scenario [6]")
    parser.add_argument("--seconds", type=int, default=4, help="seconds of each run [4]")
    parser.add_argument("--quick", action="store_true", help="a smoke run: no figure of it is judged or kept")
    parser.add_argument("--gate", action="store_true", help="end with 1 when a gate fails")
    parser.add_argument("--results", type=Path, metavar="DIR", default=ROOT / "bench" / "results")
    parser.add_argument("--directory", type=Path, metavar="DIR", default=DISK if DISK.is_dir() else None)
    return parser.parse_args(arguments)


def _measure(directory: Path, effort: Effort, *, quick: bool) -> Report:
    described = machine.describe(directory)
    rows: list[Row] = []
    refused: list[Refusal] = []
    for name, measure in (("pinned", _pinned), ("all cores", _all_cores), ("identity", _identity)):
        print(f"measuring {name} …", file=sys.stderr)
        try:
            rows += measure(directory / name.replace(" ", "-"), effort)
        except RunRefused as error:
            refused.append(Refusal(name, str(error)))
    on_disk = described["file_system"] not in machine.MEMORY_FILE_SYSTEMS
    return Report(
        format=report.FORMAT,
        date=dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        product=f"qimem {__version__} beside {openbao.version(directory)} and {_peer()}",
        machine=described,
        method={
            "quick": quick, "connections": CONNECTIONS, "pairs": effort.pairs, "seconds": effort.seconds,
        },
        notes=_notes(described),
        rows=rows,
        facts=[],
        gates=gates.judge(rows, quick=quick, on_disk=on_disk, gates=GATES),
        refused=refused,
    )  # fmt: skip


def _notes(described: dict[str, str | int | float]) -> list[str]:
    notes = [
        "each server on one core with its load on another, but for the rows `all cores`",
        "qimem answers when the audit record is on the disk; OpenBao when it is handed to the system",
        "oidc-provider: ES256 tokens, introspection of opaque ones, everything in memory, no audit log",
        "OpenBao: raft storage, file audit device, a token with one policy, keys of aes256-gcm96",
    ]
    if float(described["busy_percent"]) > machine.BUSY_PERCENT_MAX:
        notes.append(f"THE MACHINE WAS NOT QUIET: {described['busy_percent']} % busy before the run")
    return notes


class _Sides:
    """Both servers, running."""

    def __init__(self, server: Server, caller: callers.Caller, bao: Server, transit: TransitCaller) -> None:
        self.server, self.bao = server, bao
        self._token = caller.token(server)
        envelope = callers.check_envelope(server, caller, self._token)
        ciphertext = openbao.check_ciphertext(bao, transit, TEXT)
        self.encrypt = transit.encrypt(TEXT), caller.encrypt(self._token)
        self.decrypt = transit.decrypt(ciphertext), callers.decrypt(envelope, self._token)
        large = load.post("/v1/security/encrypt", {"key_id": caller.key_id, "input": LARGE_TEXT}, self._token)
        self.encrypt_large = transit.encrypt(LARGE_TEXT), large

    def compare(self, stage: Stage, name: str, both: tuple[Request, Request], connections: int) -> Row:
        """Pairs of one request."""
        theirs, ours = both
        load.ask(self.bao, theirs)
        load.ask(self.server, ours)
        return stage.compare(
            name,
            loaded("OpenBao", self.bao, lambda _: load.cycle([theirs]), connections),
            loaded("qimem", self.server, lambda _: load.cycle([ours]), connections),
            connections,
        )


def _pinned(directory: Path, effort: Effort) -> Iterator[Row]:
    if len(os.sched_getaffinity(0)) < len(_CORES):
        raise RunRefused("it takes two cores: one for the server, one for the load")
    with ExitStack() as stack:
        stage = stack.enter_context(Stage(directory, effort))
        sides = _start(stack, directory, workers=1, cores=_CORES)
        yield sides.compare(stage, "encrypt", sides.encrypt, CONNECTIONS)
        yield sides.compare(stage, "decrypt", sides.decrypt, CONNECTIONS)
        yield sides.compare(stage, "encrypt 32 KiB", sides.encrypt_large, CONNECTIONS)
        yield sides.compare(stage, "encrypt, one client", sides.encrypt, 1)


def _all_cores(directory: Path, effort: Effort) -> Iterator[Row]:
    with ExitStack() as stack:
        stage = stack.enter_context(Stage(directory, effort))
        sides = _start(stack, directory, workers=os.cpu_count() or 1, cores=None)
        yield sides.compare(stage, "encrypt, all cores", sides.encrypt, CONNECTIONS)
        yield sides.compare(stage, "encrypt, all cores, one client", sides.encrypt, 1)


def _identity(directory: Path, effort: Effort) -> Iterator[Row]:
    if not oidc_provider.installed():
        raise RunRefused("it takes node and npm: make compare then installs oidc-provider")
    directory.mkdir(mode=0o700)
    with ExitStack() as stack:
        stage = stack.enter_context(Stage(directory, effort))
        theirs, peer = oidc_provider.server(directory / "oidc-provider", _CORES)
        stack.enter_context(theirs)
        installation = Installation(directory / "qimem")
        ours = stack.enter_context(installation.server(cores=_CORES))
        caller = callers.settle_in(installation, ours)
        token = caller.token(ours)
        both = {
            "client credentials": (peer.by_client("urn:signed"), caller.by_client()),
            "introspect": (
                peer.introspect(oidc_provider.living_token(theirs, peer)),
                caller.introspect(token),
            ),
        }
        for name, (first, second) in both.items():
            load.ask(theirs, first)
            load.ask(ours, second)
            yield stage.compare(
                name,
                loaded("oidc-provider", theirs, lambda _, request=first: load.cycle([request])),
                loaded("qimem", ours, lambda _, request=second: load.cycle([request])),
            )


def _peer() -> str:
    return oidc_provider.version() if oidc_provider.installed() else "no oidc-provider"


def _start(stack: ExitStack, directory: Path, *, workers: int, cores: tuple[int, int] | None) -> _Sides:
    directory.mkdir(mode=0o700)
    bao = stack.enter_context(OpenBao(directory / "openbao", cores=cores))
    transit = openbao.settle_in(bao)
    installation = Installation(directory / "qimem")
    server = stack.enter_context(installation.server(workers=workers, cores=cores))
    return _Sides(server, callers.settle_in(installation, server), bao, transit)


if __name__ == "__main__":
    # A bench that is told to stop stops its servers first.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main())
