"""Other processes that use the same database: `python -m tests.contract.storage.workers <job> …`.

Every process prints `ready`, waits for one line on its input, works, and prints what it found as JSON.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

from qimem.kernel.transaction import Tx
from qimem.storage.database import DatabaseLocation, OpenDatabase
from tests.contract.storage.rows import ACME, EXPIRY, SET_EXPIRY, claim


def spawn(location: DatabaseLocation, job: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a process and wait until it has the database open."""
    command = [sys.executable, "-m", "tests.contract.storage.workers", job, str(location.directory),
               location.url or "-", *map(str, arguments)]  # fmt: skip
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def go(*processes: subprocess.Popen[str]) -> None:
    """Let them begin together."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


def found(process: subprocess.Popen[str]) -> list[int]:
    """What the process found; it ends."""
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    result: list[int] = json.loads(out)
    return result


async def redeem(database: OpenDatabase, count: int) -> list[int]:
    """Claim the same numbered things as everybody else; the numbers that were ours."""

    async def one(number: int) -> bool:
        return await database.write(lambda tx: claim(tx, b"%d" % number))

    won = await asyncio.gather(*(one(number) for number in range(count)))
    return [number for number, mine in enumerate(won) if mine]


async def redeem_naively(database: OpenDatabase, count: int) -> list[int]:
    """The same with a look first and an update later: what nobody must write."""
    ours = []
    for number in range(count):
        key = b"%d" % number
        unused = await database.read(lambda tx, key=key: _is_unused(tx, key))
        if unused:
            await database.write(lambda tx, key=key: tx.run(SET_EXPIRY, of_realm="acme", of_key=key, to_us=2))
            ours.append(number)
    return ours


def _is_unused(tx: Tx, key: bytes) -> bool:
    return tx.one(EXPIRY, realm_id="acme", key_digest=key) == (1,)


async def bump(database: OpenDatabase, count: int) -> list[int]:
    """Move the epoch, say so after the acknowledgement, and wait to be asked for the next."""
    for number in range(count):
        await database.write(lambda tx: database.bump(tx, ACME))
        print(number, flush=True)
        if not sys.stdin.readline():
            break
    return []


JOBS = {"redeem": redeem, "redeem_naively": redeem_naively, "bump": bump}


async def main(job: str, directory: str, url: str, count: str) -> None:
    database = DatabaseLocation(Path(directory), None if url == "-" else url).open()
    print("ready", flush=True)
    sys.stdin.readline()
    result = await JOBS[job](database, int(count))
    await database.close()
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
