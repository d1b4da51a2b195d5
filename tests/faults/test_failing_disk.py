"""Errors and hangs of the disk while the server serves: every answer is defined, and comes within a second.

A shim before the C library fails what the server writes; see `tests.support.disk_faults`.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.faults.conftest import NEIGHBORS, Faulty, crash_and_start, judge, on_a_faulty_disk
from tests.support.disk_faults import BROKEN, FULL, READ_ONLY, UNTIL_IT_ENDS, Rule
from tests.support.fault_load import KEYS, Watch
from tests.support.load import spread
from tests.support.volume import volume

DATABASE, LOG = "qimem.db", "/audit/"
READING = frozenset({"list", "health", "jwks"})
ALL_BUT_WRITES = READING | {"encrypt", "decrypt"}
BEFORE_SECONDS = 0.3
UNDONE, UNKNOWN, UNRECORDED = "storage_unavailable", "outcome_unknown", "audit_unavailable"


@dataclass(frozen=True)
class Fault:
    """What fails, what goes on meanwhile, and what writes are answered.

    Args:
        seconds: How long it lasts in the acceptance run.
        share: Of that, in the daily run.
    """

    name: str
    rules: tuple[Rule, ...]
    codes: frozenset[str]
    unaffected: frozenset[str] = ALL_BUT_WRITES
    seconds: float = 5.0
    share: float = 0.12


def database(*operations: str, **how: int) -> tuple[Rule, ...]:
    return tuple(Rule(operation, DATABASE, **how) for operation in operations)


FAULTS = (
    Fault("full database", database("write", "allocate", "truncate", error=errno.ENOSPC), frozenset({UNDONE})),
    Fault("read-only database", database("open", "write", "truncate", error=errno.EROFS),
          frozenset({UNDONE, UNKNOWN})),
    Fault("EIO on write", database("write", error=errno.EIO), frozenset({UNDONE, UNKNOWN})),
    Fault("EIO on sync", database("sync", error=errno.EIO), frozenset({UNDONE, UNKNOWN})),
    Fault("sync of 10 s", database("sync", wait_ms=volume(10_000, share=0.2)), frozenset({UNDONE, UNKNOWN}),
          seconds=9.0, share=0.2),
    Fault("hanging sync", database("sync", wait_ms=UNTIL_IT_ENDS), frozenset({UNDONE, UNKNOWN}), share=0.24),
    Fault("everything broken", BROKEN, frozenset({UNDONE, UNRECORDED, UNKNOWN}), READING),
    Fault("everything hangs", (Rule("write", wait_ms=UNTIL_IT_ENDS), Rule("sync", wait_ms=UNTIL_IT_ENDS)),
          frozenset({UNDONE, UNRECORDED, UNKNOWN}), READING, share=0.24),
    Fault("ENOSPC on sync", database("sync", error=errno.ENOSPC), frozenset({UNDONE, UNKNOWN})),
    Fault("hanging write", database("write", wait_ms=UNTIL_IT_ENDS), frozenset({UNDONE, UNKNOWN}), share=0.24),
    Fault("everything full", FULL, frozenset({UNDONE, UNRECORDED, UNKNOWN}), READING),
    Fault("everything read-only", READ_ONLY, frozenset({UNDONE, UNRECORDED, UNKNOWN}), READING),
    Fault("sync of 1 s", database("sync", wait_ms=1_000), frozenset({UNDONE, UNKNOWN}), share=0.24),
    Fault("EIO in the audit log", (Rule("write", LOG, errno.EIO),), frozenset({UNRECORDED, UNKNOWN}), READING),
)  # fmt: skip


def endure(
    faulty: Faulty, *rules: Rule, seconds: float, meanwhile: Callable[[], None] = lambda: None
) -> Watch:
    """Clients before, during and after; everything works again at the end. `meanwhile`: done as the fault begins."""
    with Watch(faulty.server, faulty.person) as watch:
        time.sleep(BEFORE_SECONDS)
        met = faulty.disk.hits
        with watch.during("fault"), faulty.disk.failing(*rules):
            meanwhile()
            time.sleep(seconds)
        watch.recovers()
    assert faulty.disk.hits > met
    return watch


@pytest.mark.acceptance
@pytest.mark.parametrize(
    "fault", FAULTS[: volume(len(FAULTS), share=0.6)], ids=lambda fault: fault.name.replace(" ", "-")
)
def test_the_server_endures(faulty: Faulty, fault: Fault) -> None:
    seconds = volume(int(fault.seconds * 1000), share=fault.share) / 1000
    watch = endure(faulty, *fault.rules, seconds=seconds)
    answered = {code for kind, status, code in watch.seen("fault") if kind == "create" and status == 503}
    assert answered
    assert answered <= fault.codes
    judge(watch, unaffected=fault.unaffected)


@NEIGHBORS
def test_a_worker_that_hangs_with_the_lock_keeps_its_neighbor_from_writing_alone(faulty: Faulty) -> None:
    with spread(faulty.server, faulty.person.access_token) as (held, *_):
        rule = Rule("sync", DATABASE, wait_ms=UNTIL_IT_ENDS, process=held.worker)
        watch = endure(faulty, rule, seconds=2.5, meanwhile=lambda: held.send("POST", KEYS, {}))
    # The neighbor waits for the lock in vain, and nothing that it refused is done later.
    assert any(code == UNDONE for _, _, code in watch.seen("fault"))
    judge(watch, unaffected=ALL_BUT_WRITES)


def test_what_was_acknowledged_among_errors_survives_a_crash(faulty: Faulty) -> None:
    """Commits between failing syncs: the pages of those that failed are not what later ones stand on."""
    with Watch(faulty.server, faulty.person) as watch:
        for _ in range(4):
            time.sleep(BEFORE_SECONDS)
            with watch.during("fault"), faulty.disk.failing(*database("sync", error=errno.EIO)):
                time.sleep(BEFORE_SECONDS / 2)
        watch.recovers()
        crash_and_start(faulty.server)
    assert watch.lost_or_half_done() == []
    assert len(watch.names(None)) > 10
    assert len(watch.names(UNKNOWN)) > 1


def test_a_server_that_waits_for_its_disk_is_found_out(tmp_path) -> None:
    with on_a_faulty_disk(tmp_path, "waits_for_the_disk") as patient:
        watch = endure(patient, *database("sync", wait_ms=UNTIL_IT_ENDS), seconds=1.8)
        assert any(finding.startswith("late") for finding in watch.findings(unaffected=ALL_BUT_WRITES))


def test_a_server_that_answers_before_the_disk_is_found_out(tmp_path) -> None:
    with on_a_faulty_disk(tmp_path, "acknowledges_keys_before_commit") as hasty:
        watch = endure(hasty, *database("sync", error=errno.EIO), seconds=0.6)
        assert any(finding.startswith("lost") for finding in watch.lost_or_half_done())
