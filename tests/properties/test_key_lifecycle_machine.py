"""The life of keys as a state machine: Hypothesis chooses and reduces, both databases answer as the model does.

It takes the same steps as the programs of `test_key_lifecycle`, which are drawn evenly; here what is chosen
next may depend on what failed before, and a failure comes out as the shortest way to it.
"""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from qimem.crypto.algorithms import ENVELOPE_IDS
from tests.properties.test_key_lifecycle import (
    WAYS,
    Differs,
    DisabledVersionsGoOn,
    Life,
    Stage,
    Step,
    on_both,
    on_sqlite,
)
from tests.support.lifecycle import Wiring, Worker
from tests.support.volume import volume

__all__ = ["on_both", "on_sqlite"]

ANY = st.integers(0, 999)
WORKER = st.integers(0, 1)
WAY = st.sampled_from(list(WAYS))


class KeyMachine(RuleBasedStateMachine):
    """Steps against the model and every side of a stage."""

    stage: Stage
    wiring: Wiring = Worker
    seen: Counter[tuple[str, str]]

    @initialize()
    def begin(self) -> None:
        self.life = Life(self.seen, self.stage, self.wiring)
        self.life.begin()

    @rule(worker=WORKER, home=st.booleans(), key=ANY, algorithm=st.sampled_from(list(ENVELOPE_IDS)),
          name=st.sampled_from([None, "orders", "payroll", "invoices"]))  # fmt: skip
    def create(self, worker, home, key, algorithm, name) -> None:
        self.take("create", worker, home=home, key=key, algorithm=algorithm, name=name)

    @rule(worker=WORKER, home=st.booleans(), key=ANY, way=WAY)
    def rotate(self, worker, home, key, way) -> None:
        self.take("rotate", worker, home=home, key=key, way=way)

    @rule(worker=WORKER, home=st.booleans(), key=ANY, on=st.booleans(),
          scope=st.sampled_from(["version", "lineage"]))  # fmt: skip
    def set_enabled(self, worker, home, key, on, scope) -> None:
        self.take("set_enabled", worker, home=home, key=key, enabled=on, scope=scope)

    @rule(worker=WORKER, home=st.booleans(), key=ANY, way=WAY, plaintext=st.binary(max_size=24))
    def encrypt(self, worker, home, key, way, plaintext) -> None:
        self.take("encrypt", worker, home=home, key=key, way=way, plaintext=plaintext)

    @rule(worker=WORKER, home=st.booleans(), envelope=ANY)
    def decrypt(self, worker, home, envelope) -> None:
        self.take("decrypt", worker, home=home, envelope=envelope)

    @rule(worker=WORKER, envelope=ANY, key=ANY, own=st.booleans(), way=WAY)
    def decrypt_pinned(self, worker, envelope, key, own, way) -> None:
        self.take("decrypt_pinned", worker, envelope=envelope, key=key, enabled=own, way=way)

    @rule(worker=WORKER, home=st.booleans(), envelope=ANY, key=ANY, own=st.booleans(),
          algorithm=st.sampled_from(list(ENVELOPE_IDS)))  # fmt: skip
    def decrypt_under_another_header(self, worker, home, envelope, key, own, algorithm) -> None:
        self.take("decrypt_under_another_header", worker, home=home, envelope=envelope, key=key,
                  enabled=own, algorithm=algorithm)  # fmt: skip

    @rule(worker=WORKER, home=st.booleans(), key=ANY, way=WAY, envelope=ANY)
    def look(self, worker, home, key, way, envelope) -> None:
        self.take("look", worker, home=home, key=key, way=way, envelope=envelope)

    @rule(worker=WORKER)
    def restart(self, worker) -> None:
        self.take("restart", worker)

    def take(self, verb: str, worker: int, *, home: bool = True, **chosen) -> None:
        plain = {"key": 0, "envelope": 0, "way": "key_id", "algorithm": next(iter(ENVELOPE_IDS)),
                 "name": None, "enabled": True, "scope": "version", "plaintext": b""}  # fmt: skip
        self.life.take(Step(verb=verb, worker=worker, at_home=home, **{**plain, **chosen}))

    def teardown(self) -> None:
        self.life.end()


def live(stage: Stage, wiring: Wiring, examples: int, steps: int) -> Counter[tuple[str, str]]:
    """Run the machine; what was answered, how often."""
    seen: Counter[tuple[str, str]] = Counter()
    machine = type("Machine", (KeyMachine,), {"stage": stage, "wiring": staticmethod(wiring), "seen": seen})
    chosen = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        derandomize=True,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=chosen)
    return seen


@pytest.mark.acceptance
def test_no_order_of_steps_makes_the_model_and_both_databases_differ(on_both: Stage) -> None:
    seen = live(on_both, Worker, volume(500, share=0.04), volume(50, share=0.5))
    assert {verb for verb, _ in seen} == {
        "create",
        "rotate",
        "set_enabled",
        "encrypt",
        "decrypt",
        "get",
        "list",
    }


def test_a_store_with_a_defect_is_noticed(on_sqlite: Stage) -> None:
    def broken(database, root_keys, clock) -> Worker:
        return Worker(database, root_keys, clock, DisabledVersionsGoOn())

    with pytest.raises(Differs):
        live(on_sqlite, broken, 60, 20)
