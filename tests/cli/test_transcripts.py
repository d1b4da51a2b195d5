"""Every transcript is played: `$ command`, then its stdout, `! ` lines of stderr, `= code` at the end.

`{tmp}` is a fresh directory. Transcripts are the reference of how commands talk.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from tests.support.cli import qimem

TRANSCRIPTS = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))


@pytest.mark.parametrize("transcript", TRANSCRIPTS, ids=lambda path: path.stem)
def test_commands_talk_as_written(transcript: Path, tmp_path: Path) -> None:
    lines = transcript.read_text().splitlines()
    position = 0
    while position < len(lines):
        command = lines[position]
        if command.startswith("#") or not command:
            position += 1
            continue
        assert command.startswith("$ qimem"), command
        end = next(n for n in range(position, len(lines)) if lines[n].startswith("= "))
        expected = lines[position + 1 : end]
        done = qimem(*shlex.split(command.replace("{tmp}", str(tmp_path)))[2:], cwd=tmp_path)
        out = [line.replace(str(tmp_path), "{tmp}") for line in done.out.splitlines()]
        err = [line.replace(str(tmp_path), "{tmp}") for line in done.err.splitlines()]
        assert out + [f"! {line}" for line in err] == expected, command
        assert done.code == int(lines[end].removeprefix("= ")), command
        position = end + 1


def test_there_are_transcripts() -> None:
    assert len(TRANSCRIPTS) >= 3
