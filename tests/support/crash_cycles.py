"""Load, an end at a random moment, a new start at the same address, an examination: again and again."""

from __future__ import annotations

import contextlib
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tests.support.api import Person
from tests.support.customers import Customer, Ledger, under_load
from tests.support.examination import Auditor, Records
from tests.support.load import Chance, operator_of, tireless
from tests.support.server import Server
from tests.support.volume import volume

CUSTOMERS = 8
READY_SECONDS = volume(2, share=5, least=10)
"""Promised are 2; the daily run shares its machine with other tests."""

_PUT_OFF_SHARE, _PUT_OFF_FEW = 0.01, 100
"""A disk that takes longer than a second is answered as the contract says. More often than this the server is to blame."""
_ACKNOWLEDGED_LEAST = 10
_PATIENCE_SECONDS = 10


def _no_refusal(_: str) -> bool:
    return False


def _nothing() -> None:
    return None


@dataclass(frozen=True)
class Mishap:
    """What befalls a server.

    Args:
        strike: Ends it, and all of its processes.
        moment: When, in seconds of load.
        excused: Which refusals may come from the moment of the strike on.
        repair: What has to be done before it starts again; not counted as time to be ready.
        inspect: What else is looked at when it serves again; findings.
    """

    strike: Callable[[random.Random], None]
    moment: tuple[float, float] = (0.05, 1.5)
    excused: Callable[[str], bool] = _no_refusal
    repair: Callable[[], None] = _nothing
    inspect: Callable[[], list[str]] = list


class Cycles:
    """A server that is struck again and again. `records` knows all that was acknowledged.

    Args:
        server: Running.
    """

    def __init__(self, server: Server, mishap: Mishap) -> None:
        self.records = Records(server)
        self.starts: list[float] = []
        self.put_off: Counter[str] = Counter()
        self._server = server
        self._mishap = mishap
        self._address = server.url.removeprefix("http://")
        self._chance = Chance()
        self._pick = self._chance.source("kills")

    def run(self, count: int, *, until_found: bool = False) -> list[str]:
        """So many cycles, or only until something went wrong; what went wrong."""
        findings: list[str] = []
        acknowledged, done = 0, 0
        while done < count and not (until_found and findings):
            person = someone(self._server)
            customers = [
                Customer(self._server.url, person, self._chance.source(f"{done}.{n}"), f"c{done}-{n}")
                for n in range(CUSTOMERS)
            ]
            findings += self._cycle(person, customers)
            acknowledged += sum(len(customer.ledger) for customer in customers)
            done += 1
        usual, slowest = statistics.median(self.starts), max(self.starts)
        print(
            f"{done} cycles, {acknowledged} acknowledged, ready after {usual:.2f} s, at most {slowest:.2f} s"
        )
        print(f"put off: {self.put_off}")
        # An assertion shows the first of a thousand.
        print(Counter(finding.split()[0] for finding in findings))
        if self.put_off.total() > max(_PUT_OFF_FEW, acknowledged * _PUT_OFF_SHARE):
            findings.append(f"put off too often: {self.put_off.total()}")
        enough = acknowledged > _ACKNOWLEDGED_LEAST * done
        return findings if enough else [*findings, f"too little to judge: {acknowledged}"]

    def _cycle(self, person: Person, customers: Sequence[Customer]) -> list[str]:
        with under_load(customers):
            time.sleep(self._pick.uniform(*self._mishap.moment))
            patience = time.monotonic() + _PATIENCE_SECONDS
            while sum(len(each.ledger) for each in customers) <= 10 and time.monotonic() < patience:
                time.sleep(0.01)
            before = [(len(each.ledger.refusals), len(each.ledger.put_off)) for each in customers]
            self._mishap.strike(self._pick)
        for customer, known in zip(customers, before, strict=True):
            self._forgive(customer.ledger, *known)
        self._mishap.repair()
        auditor = Auditor(self._server, person)
        auditor.findings += self._start()
        auditor.findings += self.records.missing(customer.ledger for customer in customers)
        for customer in customers:
            auditor.examine(customer.ledger)
        return auditor.findings + self._mishap.inspect()

    def _forgive(self, ledger: Ledger, refused: int, put_off: int) -> None:
        for told, known in ((ledger.refusals, refused), (ledger.put_off, put_off)):
            told[known:] = [late for late in told[known:] if not self._mishap.excused(late)]
        self.put_off.update(ledger.put_off)
        ledger.put_off.clear()

    def _start(self) -> list[str]:
        begun = time.monotonic()
        self._server.start(self._address)
        took = time.monotonic() - begun
        self.starts.append(took)
        return [f"ready after {took:.1f} s"] if took > READY_SECONDS else []


def someone(server: Server) -> Person:
    """A new person."""
    with operator_of(server) as world:
        return tireless(world)


@contextlib.contextmanager
def at_its_own_address(server: Server, address: str) -> Iterator[Server]:
    """Running until the end of the block, whoever ended it meanwhile.

    Args:
        address: Nobody else uses it, so that nobody takes the port while the server is down.
    """
    try:
        yield server.start(address)
    finally:
        server.stop()
