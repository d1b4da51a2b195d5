from __future__ import annotations

import hashlib
import hmac
import os
import stat
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from qimem.audit import sinks as module
from qimem.audit.sinks import FileSink, SinkFailed, UrlSink, append
from qimem.kernel.secret import SecretBytes
from qimem.outbound.answer import Answer, OutboundFailed
from qimem.outbound.target import Target, parse_target

pytestmark = pytest.mark.anyio

SECRET = b"0123456789abcdef"
TARGET = parse_target("https://hooks.example/in")


async def test_checkpoints_are_appended_a_line_each_and_private(tmp_path: Path) -> None:
    file = tmp_path / "kept.jsonl"
    sink = FileSink(file)
    await sink.take([b"one", b"two"])
    await sink.take([b"three"])
    assert file.read_bytes() == b"one\ntwo\nthree\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_what_was_there_stays(tmp_path: Path) -> None:
    file = tmp_path / "kept.jsonl"
    file.write_bytes(b"before\n")
    await FileSink(file).take([b"one"])
    assert file.read_bytes() == b"before\none\n"


async def test_a_line_that_was_cut_off_does_not_spoil_the_next(tmp_path: Path) -> None:
    file = tmp_path / "kept.jsonl"
    file.write_bytes(b'before\n{"checkp')
    await FileSink(file).take([b"one"])
    assert file.read_bytes() == b'before\n{"checkp\none\n'


async def test_it_is_synced_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    file = tmp_path / "kept.jsonl"
    # One that is there: of a new one the directory is synced too.
    file.write_bytes(b"before\n")
    monkeypatch.setattr(module.os, "fsync", refuse)
    with pytest.raises(SinkFailed, match="Input/output"):
        await FileSink(file).take([b"one"])


@pytest.mark.parametrize("place", ["link", "pipe", "directory", "nowhere"])
def test_what_is_no_file_of_ours_is_not_written(tmp_path: Path, place: str) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"precious\n")
    match place:
        case "link":
            (tmp_path / place).symlink_to(other)
        case "pipe":
            os.mkfifo(tmp_path / place)
        case "directory":
            (tmp_path / place).mkdir()
    file = tmp_path / "nowhere" / "kept" if place == "nowhere" else tmp_path / place
    with pytest.raises(OSError, match=r".+"):
        append(file, b"one\n")
    assert other.read_bytes() == b"precious\n"


async def test_a_mount_that_hangs_is_given_up_and_gets_no_second_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, entered = threading.Event(), []

    def hang(file: Path, data: bytes) -> None:
        entered.append(data)
        gate.wait(10)

    monkeypatch.setattr(module, "append", hang)
    monkeypatch.setattr(module, "AUDIT_SINK_FILE_SECONDS", 0.05)
    sink = FileSink(tmp_path / "kept.jsonl")
    for _ in range(3):
        with pytest.raises(SinkFailed, match="does not answer"):
            await sink.take([b"one"])
    assert entered == [b"one\n"]
    monkeypatch.setattr(module, "AUDIT_SINK_FILE_SECONDS", 5)
    gate.set()
    while sink._hanging.locked():
        await module.asyncio.sleep(0.01)
    await sink.take([b"two"])
    assert entered == [b"one\n", b"two\n"]


class Posted:
    """Answers what it is told, and keeps what was posted."""

    def __init__(self, *answers: Answer | OutboundFailed) -> None:
        self._answers = list(answers)
        self.requests: list[tuple[Target, bytes, Mapping[str, str]]] = []

    async def post(self, target: Target, body: bytes, headers: Mapping[str, str]) -> Answer:
        self.requests.append((target, body, headers))
        answer = self._answers.pop(0) if self._answers else Answer(200, b"")
        if isinstance(answer, OutboundFailed):
            raise answer
        return answer


async def test_each_checkpoint_is_posted_as_it_is_signed() -> None:
    posted = Posted(Answer(200, b""), Answer(204, b""))
    await UrlSink(posted, TARGET, None).take([b'{"a": 1}', b'{"b":2}'])
    plain = {"Content-Type": "application/json"}
    assert posted.requests == [(TARGET, b'{"a": 1}', plain), (TARGET, b'{"b":2}', plain)]


async def test_a_shared_secret_vouches_for_the_body() -> None:
    posted = Posted()
    await UrlSink(posted, TARGET, SecretBytes(SECRET)).take([b"{}"])
    ((_, body, headers),) = posted.requests
    expected = hmac.new(SECRET, body, hashlib.sha256).hexdigest()
    assert headers["X-Qimem-Signature"] == f"sha256={expected}"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer(199, b""), "199"),
        (Answer(404, b"secret words"), "answered 404"),
        (Answer(500, b""), "answered 500"),
        (OutboundFailed("no answer in time"), "in time"),
    ],
)
async def test_what_is_not_taken_is_told_and_the_rest_waits(
    answer: Answer | OutboundFailed, reason: str
) -> None:
    posted = Posted(Answer(200, b""), answer)
    with pytest.raises(SinkFailed, match=reason) as failed:
        await UrlSink(posted, TARGET, None).take([b"1", b"2", b"3"])
    assert len(posted.requests) == 2
    assert "secret words" not in str(failed.value)
