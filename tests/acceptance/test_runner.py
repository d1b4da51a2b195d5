"""The acceptance runner runs full counts, keeps results, and goes on where it stopped."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.acceptance import __main__ as runner
from tests.acceptance.__main__ import main, state_of_the_code
from tests.support.volume import VARIABLE, volume

PLANTED = """
import os, pathlib, pytest
from tests.support.volume import volume

@pytest.mark.acceptance
def test_counts():
    seen = pathlib.Path("seen")
    print("seen before:", seen.exists())
    seen.write_text(seen.read_text() + f"{volume(100)} " if seen.exists() else f"{volume(100)} ")

@pytest.mark.acceptance
def test_breaks():
    assert not pathlib.Path("broken").exists()

@pytest.mark.acceptance
@pytest.mark.parametrize("case", range(volume(2, share=0.5)))
def test_has_cases(case):
    pass

def test_of_every_day():
    assert False
"""


@pytest.fixture
def planted(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setattr(runner, "state_of_the_code", lambda: "one")
    monkeypatch.setattr(runner, "ROOT", tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = acceptance\n")
    (tmp_path / "test_planted.py").write_text(PLANTED)
    return tmp_path


def test_a_share_of_the_full_count_runs_every_day(monkeypatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert (volume(1_000), volume(10), volume(10, least=3), volume(100, share=0.05)) == (20, 1, 3, 5)
    monkeypatch.setenv(VARIABLE, "full")
    assert volume(1_000, share=0.01) == 1_000


def test_a_result_tells_its_commit_and_whether_more_than_results_was_changed(planted: Path) -> None:
    def git(*words: str) -> None:
        subprocess.run(
            ["git", "-c", "user.name=x", "-c", "user.email=x@x.example", *words], cwd=planted, check=True
        )

    assert runner.commit() == ""
    (planted / runner.RESULTS).mkdir()
    result = planted / runner.RESULTS / "one.json"
    result.write_text("{}")
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "one")
    known = runner.commit()
    assert len(known) >= 7
    result.write_text("[]")
    assert runner.commit() == known
    (planted / "test_planted.py").write_text("")
    assert runner.commit() == f"{known}-dirty"


def test_full_counts_run_once_and_what_passed_is_not_repeated(planted: Path) -> None:
    (planted / "broken").touch()
    assert main([]) == 1
    (planted / "broken").unlink()
    assert main([]) == 0
    assert (planted / "seen").read_text() == "100 "
    records = [json.loads(file.read_text()) for file in (planted / "acceptance-results").glob("*.json")]
    assert [record["passed"] for record in records] == [True] * 4
    assert [record["printed"] for record in records if "counts" in record["test"]] == [["seen before: False"]]


def test_a_stack_that_a_test_printed_is_not_kept() -> None:
    log = """
----------------------------- Captured stdout call -----------------------------
+++++++++++++ Timeout +++++++++++++
~~~~~~ Stack of password_0 (1) ~~~~~~
  File "/somewhere/threading.py", line 1, in run
    self.run()
300 cycles
=========================== short test summary info ============================
"""
    assert runner.said(log) == ["300 cycles"]


def test_a_change_of_the_code_meanwhile_proves_nothing(planted: Path, monkeypatch) -> None:
    states = iter(["one", "two"])
    monkeypatch.setattr(runner, "state_of_the_code", lambda: next(states))
    assert main(["--only", "counts"]) == 1


def test_another_state_of_the_code_runs_everything_again(planted: Path, monkeypatch) -> None:
    arguments = ["--only", "counts"]
    assert main(arguments) == 0
    monkeypatch.setattr(runner, "state_of_the_code", lambda: "two")
    assert main(arguments) == 0
    assert (planted / "seen").read_text() == "100 100 "


def test_a_name_that_nothing_has_is_an_error(planted: Path) -> None:
    assert main(["--only", "no such"]) == 1


def test_a_change_of_any_file_is_another_state(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(runner, "ROOT", tmp_path)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "a.py").write_text("1")
    before = state_of_the_code()
    assert state_of_the_code() == before
    (tmp_path / "acceptance-results").mkdir()
    (tmp_path / "acceptance-results" / "a.json").write_text("1")
    assert state_of_the_code() == before
    (tmp_path / "a.py").write_text("2")
    assert state_of_the_code() != before
