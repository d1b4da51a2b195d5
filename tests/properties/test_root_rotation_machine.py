"""Rotations of the root key in any order of steps, ends and starts: everything opens always, and old keys never.

The steps are the product's own, each on real files and a real database; a crash is that the next step never comes.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from qimem.bootstrap import first, root_keys, root_rotation
from qimem.bootstrap.core import KEYS, REALMS
from qimem.bootstrap.database import location
from qimem.bootstrap.first import AdminChoice
from qimem.config.schema import ServerSettings, Settings
from qimem.crypto.mac import key_check_value
from qimem.errors import Unavailable
from qimem.kernel.clock import SystemClock
from qimem.kernel.ids import SYSTEM_REALM, RealmId
from qimem.kernel.refusal import Refused
from qimem.kernel.secret import SecretBytes
from qimem.kernel.transaction import Tx
from qimem.kms.hierarchy import RealmKek, random_key
from qimem.kms.keyring import Keyring
from qimem.kms.root_rotation import Rewrapped, Rewrapping
from qimem.kms.seal.keyfile import KeyFileSeal
from qimem.realms.models import RealmRecord
from qimem.server import root_key
from qimem.storage.repositories.root_keys import RootKeyRepository
from tests.support.volume import volume

T = TypeVar("T")

_STORE = RootKeyRepository()


class Host:
    """What the steps of a rotation need of a host, without an audit log."""

    def __init__(self, database: Any, keys: Any) -> None:
        self.core = self
        self.database, self.root_keys, self.clock = database, keys, SystemClock()

    async def apply(self, _: str, __: str, change: Callable[[Tx], T]) -> T:
        return await self.database.write(change)  # type: ignore[no-any-return]


class RotationMachine(RuleBasedStateMachine):
    """Steps of rotations, and workers that were started at different times."""

    template: Path
    """An installation, to be copied: making one takes longer than all that is done with it here."""

    @initialize()
    def begin(self) -> None:
        self.place = tempfile.TemporaryDirectory(dir=self.template.parent)
        self.runner = asyncio.Runner()
        directory = Path(self.place.name)
        shutil.copytree(self.template, directory, dirs_exist_ok=True)
        self.settings = Settings(server=ServerSettings(data_dir=directory / "data"))
        self.custody = KeyFileSeal(directory / "data.root.key")
        self.seen = [self.custody.path.read_bytes()]
        self.realms, self.numbers = [SYSTEM_REALM], itertools.count(1)
        self.workers: list[Keyring] = []
        self.at: tuple[str, int] | None = ("", 0)
        self.database = self.run(self._open())
        self.start_a_worker()

    async def _open(self) -> Any:
        return location(self.settings).open()

    def run(self, work: Awaitable[T]) -> T:
        async def waited() -> T:
            return await work

        return self.runner.run(waited())

    def _ring(self, key: bytes) -> Keyring:
        look = root_keys.look_in_custody(self.settings)
        _, keys = self.run(root_keys.own_root_keys(self.database, SecretBytes(key), look))
        return Keyring(keys, self.database, KEYS)

    def _in_use(self) -> list[Any]:
        return list(self.run(root_keys.standing(self.database))[1])

    def _rewrapping(self) -> tuple[Rewrapping, Any, Any]:
        keys = self._ring(self.custody.path.read_bytes())._root_keys
        new, old = self._in_use()
        pair = keys.find(old.check), keys.find(new.check)
        assert None not in pair
        return Rewrapping(self.database, _STORE, *pair, old.number), old, new  # type: ignore[arg-type]

    # --- workers ---

    @rule()
    def start_a_worker(self) -> None:
        self.workers = [*self.workers, self._ring(self.custody.path.read_bytes())][-3:]

    @rule(which=st.integers(0, 99))
    def replace_a_worker_by_a_supervisor_of_long_ago(self, which: int) -> None:
        self.workers = [*self.workers, self._ring(self.seen[which % len(self.seen)])][-3:]

    @rule(which=st.integers(0, 99))
    def make_a_realm(self, which: int) -> None:
        ring, realm_id = self.workers[which % len(self.workers)], RealmId(f"r{next(self.numbers)}")
        kek = RealmKek(ring.instance_id, realm_id, 1, random_key())

        def add(tx: Tx) -> None:
            REALMS.insert(tx, RealmRecord(realm_id, "Realm", enabled=True, created_us=1))
            KEYS.insert_kek(tx, realm_id, ring.wrap_kek(tx, kek), 1)

        self.run(self.database.write(add))
        self.realms.append(realm_id)

    @rule(which=st.integers(0, 99))
    def destroy_a_realm(self, which: int) -> None:
        tenants = self.realms[1:]
        if tenants:
            gone = tenants[which % len(tenants)]
            self.run(self.database.write(lambda tx: REALMS.destroy(tx, gone, 2)))
            self.realms.remove(gone)

    # --- a rotation, one step after the other; any may be the last of its process ---

    @rule()
    def make_the_new_key_durable(self) -> None:
        if self.run(root_key.settle(self.settings, self.custody)):
            return
        _, new = self.run(root_key._prepared(self.settings, self.custody, None))
        self._note(bytes(new.reveal()))

    @precondition(lambda self: self.custody.successor.exists() and len(self._in_use()) == 1)
    @rule()
    def begin_a_rotation(self) -> None:
        ring = self._ring(self.custody.path.read_bytes())
        new = self.custody.successor.load()
        self.run(root_rotation._begun(Host(self.database, ring._root_keys), self._check(new)))  # type: ignore[arg-type]
        self.at = ("", 0)

    @precondition(lambda self: len(self._in_use()) == 2)
    @rule()
    def move_some(self) -> None:
        rewrapping, _, _ = self._rewrapping()
        done = Rewrapped()
        self.at = self.run(rewrapping.batch(self.at or ("", 0), done))
        assert done.damaged == []

    @precondition(lambda self: len(self._in_use()) == 2)
    @rule()
    def retire_the_old_one(self) -> None:
        _, old, new = self._rewrapping()
        left = self.run(self.database.read(lambda tx: _STORE.count(tx, old.number)))
        assert self.run(self.database.write(lambda tx: _STORE.retire(tx, old, new))) == (left == 0)

    @rule()
    def settle(self) -> None:
        self.run(root_key.settle(self.settings, self.custody))

    @rule()
    def finish_it(self) -> None:
        if len(self._in_use()) == 2:
            rewrapping, old, new = self._rewrapping()
            assert self.run(rewrapping.walk()).damaged == []
            assert self.run(self.database.write(lambda tx: _STORE.retire(tx, old, new)))
        self.settle()

    # --- what holds always ---

    @invariant()
    def everything_opens(self) -> None:
        fresh = self._ring(self.custody.path.read_bytes())
        for ring in (*self.workers, fresh):
            # Cold: nothing is remembered.
            ring._keks.clear()
            ring._newest.clear()
            for realm_id in self.realms:
                assert self.run(ring.record_sealer(realm_id)).version == 1

    @invariant()
    def what_is_not_in_use_opens_nothing(self) -> None:
        in_use = {each.check for each in self._in_use()}
        assert len(in_use) in (1, 2)
        for key in self.seen:
            if self._check(SecretBytes(key)) in in_use:
                continue
            with pytest.raises(Refused):
                self.run(root_keys.own_root_keys(self.database, SecretBytes(key)))

    def _check(self, key: SecretBytes) -> bytes:
        return key_check_value(key, self.workers[0].instance_id.bytes)

    def _note(self, key: bytes) -> None:
        if key not in self.seen:
            self.seen.append(key)

    def teardown(self) -> None:
        if hasattr(self, "database"):
            self.run(self.database.close())
            self.runner.close()
            self.place.cleanup()


@pytest.fixture(scope="module", autouse=True)
def template(memory: Path) -> None:
    """The installation that every history begins with."""
    data = memory / "template" / "data"
    data.mkdir(mode=0o700, parents=True)
    settings = Settings(server=ServerSettings(data_dir=data))
    key = KeyFileSeal(Path(f"{data}.root.key")).create()
    asyncio.run(first.initialise(settings, key, AdminChoice()))
    RotationMachine.template = data.parent


@pytest.fixture(scope="module")
def memory() -> Iterator[Path]:
    """A place that does not wait for a disk."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as place:
        yield Path(place)


