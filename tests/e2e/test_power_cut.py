"""The power is cut under load: what was acknowledged is there, with its record, and nothing is half there.

A kill proves nothing of this, as what a killed process wrote stays in the memory of the system. Needs root.
"""

from __future__ import annotations

import json

import pytest

from tests.support.cli import qimem
from tests.support.crash_cycles import Cycles, at_its_own_address
from tests.support.powered import Powered, embedded, with_postgres
from tests.support.server import Server
from tests.support.volume import volume

ADDRESS = "127.0.0.78:0"
CONTROL_CYCLES = 10


def power_cuts(powered: Powered, count: int, *, until_found: bool = False) -> list[str]:
    """What went wrong in so many cuts, and in the log that they left."""
    with at_its_own_address(powered.server, ADDRESS) as server:
        cycles = Cycles(server, powered.mishap())
        findings = cycles.run(count, until_found=until_found)
        return findings + unproven(server, cycles.records.acknowledged)


def unproven(server: Server, acknowledged: set[str]) -> list[str]:
    """What the commands for auditors say of a log: altered, or without a record of what was answered."""
    verified = qimem("audit", "verify", "--data-dir", server.data)
    exported = qimem("audit", "export", "--data-dir", server.data)
    known = {json.loads(line)["request_id"] for line in exported.out.splitlines()}
    findings = [] if verified.code == 0 else [f"audit verify: {verified.out} {verified.err}"]
    return findings + [f"lost: not exported: {request}" for request in acknowledged - known]


@pytest.mark.acceptance
def test_what_was_acknowledged_survives_a_power_cut() -> None:
    with embedded() as powered:
        assert power_cuts(powered, volume(300, share=0.01)) == []


@pytest.mark.acceptance
def test_what_was_acknowledged_survives_a_power_cut_of_postgresql() -> None:
    with with_postgres() as powered:
        assert power_cuts(powered, volume(100, share=0.01)) == []


HASTY = ["leaves_the_log_to_the_system", "leaves_commits_to_the_system"]


@pytest.mark.acceptance
@pytest.mark.parametrize("fault", HASTY[: volume(2, share=0.5)])
def test_a_database_that_does_not_wait_for_the_disk_is_found_out(fault: str) -> None:
    with embedded(fault, workers=1) as powered:
        findings = power_cuts(powered, CONTROL_CYCLES, until_found=True)
    assert any(finding.startswith("lost:") for finding in findings), findings


def test_a_postgresql_that_does_not_wait_for_the_disk_is_found_out() -> None:
    with with_postgres(synchronous_commit="off") as powered:
        findings = power_cuts(powered, CONTROL_CYCLES, until_found=True)
    assert any(finding.startswith("lost:") for finding in findings), findings
