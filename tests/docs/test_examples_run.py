"""The examples of the documentation run, as they stand, against a real server, and answer what the page says.

Per page: every `bash` fence, in order, in one shell, in a directory where a server is installed. A `json` or
`text` fence behind it is the output, `…` in it any text. `console` fences and others are only read.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.architecture.sources import ROOT
from tests.support.cli import clean_environment
from tests.support.server import Server

ADDRESS = "http://127.0.0.1:8080"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
END = "--- end of a fence ---"
TEXTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("**/*.md"))]
PAGES = [str(path.relative_to(ROOT)) for path in TEXTS if "\n```bash\n" in path.read_text()]


@dataclass(frozen=True)
class Example:
    """One fence to run, and the output that the page shows for it."""

    script: str
    expected: str | None


def examples(text: str) -> list[Example]:
    fences = FENCE.findall(text)
    shown = [*fences[1:], ("", "")]
    return [
        Example(script, output if kind in {"json", "text"} else None)
        for (language, script), (kind, output) in zip(fences, shown, strict=True)
        if language == "bash"
    ]


def agrees(expected: str, output: str) -> bool:
    pattern = ".*".join(re.escape(part) for part in expected.strip().split("…"))
    return re.fullmatch(pattern, output.strip()) is not None


def run(found: list[Example], directory: Path, url: str) -> list[str]:
    """Output of each fence; the whole shell's stderr in the failure."""
    script = f"\necho; echo '{END}'\n".join(example.script.replace(ADDRESS, url) for example in found)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=directory, env=clean_environment(), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.split(END)


@pytest.mark.parametrize("page", PAGES)
def test_the_examples_of_the_page_run(page: str, tmp_path: Path) -> None:
    found = examples((ROOT / page).read_text())
    (tmp_path / ".venv").symlink_to(sys.prefix)
    server = Server(tmp_path).start()
    try:
        outputs = run(found, tmp_path, server.url)
    finally:
        server.stop()
    assert len(outputs) == len(found)
    for example, output in zip(found, outputs, strict=True):
        if example.expected is not None:
            assert agrees(example.expected, output), (
                f"{example.script}\nshown: {example.expected}\ngot: {output}"
            )


def test_the_first_pages_that_anyone_reads_are_among_them() -> None:
    assert {"README.md", "docs/tutorial/first-encryption.md"} <= set(PAGES)


def test_the_readme_shows_the_lines_that_the_first_start_prints(tmp_path: Path) -> None:
    (tmp_path / ".venv").symlink_to(sys.prefix)
    server = Server(tmp_path).start()
    server.stop()
    printed = [line for line in server.lines if "curl" in line]
    (shown,) = [example.script for example in examples((ROOT / "README.md").read_text())]
    called = re.compile(r"\$\([^)]*\)")
    named = [called.sub("$(token)", line).replace(f"{tmp_path}/", "") for line in printed]
    assert named == called.sub("$(token)", shown.replace(ADDRESS, server.url)).splitlines()


def test_another_output_than_the_shown_one_is_found() -> None:
    assert agrees('{"a":"…","b":1}', '{"a":"x","b":1}\n')
    assert not agrees('{"a":"…","b":1}', '{"a":"x","b":2}')


def test_every_link_of_the_documentation_leads_somewhere() -> None:
    dead = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in TEXTS
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert not dead, dead
