"""Rotations of the root key under load, cut off by kill -9; and a judge of what is left."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from qimem.bootstrap.core import KEYS, REALMS
from qimem.crypto.wrap import UnwrapFailed
from qimem.kernel.ids import RealmId
from qimem.kernel.secret import SecretBytes
from qimem.kernel.transaction import Tx
from qimem.kms.hierarchy import RealmKek, RootKey, random_key
from qimem.realms.models import RealmRecord
from qimem.storage.repositories.instance import InstanceRepository
from qimem.storage.schema import realm_kek
from qimem.storage.statement import sql
from tests.support.cli import PROGRAM, clean_environment
from tests.support.load import Reply, Wire, listeners, worker_pids
from tests.support.oauth import Behind, behind
from tests.support.processes import alive, eventually
from tests.support.server import Server

_ALL = sql(sa.select(realm_kek.c.realm_id, realm_kek.c.version, realm_kek.c.wrapped))
_PLANTED_AT_ONCE = 500
_TEXT = "cGxhaW4="
_PUT_OFF = ("'storage_unavailable'", "'outcome_unknown'", "'overloaded'")
_CUT = (ConnectionError, TimeoutError, OSError)


def key_file(server: Server) -> Path:
    """The root key of a server."""
    return Path(f"{server.data}.root.key")


def plant(server: Server, count: int) -> None:
    """Realms that are only a key-encryption key, wrapped as the product wraps them."""

    async def work(house: Behind) -> None:
        for start in range(0, count, _PLANTED_AT_ONCE):
            names = [RealmId(f"p{number}") for number in range(start, min(start + _PLANTED_AT_ONCE, count))]
            keks = [RealmKek(house.keyring.instance_id, name, 1, random_key()) for name in names]

            def add(tx: Tx, keks: list[RealmKek] = keks) -> None:
                for kek in keks:
                    REALMS.insert(tx, RealmRecord(kek.realm_id, "Planted", enabled=True, created_us=1))
                    KEYS.insert_kek(tx, kek.realm_id, house.keyring.wrap_kek(tx, kek), 1)

            await house.database.write(add)

    behind(server, work)


def wrapped_keys(server: Server) -> dict[tuple[str, int], bytes]:
    """Every key-encryption key as it is stored."""

    async def work(house: Behind) -> Any:
        return await house.database.read(lambda tx: tx.all(_ALL))

    return {(realm, version): bytes(kek) for realm, version, kek in behind(server, work)}


def unopened(server: Server, root_key: bytes) -> int:
    """How many of them a root key does not open."""

    async def work(house: Behind) -> int:
        instance = await house.database.read(InstanceRepository().find)
        assert instance is not None
        root = RootKey(instance.instance_id, SecretBytes(root_key))
        rows = await house.database.read(lambda tx: tx.all(_ALL))
        return sum(not _opens(root, RealmId(realm), version, bytes(kek)) for realm, version, kek in rows)

    return behind(server, work)


def _opens(root: RootKey, realm_id: RealmId, version: int, wrapped: bytes) -> bool:
    try:
        root.unwrap_kek(realm_id, version, wrapped)
    except UnwrapFailed:
        return False
    return True


@dataclass
class Tenant:
    """A realm with a key, and an envelope of it."""

    realm_id: str
    lineage_id: str
    envelope: str


@dataclass
class Crowd:
    """Callers of all tenants, who go on until they are told to stop, and note what they were refused."""

    server: Server
    tenants: list[Tenant]
    token: str
    refusals: list[str] = field(default_factory=list)
    answered: int = 0
    cut_off: int = 0
    put_off: int = 0
    """Told that disk or machine have too much to do, as the contract says: seldom, or the rotation is to blame."""
    made: int = 0
    stop: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def of(cls, server: Server, tenants: int) -> Crowd:
        """Tenants of a running server."""
        crowd = cls(server, [], server.token())
        with contextlib.closing(Wire(server.url, crowd.token)) as wire:
            crowd.tenants = [crowd.tenant(wire, f"t{number}") for number in range(tenants)]
        return crowd

    def renew_token(self) -> None:
        """Sign in anew: many runs take longer than a token lives. Not at once where the disk takes its time."""

        def renewed() -> bool:
            try:
                self.token = self.server.token()
            except AssertionError as refusal:
                if not any(code.strip("'") in str(refusal) for code in _PUT_OFF):
                    raise
                self.put_off += 1
                return False
            return True

        eventually(renewed, seconds=30)

    def tenant(self, wire: Wire, realm_id: str) -> Tenant:
        """A new one."""
        wire.done("/v1/auth/realms", {"id": realm_id, "name": "Tenant"})
        key = wire.done("/v1/security/keys", {"realm_id": realm_id})
        body = {"realm_id": realm_id, "lineage_id": key["lineage_id"], "input": _TEXT}
        return Tenant(realm_id, key["lineage_id"], wire.done("/v1/security/encrypt", body)["envelope"])

    @contextmanager
    def busy(self, threads: int = 4) -> Iterator[None]:
        """While the block runs, they call."""
        running = [threading.Thread(target=self._call, args=(number,)) for number in range(threads)]
        for thread in running:
            thread.start()
        try:
            yield
        finally:
            self.stop.set()
            for thread in running:
                thread.join(60)
            assert not any(thread.is_alive() for thread in running)

    def _call(self, number: int) -> None:
        chance, wire = random.Random(number), None
        while not self.stop.is_set():
            try:
                wire = wire or Wire(self.server.url, self.token)
                wire.token = self.token
                self._one(wire, chance, number)
                self.answered += 1
            except _CUT:
                self.cut_off += 1
                if wire is not None:
                    wire.close()
                wire = None
                self.stop.wait(0.02)
            except AssertionError as refusal:
                said = str(refusal)[:500]
                if any(code in said for code in _PUT_OFF):
                    self.put_off += 1
                else:
                    self.refusals.append(said)
        if wire is not None:
            wire.close()

    def _one(self, wire: Wire, chance: random.Random, number: int) -> None:
        tenant = chance.choice(self.tenants)
        place = {"realm_id": tenant.realm_id}
        what = chance.random()
        if what < 0.6:
            reply = wire.post("/v1/security/decrypt", place | {"envelope": tenant.envelope})
            assert _plaintext(reply) == _TEXT, reply
        elif what < 0.98:
            body = place | {"lineage_id": tenant.lineage_id, "input": _TEXT}
            sealed = wire.done("/v1/security/encrypt", body)["envelope"]
            reply = wire.post("/v1/security/decrypt", place | {"envelope": sealed})
            assert _plaintext(reply) == _TEXT, reply
        else:
            # A name of its own each time: what was cut off may be there.
            self.tenants.append(self.tenant(wire, f"n{number}-{time.monotonic_ns()}"))
            self.made += 1


def _plaintext(reply: Reply) -> Any:
    assert reply.status == 200, reply
    return reply.body["plaintext"]


@dataclass
class Rotator:
    """Runs `qimem root-key rotate`, and kills."""

    server: Server
    chance: random.Random
    environment: dict[str, str] = field(default_factory=dict)
    retired: list[bytes] = field(default_factory=list)
    """Root keys that were once in force or about to be."""

    @property
    def command(self) -> list[str]:
        url = self.server.database_url
        where = ["--data-dir", str(self.server.data), *(["--database-url", url] if url else [])]
        return [*PROGRAM, "root-key", "rotate", *where, "-o", "json", *self._new_key()]

    def start(self) -> subprocess.Popen[str]:
        """Begin a rotation, or go on with one."""
        self.retired.append(key_file(self.server).read_bytes())
        environment = clean_environment(**self.environment)
        return subprocess.Popen(
            self.command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )

    def finish(self) -> str:
        """Run it to its end; what it said when that was bad."""
        process = self.start()
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, f"exit {process.returncode}: {out} {err}"
        return out

    def cut_off(self, seconds: float) -> None:
        """Begin, and kill it at a random moment."""
        process = self.start()
        time.sleep(self.chance.uniform(0.0, seconds))
        process.kill()
        _, err = process.communicate()
        assert process.returncode in (0, -9), err

    def beside(self, seconds: float, kill: Callable[[], None]) -> None:
        """Begin, have something else die at a random moment, and the command a moment later, if it has not ended."""
        process = self.start()
        time.sleep(self.chance.uniform(0.2, seconds))
        kill()
        time.sleep(self.chance.uniform(0.0, seconds))
        process.kill()
        _, err = process.communicate()
        assert process.returncode in (0, -9), err

    def kill_a_worker(self) -> None:
        """One of them, replaced by the supervisor."""
        victim = self.chance.choice(worker_pids(self.server))
        os.kill(victim, 9)
        eventually(lambda: len({*worker_pids(self.server)} - {victim}) == self.server.workers, seconds=30)

    def kill_the_server(self) -> None:
        """All of it, and start it again at its address."""
        pids = worker_pids(self.server)
        self.server.kill()
        # A worker that was being started in this moment is not among them.
        eventually(lambda: not any(map(alive, pids)) and not listeners(self.server))
        self.server.start(self.server.url.removeprefix("http://"))

    def _new_key(self) -> list[str]:
        waiting = key_file(self.server).with_suffix(".key.next")
        if self.server.database_url is None or waiting.exists():
            return []
        file = self.server.directory / "new.key"
        file.write_bytes(os.urandom(32))
        file.chmod(0o600)
        return ["--new-root-key-file", str(file)]
