"""The bare Argon2id lane: what password login could reach if it did nothing but verify the hash.

    python -m bench.argon2_lane SECONDS

Verifies one hash of the product's own cost on as many threads, of the same priority, as the product's
password lane has. Prints requests, seconds and CPU seconds as JSON.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
import time

from argon2 import PasswordHasher, Type

from qimem.crypto.passwords import OWASP_MINIMUM
from qimem.kernel.limits import PASSWORD_LANE_WIDTH

NICE = 10
_PASSWORD = b"forty-four bytes, as a peppered password has"


def verify_for(seconds: float) -> dict[str, float]:
    """Keep all threads verifying for so long, at least once each."""
    hasher = PasswordHasher(
        time_cost=OWASP_MINIMUM.passes,
        memory_cost=OWASP_MINIMUM.memory_kib,
        parallelism=OWASP_MINIMUM.lanes,
        type=Type.ID,
    )
    phc = hasher.hash(_PASSWORD)
    counts = [0] * PASSWORD_LANE_WIDTH
    before, started = _cpu(), time.perf_counter()

    def lane(index: int) -> None:
        os.setpriority(os.PRIO_PROCESS, 0, NICE)
        while not counts[index] or time.perf_counter() - started < seconds:
            hasher.verify(phc, _PASSWORD)
            counts[index] += 1

    threads = [threading.Thread(target=lane, args=(index,)) for index in range(PASSWORD_LANE_WIDTH)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - started
    return {"requests": sum(counts), "seconds": elapsed, "cpu_seconds": _cpu() - before}


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    print(json.dumps(verify_for(float(sys.argv[1]))))
