"""No nonce comes twice, whatever processes encrypt: started anew, as the product does, or forked after encrypting.

Each worker process encrypts through the cipher service under one key of one database and hands over the
nonces of its envelopes.
"""

from __future__ import annotations

import asyncio
import base64
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest

from qimem.crypto.algorithms import Algorithm
from qimem.kernel.clock import SystemClock
from qimem.kernel.ids import RealmId
from qimem.kernel.secret import SecretBytes
from qimem.kms.models import KeyRef
from qimem.kms.root_keys import RootKeys
from qimem.storage.database import DatabaseLocation
from tests.support.lifecycle import Installation, Worker
from tests.support.volume import volume

pytestmark = pytest.mark.anyio

NONCE = slice(20, 32)
"""Where an envelope has its nonce."""

FORKED, FRESH = 3, 2
ENCRYPTS = volume(1_000_000) // (1 + FORKED + FRESH)
"""Of each worker: one that forks, those it forks, and those that are started anew."""

REALM = RealmId("acme")


async def nonces(directory: str, instance_id: str, root_key: str, key_id: str, count: int) -> bytes:
    """The nonces of so many envelopes, one after the other."""
    database = DatabaseLocation(Path(directory)).open()
    key = RootKeys(UUID(instance_id), SecretBytes(bytes.fromhex(root_key)))
    worker = Worker(database, key, SystemClock())
    found = []
    for _ in range(count):
        sealed = await worker.cipher.encrypt(
            await worker.context(REALM), KeyRef(key_id=UUID(key_id)), b"text"
        )
        found.append(base64.b64decode(sealed.envelope)[NONCE])
    await database.close()
    return b"".join(found)


# In interpreters of their own: forking the test process with its threads is not ours to do.
_FRESH = """
import asyncio, sys
from tests.properties.test_nonces import nonces
*place, count = sys.argv[1:]
sys.stdout.buffer.write(asyncio.run(nonces(*place, int(count))))
"""

_FORKING = """
import asyncio, os, sys
*place, count, workers, guarded = sys.argv[1:]
if guarded != "guarded":
    hook, os.register_at_fork = os.register_at_fork, lambda **hooks: None
    import qimem.crypto.randomness
    os.register_at_fork = hook
from tests.properties.test_nonces import nonces

def some(number):
    return asyncio.run(nonces(*place, number))

# What was drawn in advance is there when the workers are forked.
before = some(100)
readers = []
for _ in range(int(workers)):
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.close(reader)
        with os.fdopen(writer, "wb") as out:
            out.write(some(int(count)))
        os._exit(0)
    os.close(writer)
    readers.append(reader)
sys.stdout.buffer.write(before + some(int(count)))
for reader in readers:
    with os.fdopen(reader, "rb") as theirs:
        sys.stdout.buffer.write(theirs.read())
    assert os.wait()[1] == 0
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Arguments that lead to one key of one database."""
    location = DatabaseLocation(tmp_path_factory.mktemp("nonces"))
    location.migrate()

    async def make() -> list[str]:
        installation = Installation(location, SystemClock(), workers=1)
        await installation.initialise()
        await installation.realm(REALM)
        worker = Worker(installation.databases[0], installation.root_keys(), installation.clock)
        made = await worker.keys.create(await worker.context(REALM), Algorithm.AES256_GCM, None)
        await installation.close()
        return [
            str(location.directory),
            str(installation.instance_id),
            installation.root_key.reveal().hex(),
            str(made.key_id),
        ]

    return asyncio.run(make())


def collected(*commands: tuple[str, list[str]]) -> list[bytes]:
    """The nonces of processes that run at once."""
    running = [
        subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE)
        for script, arguments in commands
    ]  # fmt: skip
    try:
        said = [process.communicate(timeout=3_600)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0] * len(running)
    together = b"".join(said)
    return [together[start : start + 12] for start in range(0, len(together), 12)]


def forking(place: list[str], count: int, guarded: str = "guarded") -> tuple[str, list[str]]:
    return _FORKING, [*place, str(count), str(FORKED), guarded]


@pytest.mark.acceptance
def test_workers_that_were_forked_or_started_anew_never_share_a_nonce(place: list[str]) -> None:
    fresh = (_FRESH, [*place, str(ENCRYPTS)])
    found = collected(forking(place, ENCRYPTS), *[fresh] * FRESH)
    assert len(found) == (1 + FORKED + FRESH) * ENCRYPTS + 100
    assert {len(nonce) for nonce in found} == {12}
    assert len(set(found)) == len(found)


def test_randomness_that_is_carried_across_a_fork_is_noticed(place: list[str]) -> None:
    found = collected(forking(place, 1_000, "unguarded"))
    # All of them go on with what was left of the first block.
    assert len(found) - len(set(found)) >= FORKED * 100


async def test_every_octet_of_a_nonce_is_random(place: list[str]) -> None:
    together = await nonces(*place, 2_000)
    for octet in range(12):
        # Fewer than 240 of 256 values in 2,000 draws come by chance once in more than 10^20 times.
        assert len(set(together[octet::12])) >= 240
