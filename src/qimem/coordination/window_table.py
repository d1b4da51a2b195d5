"""A table of counting windows, which all workers of a node share.

A window begins with the first charge of its bucket and lasts by the monotonic clock, which all processes of a
machine have in common. A bucket has its place in one of many small sets of slots. With several workers, a set is
guarded by a lock on one byte of the memory's file: the system takes it from whoever dies. Nobody waits for a holder
that was stopped; each of the others then admits its share of what was left, and adds that to the window when the lock
is free again. One that merely lost its processor is waited for: without that, four processes on a busy machine admitted
one unit too many.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
from collections.abc import Callable
from fcntl import F_GETLK, F_UNLCK, F_WRLCK, LOCK_EX, LOCK_NB, LOCK_UN, fcntl, lockf
from pathlib import Path
from typing import Final

from qimem.crypto.randomness import random_bytes
from qimem.kernel.clock import MICROSECONDS, Clock
from qimem.kernel.limits import (
    COUNTED_BUCKETS_MAX,
    COUNTER_LOCK_PAUSE_SECONDS,
    COUNTER_LOCK_PAUSE_SECONDS_MAX,
    COUNTER_LOCK_SECONDS,
    COUNTER_LOOK_SECONDS,
    COUNTS_ALONE_MAX,
    REMEMBERED_BUCKETS_MAX,
)
from qimem.kernel.metering import Allowance, Charge
from qimem.kernel.shared_memory import memory_file

BUCKET_BYTES: Final = 16
_SLOT: Final = struct.Struct(f"={BUCKET_BYTES}sdQQ")
"""Bucket; end by the monotonic clock, in seconds; the same as Unix second, rounded up; units used."""
_USED: Final = struct.Struct("=Q")
_USED_AT: Final = _SLOT.size - _USED.size
_SLOTS_PER_SET: Final = 8
_SET_BYTES: Final = _SLOTS_PER_SET * _SLOT.size
_SETS: Final = COUNTED_BUCKETS_MAX // _SLOTS_PER_SET
_KEY_AT: Final = _SETS * _SET_BYTES
KEY_BYTES: Final = 16
_TABLE_BYTES: Final = _KEY_AT + KEY_BYTES

_TIDY_SECONDS: Final = 1.0
_LOCK: Final = struct.Struct("hhqqi4x")
"""struct flock of 64-bit Linux: type, whence, start, length, holder."""
_TRY: Final = LOCK_EX | LOCK_NB
_unpack = _SLOT.unpack_from
_new: Callable[[type[Charge], tuple[bool, int, int, int, int]], Charge] = tuple.__new__


def shared_windows() -> int:
    """A descriptor of an empty table; processes that inherit it count together.

    Raises:
        OSError: the system has no memory for it.
    """
    descriptor = memory_file("windows", _TABLE_BYTES)
    os.pwrite(descriptor, random_bytes(KEY_BYTES), _KEY_AT)
    return descriptor


class WindowTable:
    """Counts charges. One for each process: the locks are the process's.

    Args:
        clock: Its monotonic time is that of every process which shares the table.
        descriptor: Of `shared_windows`, which stays open; None counts for this process alone.
        workers: How many share it.
    """

    def __init__(self, clock: Clock, descriptor: int | None = None, workers: int = 1) -> None:
        self._clock = clock
        self._descriptor = descriptor
        self._workers = workers
        self._memory = mmap.mmap(-1 if descriptor is None else descriptor, _TABLE_BYTES)
        if descriptor is None:
            self._memory[_KEY_AT:] = random_bytes(KEY_BYTES)
        self.key = bytes(self._memory[_KEY_AT:])
        """Of this table alone: nobody can choose names that share a set with another's."""
        self._stuck: dict[int, tuple[float, float]] = {}
        """Set → until when its lock is not waited for, and how long that was."""
        self._tidy_at = 0.0
        self._now = clock.monotonic_seconds
        self._places: dict[bytes, int] = {}
        self._alone: dict[bytes, tuple[float, int, int]] = {}
        """Ends and units of what was admitted without the lock."""

    def charge(self, bucket: bytes, units: int, allowance: Allowance) -> Charge:
        """Take units of what is left in the bucket's window: all of them or none.

        Args:
            bucket: `BUCKET_BYTES` bytes; the first tells its kind, and no bucket displaces one of a higher kind.
            units: At least 1; negative gives back what was taken.
            allowance: May change from one charge to the next; a window that has begun keeps its end.
        """
        if self._descriptor is None:
            return self._charge(bucket, units, allowance)
        number = _set_of(bucket)
        if not self._try_lock(number) and not self._waited_for(number):
            return self._charge_alone(bucket, units, allowance)
        try:
            return self._charge(bucket, units, allowance)
        finally:
            lockf(self._descriptor, LOCK_UN, 1, number)

    async def close(self) -> None:
        """Nothing to be done: the memory ends with its last process."""

    def _charge(self, bucket: bytes, units: int, allowance: Allowance) -> Charge:
        now, place = self._now(), self._places.get(bucket)
        if place is not None and not self._alone:
            # Nearly always: 1 µs in place of 2.
            found, ends, reset, used = _unpack(self._memory, place)
            after = used + units
            if found == bucket and now < ends and 0 < after <= allowance.limit:
                _USED.pack_into(self._memory, place + _USED_AT, after)
                return _new(Charge, (True, allowance.limit, allowance.limit - after, reset, 0))
        return self._charge_slowly(bucket, units, allowance, now)

    def _charge_slowly(self, bucket: bytes, units: int, allowance: Allowance, now: float) -> Charge:
        place, ends, reset, used = self._find(bucket, now)
        if place is None:
            return self._charge_alone(bucket, units, allowance)
        self._tidy(now)
        self._remember(bucket, place)
        alone = self._alone.pop(bucket, None)
        if alone is not None and now < alone[0]:
            if now >= ends:
                ends, reset = alone[0], alone[1]
            used += alone[2]
        if now >= ends:
            ends, reset = self._new_window(allowance, now)
        after = max(0, used + units)
        if units > 0 and after > allowance.limit:
            _SLOT.pack_into(self._memory, place, bucket, ends, reset, used)
            return self._refused(allowance, ends, reset, now)
        _SLOT.pack_into(self._memory, place, bucket, ends, reset, after)
        return Charge(True, allowance.limit, max(0, allowance.limit - after), reset, 0)

    def _find(self, bucket: bytes, now: float) -> tuple[int | None, float, int, int]:
        """Where the bucket stands, with its window, or where it may begin one; None: nowhere.

        A window that it begins in the place of another of its kind begins with what that one had used: two that
        displaced each other would have no limit.
        """
        first = _set_of(bucket) * _SET_BYTES
        best: int | None = None
        least = 0xFF, 0
        for place in range(first, first + _SET_BYTES, _SLOT.size):
            found, ends, reset, used = _unpack(self._memory, place)
            if found == bucket:
                return (place, ends, reset, used) if now < ends else (place, 0.0, 0, 0)
            # Else a place that nobody needs, or that of who has the least to forget. Kinds are in order of their
            # worth: addresses are had in millions, and never displace a client.
            price = (0, 0) if now >= ends else (found[0], used)
            if price < least and price[0] <= bucket[0]:
                best, least = place, price
        return best, 0.0, 0, least[1] if least[0] == bucket[0] else 0

    def _charge_alone(self, bucket: bytes, units: int, allowance: Allowance) -> Charge:
        """Admit this worker's share of what was left when the others were last heard of."""
        now = self._now()
        # Read without the lock. What stands there half written is wrong for one answer, and never more than the limit.
        _, ends, reset, used = self._find(bucket, now)
        alone = self._alone.get(bucket)
        if now >= ends:
            ends, reset = self._new_window(allowance, now)
        mine = 0
        if alone is not None and now < alone[0]:
            # With the end that it told before: the answers of one window tell one end.
            ends, reset, mine = alone
        part = max(0, allowance.limit - used) // self._workers
        after = max(0, mine + units)
        self._tidy(now)
        has_room = bucket in self._alone or len(self._alone) < COUNTS_ALONE_MAX
        if (units > 0 and after > part) or not has_room:
            return self._refused(allowance, ends, reset, now)
        self._alone[bucket] = ends, reset, after
        return Charge(True, allowance.limit, max(0, part - after), reset, 0)

    def _tidy(self, now: float) -> None:
        """Forget what was admitted alone in windows that are over."""
        if self._alone and now >= self._tidy_at:
            self._tidy_at = now + _TIDY_SECONDS
            self._alone = {name: window for name, window in self._alone.items() if now < window[0]}

    def _remember(self, bucket: bytes, place: int) -> None:
        if len(self._places) >= REMEMBERED_BUCKETS_MAX:
            self._places.clear()
        self._places[bucket] = place

    def _new_window(self, allowance: Allowance, now: float) -> tuple[float, int]:
        reset = math.ceil(self._clock.now_us() / MICROSECONDS + allowance.window_seconds)
        return now + allowance.window_seconds, reset

    def _refused(self, allowance: Allowance, ends: float, reset: int, now: float) -> Charge:
        # By the wall clock, as `reset` is; but a clock that was set back must not send anybody away for hours.
        wait = min(max(1, reset - self._clock.now_us() // MICROSECONDS), math.ceil(ends - now) + 1)
        return Charge(False, allowance.limit, 0, reset, wait)

    def _waited_for(self, number: int) -> bool:
        """Whether the lock was had after all; asked when it was not free."""
        now = self._now()
        until, pause = self._stuck.get(number, (0.0, 0.0))
        if now < until:
            return False
        look_at, deadline = now + COUNTER_LOOK_SECONDS, now + COUNTER_LOCK_SECONDS
        while (now := self._now()) < deadline:
            # Held for microseconds; if for longer, its holder wants this processor.
            os.sched_yield()
            if self._try_lock(number):
                return True
            if now >= look_at:
                look_at = deadline
                if self._holder_stands_still(number):
                    break
        # Longer each time that it was in vain, unless the last time was long ago.
        known = pause if now < until + COUNTER_LOCK_PAUSE_SECONDS_MAX else 0.0
        pause = min(max(2 * known, COUNTER_LOCK_PAUSE_SECONDS), COUNTER_LOCK_PAUSE_SECONDS_MAX)
        self._stuck[number] = self._now() + pause, pause
        return False

    def _holder_stands_still(self, number: int) -> bool:
        """Whether who has the lock was stopped, and not only kept from the processor for a moment.

        True where that cannot be learnt: counting inexactly is better than standing still, too.
        """
        assert self._descriptor is not None
        asked = _LOCK.pack(F_WRLCK, os.SEEK_SET, number, 1, 0)
        try:
            kind, _, _, _, pid = _LOCK.unpack(fcntl(self._descriptor, F_GETLK, asked))
            # R runs or wants to; S waits, such as for its interpreter.
            return (
                kind != F_UNLCK and Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "RS"
            )
        except (OSError, struct.error):
            return True

    def _try_lock(self, number: int) -> bool:
        assert self._descriptor is not None
        try:
            lockf(self._descriptor, _TRY, 1, number)
        except OSError:
            return False
        return True


def _set_of(bucket: bytes) -> int:
    return int.from_bytes(bucket[-4:], "big") % _SETS
