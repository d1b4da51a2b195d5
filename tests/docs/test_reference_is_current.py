"""The generated reference pages say what the code does today."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.sources import ROOT

PAGES = ["api.md", "cli.md", "configuration.md", "errors.md", "limits.md", "metrics.md", "permissions.md"]


def generate(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "docs" / "generate.py"), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("page", PAGES)
def test_the_page_is_current(page: str) -> None:
    done = generate("--check", "--only", page)
    assert done.returncode == 0, f"run: make docs\n{done.stdout}{done.stderr}"


def test_a_page_that_lags_behind_is_found(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "reference" / "limits.md").read_text()
    (tmp_path / "limits.md").write_text(
        text.replace("| `BODY_BYTES_MAX` | 4,194,304 |", "| `BODY_BYTES_MAX` | 4 |")
    )
    done = generate("--check", "--only", "limits.md", "--reference", str(tmp_path))
    assert done.returncode == 1
    assert "+| `BODY_BYTES_MAX` | 4,194,304 |" in done.stdout


def test_missing_pages_are_written(tmp_path: Path) -> None:
    assert generate("--only", "limits.md", "--reference", str(tmp_path)).returncode == 0
    assert generate("--check", "--only", "limits.md", "--reference", str(tmp_path)).returncode == 0


def test_every_reference_page_is_written_or_has_an_author() -> None:
    there = {path.name for path in (ROOT / "docs" / "reference").glob("*.md")}
    assert there == {*PAGES, "envelope.md"}
