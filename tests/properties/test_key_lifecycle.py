"""Random lives of keys: the model, SQLite and PostgreSQL give the same answer to every step.

Each database has two workers and every step asks either of them, so what one has changed must be what
the other decides by in its next step.

Programs are drawn with fixed weights and a failing one is reduced here. Hypothesis was tried: every
second program was its simplest one with a few steps changed, and 1 encryption in 268 met a disabled key.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random, SystemRandom
from typing import Any, NamedTuple, TypeVar

import pytest
import uvloop

from qimem.crypto.algorithms import ENVELOPE_IDS, Algorithm
from qimem.kernel.clock import ManualClock
from qimem.kms import cipher
from qimem.kms.models import Purpose
from qimem.storage.database import DatabaseLocation
from qimem.storage.repositories.kms_keys import KeyRepository
from tests.support.lifecycle import ABSENT, Installation, Model, Real, Ref, Refused, Wiring, Worker
from tests.support.volume import volume

T = TypeVar("T")

PROGRAMS = volume(2_000, share=25 / 2_000)
STEPS = volume(50, share=0.6)


class Differs(AssertionError):
    """Two sides gave different answers to one step."""


class Stage:
    """An event loop with the installations on it."""

    def __init__(self, *locations: DatabaseLocation) -> None:
        self.clock = ManualClock()
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self.installations = [self.run(self._installation(location)) for location in locations]

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    def begin(self, wiring: Wiring = Worker) -> list[Real]:
        """Every installation with two new realms."""
        return [self.run(installation.begin(wiring)) for installation in self.installations]

    def close(self) -> None:
        for installation in self.installations:
            self.run(installation.close())
        self._runner.close()

    async def _installation(self, location: DatabaseLocation) -> Installation:
        installation = Installation(location, self.clock)
        await installation.initialise()
        return installation


@pytest.fixture(scope="module")
def on_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    stage = Stage(_migrated(tmp_path_factory.mktemp("lifecycle")))
    yield stage
    stage.close()


@pytest.fixture(scope="module")
def on_both(tmp_path_factory: pytest.TempPathFactory, postgres_cluster) -> Iterator[Stage]:
    directory, url = tmp_path_factory.mktemp("lifecycle"), postgres_cluster.create()
    stage = Stage(_migrated(directory), DatabaseLocation(directory, url))
    yield stage
    stage.close()
    postgres_cluster.drop(url)


def _migrated(directory: Path) -> DatabaseLocation:
    location = DatabaseLocation(directory)
    location.migrate()
    return location


class Step(NamedTuple):
    """One step as it is drawn; which keys and envelopes its numbers mean is known when it is taken."""

    verb: str
    worker: int
    at_home: bool
    key: int
    envelope: int
    way: str
    algorithm: Algorithm
    name: str | None
    enabled: bool
    scope: str
    plaintext: bytes


Program = Sequence[Step]

VERBS = {
    "create": 2, "rotate": 4, "set_enabled": 5, "encrypt": 5, "decrypt": 3, "decrypt_pinned": 3,
    "decrypt_under_another_header": 3, "look": 2, "restart": 1,
}  # fmt: skip
"""Verb → how often it comes."""

WAYS = {"key_id": 3, "lineage_id": 3, "name": 3, "first version": 1, "not a lineage": 1, "absent": 1}
"""How a step refers to a key → how often."""


def drawn(chance: Random, length: int) -> Program:
    """A random program."""
    return [
        Step(
            verb=chance.choices(list(VERBS), list(VERBS.values()))[0],
            worker=chance.randrange(2),
            at_home=chance.random() < 0.85,
            key=chance.randrange(1_000),
            envelope=chance.randrange(1_000),
            way=chance.choices(list(WAYS), list(WAYS.values()))[0],
            algorithm=chance.choice(list(ENVELOPE_IDS)),
            name=chance.choice((None, "orders", "payroll", "invoices")),
            enabled=chance.random() < 0.5,
            scope=chance.choice(("version", "lineage")),
            plaintext=chance.randbytes(chance.randrange(24)),
        )
        for _ in range(length)
    ]


class Life:
    """One program being run.

    Args:
        seen: Counts what was answered.
        stage: Where the real sides are; without one the model lives alone.
    """

    def __init__(self, seen: Counter[tuple[str, str]], stage: Stage | None, wiring: Wiring = Worker) -> None:
        self._seen = seen
        self._stage = stage
        self._sides: list[Real] = [] if stage is None else stage.begin(wiring)
        self.clock = ManualClock() if stage is None else stage.clock
        self.model = Model(self.clock)
        self.trace: list[str] = []

    def live(self, program: Program) -> None:
        """From the first key to a look at everything that came to be."""
        self.begin()
        for step in program:
            self.take(step)
        self.end()

    def begin(self) -> None:
        """A few keys and an envelope, so that every step has something to refer to."""
        for realm, name in ((0, "orders"), (1, "orders"), (0, None), (1, None)):
            self.ask(realm, "create", realm, list(ENVELOPE_IDS)[realm], name)
        self.ask(0, "encrypt", 0, Ref("name", "orders"), b"the first")

    def end(self) -> None:
        """A look at everything that came to be."""
        for realm in (0, 1):
            self.ask(realm, "list", realm, 3)
        for version in self.model.versions:
            self.ask(version.key % 2, "get", version.realm, version.key)
        for envelope, (maker, _) in enumerate(self.model.envelopes):
            self.ask(envelope % 2, "decrypt", maker.realm, envelope)

    def take(self, step: Step) -> None:
        """One drawn step."""
        version = self.model.versions[step.key % len(self.model.versions)]
        envelope = step.envelope % len(self.model.envelopes)
        maker, _ = self.model.envelopes[envelope]
        realm = version.realm if step.at_home else 1 - version.realm
        match step.verb:
            case "look":
                self.ask(step.worker, "get", realm, ABSENT if step.way == "absent" else version.key)
                self.ask(step.worker, "list", realm, 1 + step.envelope % 4)
            case "create":
                self.ask(step.worker, "create", realm, step.algorithm, step.name)
            case "rotate":
                self.ask(step.worker, "rotate", realm, self.ref(version.key, step.way))
            case "set_enabled":
                self.ask(step.worker, "set_enabled", realm, version.key, step.enabled, step.scope)
            case "encrypt":
                self.ask(step.worker, "encrypt", realm, self.ref(version.key, step.way), step.plaintext)
            case "decrypt":
                where = maker.realm if step.at_home else 1 - maker.realm
                self.ask(step.worker, "decrypt", where, envelope)
            case "decrypt_pinned":
                pin = self.ref(maker.key if step.enabled else version.key, step.way)
                self.ask(step.worker, "decrypt", maker.realm, envelope, pin)
            case "decrypt_under_another_header":
                algorithm = maker.algorithm if step.enabled else step.algorithm
                self.ask(step.worker, "decrypt", realm, envelope, None, (version.key, algorithm))
            case _:
                for side in self._sides:
                    side.restart(step.worker)

    def ask(self, worker: int, verb: str, *arguments: Any) -> None:
        """Ask every side, and see that all of them say the same."""
        # Time never stands still between two steps: keys of one moment are listed by their random ids.
        self.clock.advance(0.001)
        expected = getattr(self.model, verb)(*arguments)
        self.trace.append(f"worker {worker}: {verb}{arguments} = {expected}")
        self._seen[verb, expected.code if isinstance(expected, Refused) else "done"] += 1
        for side in self._sides:
            assert self._stage is not None
            found = self._stage.run(side.do(worker, verb, *arguments))
            if found != expected:
                raise Differs(f"{side.where}: {found}")

    def ref(self, key: int, way: str) -> Ref:
        version = self.model.versions[key]
        match way:
            case "lineage_id" | "first version":
                return Ref("lineage_id" if way == "lineage_id" else "key_id", version.lineage)
            case "name":
                return Ref("name", version.name or "nameless")
            case "not a lineage":
                return Ref("lineage_id", key)
            case _:
                return Ref("key_id", ABSENT if way == "absent" else key)


def fault(program: Program, stage: Stage, wiring: Wiring = Worker) -> tuple[Exception, list[str]] | None:
    """What goes wrong, and the steps up to it."""
    life = Life(Counter(), stage, wiring)
    try:
        life.live(program)
    except Exception as error:
        return error, life.trace
    return None


def reduced(program: Program, stage: Stage) -> Program:
    """The program without the steps that it fails without."""
    for index in reversed(range(len(program))):
        shorter = [*program[:index], *program[index + 1 :]]
        if fault(shorter, stage) is not None:
            program = shorter
    return program


@pytest.mark.acceptance
def test_every_step_is_answered_alike_by_the_model_and_both_databases(on_both: Stage) -> None:
    seen: Counter[tuple[str, str]] = Counter()
    chance = Random(SystemRandom().getrandbits(64))
    for _ in range(PROGRAMS):
        program = drawn(chance, STEPS)
        try:
            Life(seen, on_both).live(program)
        except Exception as error:
            shortest = fault(reduced(program, on_both), on_both)
            trace = "it did not happen again" if shortest is None else "\n".join(shortest[1])
            raise Differs(f"{error!r} at the end of this program:\n{trace}") from error
    assert seen.total() >= PROGRAMS * STEPS * 0.9


EVERY_ANSWER = {
    "create": {"done", "already_exists"},
    "rotate": {"done", "key_not_found", "key_inactive"},
    "set_enabled": {"done", "key_not_found"},
    "encrypt": {"done", "key_not_found", "key_inactive", "key_disabled"},
    "decrypt": {
        "done", "key_not_found", "key_disabled", "key_mismatch", "invalid_envelope", "decryption_failed",
    },
    "get": {"done", "key_not_found"},
    "list": {"done"},
}  # fmt: skip


def test_the_daily_programs_come_to_every_answer_that_there_is() -> None:
    seen: Counter[tuple[str, str]] = Counter()
    chance = Random(1)
    for _ in range(25):
        Life(seen, None).live(drawn(chance, 30))
    assert seen.keys() == {(verb, answer) for verb, answers in EVERY_ANSWER.items() for answer in answers}
    assert min(seen.values()) >= 5, seen


class OldVersionStaysActive(KeyRepository):
    def succeed(self, tx, old, new, material):
        self.add_version(tx, new, material)
        return True


class OldVersionIsEnabledByRotation(KeyRepository):
    def succeed(self, tx, old, new, material):
        self.set_enabled(tx, old.realm_id, enabled=True, key_id=old.key_id)
        return super().succeed(tx, old, new, material)


class OneVersionForItsLineage(KeyRepository):
    def set_enabled(self, tx, realm_id, *, enabled, key_id=None, lineage_id=None):
        return super().set_enabled(tx, realm_id, enabled=enabled, key_id=key_id or lineage_id)


class LineageForItsVersion(KeyRepository):
    def set_enabled(self, tx, realm_id, *, enabled, key_id=None, lineage_id=None):
        if key_id is not None:
            lineage_id = self.find_version(tx, realm_id, key_id, Purpose.ENCRYPTION).lineage_id
        return super().set_enabled(tx, realm_id, enabled=enabled, lineage_id=lineage_id)


class RotatedKeysLeaveTheList(KeyRepository):
    def list_keys(self, tx, realm_id, *, after, limit, lineages):
        found = super().list_keys(tx, realm_id, after=after, limit=limit, lineages=lineages)
        return [version for version in found if version.version == 1]


class NamesReachTheOtherRealm(KeyRepository):
    def find_active(self, tx, realm_id, purpose, *, lineage_id=None, name=None):
        other = f"{realm_id[:-1]}{1 - int(realm_id[-1])}"
        found = super().find_active(tx, realm_id, purpose, lineage_id=lineage_id, name=name)
        return found or super().find_active(tx, other, purpose, lineage_id=lineage_id, name=name)


class TakenNamesAreDropped(KeyRepository):
    def insert_key(self, tx, version, material):
        return super().insert_key(tx, version, material) or super().insert_key(
            tx, replace(version, name=None), material
        )


class DisabledVersionsGoOn(KeyRepository):
    def find_version(self, tx, realm_id, key_id, purpose):
        found = super().find_version(tx, realm_id, key_id, purpose)
        return found and replace(found, enabled=True)


BROKEN = [
    OldVersionStaysActive,
    OldVersionIsEnabledByRotation,
    OneVersionForItsLineage,
    LineageForItsVersion,
    RotatedKeysLeaveTheList,
    NamesReachTheOtherRealm,
    TakenNamesAreDropped,
    DisabledVersionsGoOn,
]


def assert_noticed(stage: Stage, wiring: Wiring) -> None:
    """Of the daily number of programs several see the difference."""
    chance, noticed, programs = Random(1), 0, 0
    while noticed < 3 and programs < 25:
        programs += 1
        found = fault(drawn(chance, 30), stage, wiring)
        noticed += found is not None and isinstance(found[0], Differs)
    assert noticed == 3


@pytest.mark.parametrize("store", BROKEN)
def test_a_store_with_a_defect_is_noticed(on_sqlite: Stage, store: type[KeyRepository]) -> None:
    assert_noticed(on_sqlite, lambda database, root_keys, clock: Worker(database, root_keys, clock, store()))


class SilentEpochs:
    """Changes that no other worker hears of."""

    def __init__(self, database) -> None:
        self.current, self.at = database.current, database.at

    def bump(self, tx, realm_id) -> None:
        return


def test_workers_that_do_not_hear_of_changes_are_noticed(on_sqlite: Stage) -> None:
    assert_noticed(
        on_sqlite,
        lambda database, root_keys, clock: Worker(database, root_keys, clock, None, SilentEpochs(database)),
    )


def test_pins_that_hold_nothing_are_noticed(on_sqlite: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cipher, "_is_pinned", lambda version, pin: True)
    assert_noticed(on_sqlite, Worker)


IMPOSSIBLE = ["", "ORDERS", "orders ", "o\0", "\0", "orders\n", "\u00f6rders", "o" * 100_000]


@pytest.mark.parametrize("name", IMPOSSIBLE, ids=range(len(IMPOSSIBLE)))
def test_a_name_that_no_key_can_have_is_not_found_on_either_database(on_both: Stage, name: str) -> None:
    for side in on_both.begin():
        created = on_both.run(side.do(0, "create", 0, Algorithm.AES256_GCM, "orders"))
        assert on_both.run(side.do(0, "encrypt", 0, Ref("key_id", created.key), b"text")) == (0, 1)
        for verb, rest in (("encrypt", (b"text",)), ("rotate", ())):
            answer = on_both.run(side.do(0, verb, 0, Ref("name", name), *rest))
            assert answer == Refused("not_found", "key_not_found", f"key not found: {name}")
        answer = on_both.run(side.do(0, "decrypt", 0, 0, Ref("name", name)))
        assert answer == Refused("invalid", "key_mismatch", "key mismatch")