def explore(machine: type[RotationMachine], examples: int, steps: int = 20) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
            database=None,
            derandomize=True,
        ),
    )


@pytest.mark.acceptance
def test_everything_opens_always_and_old_keys_never(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qimem.kms.root_rotation.ROOT_ROTATION_BATCH", 2)
    explore(RotationMachine, volume(500, share=0.01))


def history(machine: RotationMachine, *steps: str) -> None:
    """These steps, and what holds always after each of them."""
    machine.begin()
    try:
        for step in steps:
            getattr(machine, step)()
            machine.everything_opens()
            machine.what_is_not_in_use_opens_nothing()
    finally:
        machine.teardown()


_BEGUN = ("make_the_new_key_durable", "begin_a_rotation")


class Hasty(RotationMachine):
    """Gives the new key the name of the old one when the rotation begins."""

    def let_the_old_one_go(self) -> None:
        self.custody.succeed()


class Forgetful(RotationMachine):
    """Its workers look nowhere else."""

    def start_a_worker(self) -> None:
        key = SecretBytes(self.custody.path.read_bytes())
        _, keys = self.run(root_keys.own_root_keys(self.database, key))
        self.workers = [*self.workers, Keyring(keys, self.database, KEYS)][-3:]


def test_a_sound_history_holds() -> None:
    history(RotationMachine(), *_BEGUN, "start_a_worker", "finish_it", "start_a_worker")


def test_an_old_key_that_goes_too_early_is_found_out() -> None:
    with pytest.raises(Refused, match="the old one is not at hand"):
        history(Hasty(), *_BEGUN, "let_the_old_one_go")


def test_workers_that_look_nowhere_else_are_found_out() -> None:
    with pytest.raises(Unavailable, match="not at hand"):
        history(Forgetful(), *_BEGUN, "finish_it")
