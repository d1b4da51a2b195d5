"""Statistics, gates and the printed report."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench import report
from bench.figures import Fact, Pair, Row, Run, spread
from bench.gates import GATES, Gate, judge
from bench.report import FORMAT, Refusal, Report
from bench.servers import ROOT


def run(rate: float, cpu_us: float | None = 10, p50: float | None = 100, p99: float | None = 200) -> Run:
    cpu_seconds = None if cpu_us is None else rate * cpu_us / 1e6
    return Run(requests=int(rate), seconds=1.0, cpu_seconds=cpu_seconds, p50_us=p50, p99_us=p99)


def row(*pairs: tuple[Run, Run], name: str = "encrypt") -> Row:
    return Row(name, "floor", "qimem", 32, [Pair(*pair) for pair in pairs])


# Statistics.


@pytest.mark.parametrize(
    ("values", "expected"),
    [([3.0, 1.0, 2.0], (2.0, 1.0, 3.0)), ([4.0, 1.0, 2.0, 3.0], (2.5, 1.0, 4.0)), ([7.0], (7.0, 7.0, 7.0))],
)
def test_a_spread_is_median_least_and_most(values: list[float], expected: tuple[float, ...]) -> None:
    assert spread(values) == expected


def test_there_is_no_spread_of_nothing() -> None:
    with pytest.raises(ValueError, match="no figures"):
        spread([])


def test_ratios_are_taken_pair_by_pair() -> None:
    # The medians of the sides alone would say 300 / 200.
    found = row((run(100), run(50)), (run(200), run(300)), (run(1000), run(400)))
    assert found.ratio("rate") == (0.5, 0.4, 1.5)
    assert found.figure("rate ratio") == 0.5


def test_the_time_ratio_is_the_rate_ratio_upside_down() -> None:
    assert row((run(120), run(100))).figure("time ratio") == pytest.approx(1.2)


def test_the_cpu_ratio_is_about_cpu_per_request() -> None:
    assert row((run(1000, cpu_us=20), run(10, cpu_us=30))).figure("cpu ratio") == pytest.approx(1.5)


def test_the_p99_ratio_is_second_over_first() -> None:
    assert row((run(10, p99=100), run(10, p99=250))).figure("p99 ratio") == 2.5


def test_rate_and_p50_are_those_of_the_second_side() -> None:
    found = row((run(1, p50=1), run(70, p50=1500)), (run(1, p50=1), run(90, p50=2500)))
    assert found.figure("rate") == 80
    assert found.figure("p50 ms") == 2.0


@pytest.mark.parametrize("name", ["speed", "", "median"])
def test_an_unknown_figure_is_an_error(name: str) -> None:
    with pytest.raises(KeyError):
        row((run(1), run(1))).figure(name)


def test_a_figure_that_a_side_lacks_is_an_error() -> None:
    with pytest.raises(KeyError):
        row((run(1), run(1, cpu_us=None))).figure("cpu ratio")


def test_a_fact_knows_median_and_most_alone() -> None:
    fact = Fact("start to ready", "s", [0.4, 0.9, 0.5])
    assert (fact.figure("median"), fact.figure("most")) == (0.5, 0.9)
    with pytest.raises(KeyError):
        fact.figure("least")


# Gates.

LEAST = Gate("at least", "encrypt", "rate ratio", "at least", 0.5, 0.75, "×")
MOST = Gate("at most", "encrypt", "time ratio", "at most", 2.0, 1.25, "×")
DISK = Gate("on disk", "encrypt", "rate", "at least", 1, 1, "/s", durable=True)


@pytest.mark.parametrize(
    ("gate", "second", "passed", "reached"),
    [
        (LEAST, 499, False, False),
        (LEAST, 500, True, False),
        (LEAST, 750, True, True),
        (MOST, 499, False, False),
        (MOST, 500, True, False),
        (MOST, 800, True, True),
    ],
)
def test_a_gate_holds_at_its_bound_and_not_beyond(
    gate: Gate, second: int, passed: bool, reached: bool
) -> None:
    (judged,) = judge([row((run(1000), run(second)))], quick=False, on_disk=True, gates=(gate,))
    assert (judged.passed, judged.reached) == (passed, reached)


def test_a_smoke_run_is_not_judged() -> None:
    (judged,) = judge([row((run(1000), run(1)))], quick=True, on_disk=True, gates=(LEAST,))
    assert (judged.passed, judged.reached) == (None, None)


@pytest.mark.parametrize(("gate", "passed"), [(DISK, None), (LEAST, True)])
def test_durability_is_not_judged_in_memory(gate: Gate, passed: bool | None) -> None:
    (judged,) = judge([row((run(1000), run(1000)))], quick=False, on_disk=False, gates=(gate,))
    assert judged.passed is passed


def test_what_was_not_measured_is_not_judged() -> None:
    assert judge([row((run(1), run(1)), name="something else")], quick=False, on_disk=True) == []


@pytest.mark.parametrize("gate", GATES, ids=lambda gate: gate.name)
def test_every_gate_asks_for_a_figure_that_exists(gate: Gate) -> None:
    fact = Fact(gate.subject, gate.unit, [1.0])
    subject = fact if gate.figure in ("median", "most") else row((run(1), run(1)), name=gate.subject)
    assert gate.name in [judged.name for judged in judge([subject], quick=False, on_disk=True)]


@pytest.mark.parametrize("gate", GATES, ids=lambda gate: gate.name)
def test_every_goal_is_beyond_its_gate(gate: Gate) -> None:
    assert gate.goal > gate.gate if gate.bound == "at least" else gate.goal < gate.gate


# The report.


def full_report() -> Report:
    rows = [row((run(1000), run(350))), row((run(9), run(9, cpu_us=None)), name="busy")]
    facts = [Fact("start to ready", "s", [0.25, 1.75])]
    return Report(
        format=FORMAT,
        date="2026-01-02T03:04:05Z",
        product="qimem 0",
        machine={"cores": 2},
        method={"pairs": 1},
        notes=["no audit, no limits"],
        rows=rows,
        facts=facts,
        gates=judge([*rows, *facts], quick=False, on_disk=True),
        refused=[Refusal("refresh", "errors among 7 requests: status 1")],
    )


def line(text: str, start: str) -> list[str]:
    return next(found for found in text.splitlines() if found.startswith(start)).split()


def test_a_kept_report_reads_back_the_same() -> None:
    assert report.decode(full_report().encode()) == full_report()


def test_a_report_of_another_format_is_refused() -> None:
    text = full_report().encode().replace(b'"format": 1', b'"format": 2')
    with pytest.raises(ValueError, match="format 2"):
        report.decode(text)


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b'{"format": 1}'])
def test_what_is_no_report_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        report.decode(text)


def test_a_row_shows_rates_ratio_and_cpu() -> None:
    shown = line(report.render(full_report()), "encrypt  ")
    assert shown == ["encrypt", "floor", "1,000", "10.0", "qimem", "350", "10.0", "0.35", "0.35–0.35", "1.00",
                     "0.10", "0.20"]  # fmt: skip


def test_a_figure_that_is_not_known_is_a_dash() -> None:
    shown = line(report.render(full_report()), "busy ")
    assert shown[6] == shown[9] == "–"


def test_a_failed_gate_stands_out() -> None:
    text = report.render(full_report())
    assert line(text, "encrypt ÷ floor")[-2:] == ["NO", "no"]
    assert line(text, "start to ready     ")[-2:] != ["yes", "yes"]


def test_facts_notes_and_refusals_are_shown() -> None:
    text = report.render(full_report())
    assert line(text, "start to ready")[3:] == ["1.00", "0.25–1.75", "s", "2"]
    assert "note:    no audit, no limits" in text
    assert "NOT MEASURED refresh: errors among 7 requests: status 1" in text


def test_a_kept_report_is_printed_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    file.write_bytes(full_report().encode())
    command = [sys.executable, "-m", "bench.report", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == report.render(full_report()) + "\n"
