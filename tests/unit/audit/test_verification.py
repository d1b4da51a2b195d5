"""Every change of a log is seen by whoever reads it with the public key."""

from __future__ import annotations

import random

import pytest

from qimem.audit.verification import Altered, read_stream
from qimem.crypto.signatures import Ed25519Verifier
from tests.unit.audit.logs import VERIFIER, Log, a_log, signer


def read(log: Log, verifier: Ed25519Verifier = VERIFIER):
    return read_stream(log.named(), verifier)


def test_a_log_as_it_was_written_is_good() -> None:
    log = a_log()
    reading = read(log)
    assert (reading.segment, reading.chain, reading.unanchored, reading.torn_bytes) == (3, log.chain, 0, 0)
    assert reading.checkpoint is not None
    assert reading.checkpoint.number == 9


def test_what_comes_after_the_last_checkpoint_is_counted() -> None:
    log = a_log()
    log.batch(5)
    assert read(log).unanchored == 5


def test_preallocated_space_is_no_part_of_it() -> None:
    log = a_log()
    log.segments[-1] += bytes(4096)
    assert read(log).torn_bytes == 0


@pytest.mark.parametrize("cut", range(1, 150))
def test_a_last_batch_that_was_not_finished_is_told(cut: int) -> None:
    log = a_log()
    whole = len(log.segments[-1])
    log.batch(1)
    cut = min(cut, len(log.segments[-1]) - whole - 1)
    log.segments[-1] = log.segments[-1][: whole + cut] + bytes(100)
    reading = read(log)
    assert (reading.torn_bytes, reading.end) == (cut, whole)


def test_another_key_does_not_vouch_for_it() -> None:
    with pytest.raises(Altered, match="not signed with this key"):
        read(a_log(), Ed25519Verifier(signer(2).public_bytes()))


def test_a_flipped_bit_is_seen_wherever_it_is() -> None:
    chance = random.Random(3)
    log = a_log(segments=2)
    reference = read(log)
    for number, data in enumerate(log.segments):
        for at in range(len(data)):
            changed = bytearray(data)
            changed[at] ^= 1 << chance.randrange(8)
            log.segments[number] = bytes(changed)
            assert seen(log, reference), (number, at, changed[at])
        log.segments[number] = data


def seen(log: Log, reference) -> bool:
    """Altered, or shorter than the last checkpoint that is known of it."""
    try:
        reading = read(log)
    except Altered:
        return True
    return reading.checkpoint != reference.checkpoint or reading.torn_bytes > 0


def test_thousands_of_random_changes_are_seen() -> None:
    chance = random.Random(7)
    original, other = a_log(), a_log(instance="elsewhere")
    reference = read(original)
    for _ in range(3000):
        log = Log()
        log.segments = list(original.segments)
        mutate(chance, log.segments, other.segments)
        if log.segments != original.segments:
            assert seen(log, reference)


def mutate(chance: random.Random, segments: list[bytes], other: list[bytes]) -> None:
    number = chance.randrange(len(segments))
    lines = segments[number].splitlines(keepends=True)
    a, b = sorted(chance.randrange(len(lines)) for _ in range(2))
    kind = chance.randrange(8)
    if kind == 0:
        del lines[a]
    elif kind == 1:
        del lines[a : b + 1]
    elif kind == 2:
        lines[a], lines[b] = lines[b], lines[a]
    elif kind == 3:
        lines.insert(b, lines[a])
    elif kind == 4:
        lines[a] = chance.choice(other[number].splitlines(keepends=True))
    elif kind == 5:
        lines = lines[:a]
    elif kind == 6:
        del segments[number]
        return
    else:
        segments[number] = other[number]
        return
    segments[number] = b"".join(lines)
