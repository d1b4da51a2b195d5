from __future__ import annotations

import os
import subprocess
import sys
import threading
from uuid import RFC_4122

import pytest

from qimem.crypto import randomness
from qimem.crypto.randomness import fill, new_uuid, nonce12, random_bytes, token_hex, token_text


def test_nonces_have_twelve_bytes_and_never_repeat_across_many_blocks():
    nonces = [nonce12() for _ in range(20_000)]
    assert {len(nonce) for nonce in nonces} == {12}
    assert len(set(nonces)) == len(nonces)


def test_uuids_are_version_4_and_never_repeat():
    uuids = [new_uuid() for _ in range(5_000)]
    assert {(uuid.version, uuid.variant) for uuid in uuids} == {(4, RFC_4122)}
    assert len(set(uuids)) == len(uuids)


@pytest.mark.parametrize("draw", [nonce12, new_uuid])
def test_a_value_drawn_between_any_two_lines_of_drawing_another_differs_from_it(draw):
    interrupting = []

    def on_line(frame, event, arg):
        if event == "line":
            interrupting.append(draw())
        return on_line

    def on_call(frame, event, arg):
        return on_line if frame.f_code.co_filename == randomness.__file__ else None

    before = sys.gettrace()
    sys.settrace(on_call)
    try:
        interrupted = [draw() for _ in range(600)]
    finally:
        sys.settrace(before)
    values = interrupted + interrupting
    assert len(interrupting) >= 600
    assert len(set(values)) == len(values)


def test_threads_that_draw_at_once_never_share_a_nonce():
    drawn: list[list[bytes]] = [[] for _ in range(4)]
    start = threading.Barrier(len(drawn))

    def draw(nonces: list[bytes]) -> None:
        start.wait()
        nonces.extend(nonce12() for _ in range(10_000))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=draw, args=(nonces,)) for nonces in drawn]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    together = [nonce for nonces in drawn for nonce in nonces]
    assert len(set(together)) == len(together) == 40_000


_FORKING = """
import os, sys
from qimem.crypto.randomness import new_uuid, nonce12
def draw():
    return {nonce12() for _ in range(700)} | {new_uuid().bytes for _ in range(700)}
draw()
read, write = os.pipe()
child = os.fork()
if child == 0:
    os.close(read)
    with os.fdopen(write, "wb") as out:
        out.write(b"".join(value.rjust(16, b"-") for value in draw()))
    os._exit(0)
os.close(write)
with os.fdopen(read, "rb") as file:
    data = file.read()
assert os.waitpid(child, 0)[1] == 0
theirs = {data[i:i + 16].lstrip(b"-") if data[i:i + 4] == b"----" else data[i:i + 16] for i in range(0, len(data), 16)}
ours = draw()
print(len(theirs), len(ours), len(theirs & ours))
"""


def test_parent_and_child_of_a_fork_draw_different_values():
    # In an interpreter of its own: forking the test process with its threads is not ours to do.
    run = subprocess.run(
        [sys.executable, "-c", _FORKING], check=False, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["1400", "1400", "0"]


@pytest.mark.parametrize(("count", "chars"), [(1, 2), (16, 22), (32, 43), (33, 44)])
def test_token_text_is_base64url_without_padding(count, chars):
    text = token_text(count)
    assert len(text) == chars
    assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    assert text != token_text(count) or count == 1


def test_random_bytes_has_the_length_asked_for():
    assert len(random_bytes(16)) == 16
    assert random_bytes(16) != random_bytes(16)


@pytest.mark.parametrize("length", [32, 1024 * 1024])
def test_fill_writes_the_whole_buffer_in_place(length):
    buffer = bytearray(length)
    same = buffer
    fill(buffer)
    assert same is buffer
    assert len(buffer) == length
    assert any(buffer[:16]), "the head stayed empty"
    assert any(buffer[-16:]), "the tail stayed empty"
    other = bytearray(length)
    fill(other)
    assert other != buffer


def test_fill_goes_on_after_short_reads(monkeypatch):
    whole = os.readv
    monkeypatch.setattr(os, "readv", lambda descriptor, views: whole(descriptor, [views[0][:5]]))
    buffer = bytearray(64)
    fill(buffer)
    assert any(buffer[-16:])


def test_fill_leaves_an_empty_buffer_empty():
    buffer = bytearray()
    fill(buffer)
    assert buffer == b""


def test_fill_works_where_there_are_no_device_files(monkeypatch, tmp_path):
    monkeypatch.setattr(randomness, "_DEVICE", str(tmp_path / "absent"))
    buffer = bytearray(32)
    fill(buffer)
    assert len(buffer) == 32
    assert any(buffer)


def test_fill_refuses_a_plain_file_in_place_of_the_device(monkeypatch, tmp_path):
    fake = tmp_path / "urandom"
    fake.write_bytes(b"the same key every time, on every machine")
    monkeypatch.setattr(randomness, "_DEVICE", str(fake))
    buffer = bytearray(32)
    with pytest.raises(OSError, match="not a device"):
        fill(buffer)
    assert not any(buffer)


def test_fill_refuses_a_device_that_ends(monkeypatch):
    monkeypatch.setattr(randomness, "_DEVICE", "/dev/null")
    with pytest.raises(OSError, match="ended"):
        fill(bytearray(32))


def test_token_hex_is_so_many_bytes_in_lower_case() -> None:
    text = token_hex(12)
    assert len(bytes.fromhex(text)) == 12
    assert text == text.lower() != token_hex(12)


def test_a_device_that_ends_gives_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "readv", lambda descriptor, views: 0)
    with pytest.raises(OSError, match="ended"):
        fill(bytearray(32))
