"""Sides, servers and the program around the load."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bench import __main__ as program
from bench import argon2_lane, callers, floor, gates, load, machine, report, scenarios
from bench.figures import Fact, Pair, Run, RunRefused
from bench.many_realms import Order
from bench.report import Refusal, Report
from bench.scenarios import FULL, SMOKE, Effort, Side, Stage
from bench.servers import ROOT, Installation, Server, environment
from qimem.kernel.limits import PASSWORD_LANE_WIDTH

# Sides, floor and servers.


def test_sides_take_turns_after_a_warm_up(tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []

    def side(name: str) -> Side:
        def run(seconds: int) -> Run:
            seen.append((name, seconds))
            return Run(10, seconds, 1.0)

        return Side(name, run)

    effort = Effort(2, 5, 1, (1, 2), 1, 0)
    with Stage(tmp_path, effort) as stage:
        row = stage.compare("turns", side("a"), side("b"))
    assert seen == [("a", 1), ("b", 1), ("a", 5), ("b", 5), ("a", 5), ("b", 5)]
    assert row.pairs == [Pair(Run(10, 5, 1.0), Run(10, 5, 1.0))] * 2


def test_the_floor_reads_the_whole_body_before_it_answers() -> None:
    events = [{"more_body": True}, {"more_body": True}, {"more_body": False}]
    sent: list[Any] = []

    async def receive() -> Any:
        assert not sent
        return events.pop(0)

    async def send(message: Any) -> None:
        assert not events
        sent.append(message)

    asyncio.run(floor.constant(b"answer")({}, receive, send))
    assert sent[0]["headers"][1] == (b"content-length", b"6")
    assert sent[1]["body"] == b"answer"


def test_the_lane_is_as_wide_as_the_products() -> None:
    result = argon2_lane.verify_for(0)
    assert result["requests"] == PASSWORD_LANE_WIDTH
    assert result["cpu_seconds"] > 0


def test_callers_are_spread_over_all_realms() -> None:
    chosen = sorted(Order(realms=10_000, keys_per_realm=1, callers=200).chosen())
    assert len(chosen) == 200
    assert {later - earlier for earlier, later in itertools.pairwise(chosen)} == {50}


SLEEPS = "import time; print('credentials x\\nready http://127.0.0.1:7', flush=True); time.sleep(30)"


def program_that(says: str, directory: Path) -> Server:
    return Server("program", [sys.executable, "-c", says], directory)


def test_a_server_that_ends_is_refused_with_its_last_words(tmp_path: Path) -> None:
    server = program_that("import sys; sys.exit('port taken')", tmp_path)
    with pytest.raises(RunRefused, match="did not start: port taken"):
        server.start()


def test_a_server_is_ready_when_it_says_so_and_ends_with_its_block(tmp_path: Path) -> None:
    with program_that(SLEEPS, tmp_path) as server:
        assert server.port == 7
        assert list(server.cpu()) == [server.pid]
        pid = server.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_server_that_does_not_come_to_rest_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.servers._QUIET_LIMIT_SECONDS", 0.2)
    # Even a program that does nothing is then too busy.
    monkeypatch.setattr("bench.servers._QUIET_CPU_SECONDS", -1)
    with program_that(SLEEPS, tmp_path) as server, pytest.raises(RunRefused, match="is busy"):
        server.settle()


def test_a_server_that_rests_has_settled(tmp_path: Path) -> None:
    with program_that(SLEEPS, tmp_path) as server:
        server.settle()


def test_a_server_that_does_not_end_when_told_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.servers.STOP_SECONDS", 0.1)
    with program_that(
        f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPS}", tmp_path
    ) as server:
        pid = server.pid
        started = time.monotonic()
    assert time.monotonic() - started < 15
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_no_server_inherits_a_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QIMEM_BIND", "0.0.0.0:1")
    monkeypatch.setenv("DATABASE_URL", "postgresql://elsewhere")
    assert not {"QIMEM_BIND", "DATABASE_URL"} & environment().keys()


def test_a_filled_installation_serves_its_callers(tmp_path: Path) -> None:
    installation = Installation(tmp_path / "filled")
    first, last = scenarios.fill(installation, 4, 2)
    assert (first.realm_id, last.realm_id) == ("realm-00000", "realm-00002")
    with installation.server() as server:
        callers.check_envelope(server, last, last.token(server))
        assert last.refresh_token(server) != first.refresh_token(server)
        load.ask(server, first.create_key(first.token(server)))


# The program.


def result(**changed: Any) -> Report:
    empty = Report(report.FORMAT, "2026-01-02T03:04:05Z", "qimem 0", {"processor": "Some CPU", "cores": 2},
                   {}, [], [], [], [], [])  # fmt: skip
    return dataclasses.replace(empty, **changed)


FAILED = gates.judge([Fact("start to ready", "s", [9.0])], quick=False, on_disk=True)


def run_program(monkeypatch: pytest.MonkeyPatch, found: Report, *arguments: str) -> int:
    monkeypatch.setattr(program, "_measure", lambda *_, **__: found)
    return program.main(list(arguments))


@pytest.mark.parametrize(
    ("found", "arguments", "code"),
    [
        (result(gates=FAILED), ["--gate"], 1),
        (result(gates=FAILED), [], 0),
        (result(), ["--gate"], 0),
        (result(refused=[Refusal("encrypt", "errors")]), [], 2),
        (result(gates=FAILED, refused=[Refusal("encrypt", "errors")]), ["--gate"], 2),
    ],
)
def test_the_exit_code_tells_how_it_went(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, found: Report, arguments: list[str], code: int
) -> None:
    assert run_program(monkeypatch, found, "--results", str(tmp_path), *arguments) == code


def test_without_wrk_nothing_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert run_program(monkeypatch, result()) == 2
    assert "wrk is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["--quick", "--gate"], ["--pairs", "0"], ["--seconds", "x"], ["--only", "nothing"],
     ["--pairs", "31", "--seconds", "10"]],
)  # fmt: skip
def test_arguments_that_make_no_sense_are_refused(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as refusal:
        run_program(monkeypatch, result(), *arguments)
    assert refusal.value.code == 2


def test_a_second_result_of_a_day_does_not_replace_the_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for _ in range(2):
        run_program(monkeypatch, result(), "--results", str(tmp_path))
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["2026-01-02-2x-some-2.json", "2026-01-02-2x-some.json"]


def test_a_smoke_run_keeps_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(program, "ROOT", tmp_path)
    run_program(monkeypatch, result(), "--quick")
    assert list(tmp_path.iterdir()) == []


def test_the_machine_is_described_without_its_name(tmp_path: Path) -> None:
    described = machine.describe(tmp_path)
    assert set(described) == {
        "cores", "processor", "architecture", "memory_mb", "kernel", "python", "sqlite", "wrk",
        "file_system", "busy_percent", *machine.PACKAGES,
    }  # fmt: skip
    assert str(tmp_path) not in json.dumps(described)


def test_every_gate_is_about_something_that_a_scenario_measures() -> None:
    text = Path(scenarios.__file__).read_text()
    assert [gate.subject for gate in gates.GATES if f'"{gate.subject}"' not in text] == []


def test_a_smoke_run_is_smaller_in_everything() -> None:
    assert SMOKE.realms[1] < FULL.realms[1]
    assert SMOKE.pairs * SMOKE.seconds < FULL.pairs * FULL.seconds


def test_a_smoke_run_of_encrypt_measures_floor_and_product(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "bench",
        "--quick",
        "--only",
        "encrypt",
        "--pairs",
        "1",
        "--seconds",
        "1",
    ]
    command += ["--results", str(tmp_path / "results"), "--directory", str(tmp_path)]
    started = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = (tmp_path / "results").iterdir()
    row, without = report.decode(file.read_bytes()).rows
    assert (without.name, without.first, without.second) == ("encrypt, no audit", "floor", "qimem")
    assert (row.name, row.first, row.second, row.connections) == ("encrypt", "floor", "qimem", 32)
    (pair,) = row.pairs
    # A worker that serves cannot have used less than a microsecond, or more than both cores, per request.
    for run in (pair.first, pair.second):
        assert 1 < run.cpu_us < 2e6 * (time.monotonic() - started) / run.requests
        assert 0 < run.p50_us <= run.p99_us
    assert pair.first.cpu_us < pair.second.cpu_us
    assert [left.name for left in tmp_path.iterdir()] == ["results"]
