"""Who may do what in any order of events: a model of a few rules, SQLite and PostgreSQL give the same answers.

After every step both databases show what the model shows, tokens open on another worker what they should, and
nobody has come to hold what whoever took the step did not hold: there is no path upward. `climb` goes looking for
one, as somebody who tries everything that the services offer, with every identity that they make or take over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.support.identity_defects import DEFECTS, Defect, GivesFreely, SeesNothing, roles_unchecked
from tests.support.identity_life import Differs, Life, PathUpward
from tests.support.identity_model import Model
from tests.support.identity_powers import (
    APPLICATION,
    ASKED,
    BUILT_IN,
    NO_PERMISSIONS,
    SCOPED,
    SYSTEM,
)
from tests.support.identity_real import Stage
from tests.support.postgres import Cluster
from tests.support.volume import volume

ANY = st.integers(0, 999)
SURE = st.sampled_from([True, True, True, False])
RARELY = st.sampled_from([False, False, True])
TENANTS = (1, 2, 3)
HOME = st.sampled_from([SYSTEM, 1, 1, 1, 2])
WHERE = st.sampled_from(["there", "there", "there", "there", "own", "elsewhere"])
KIND = st.sampled_from(["user", "user", "client"])
ROLES = st.lists(ANY, min_size=1, max_size=2)
PERMISSION = st.sampled_from([*sorted(ASKED), APPLICATION])
LISTED = st.lists(PERMISSION, max_size=5)
SPELLED = st.one_of(LISTED, LISTED, LISTED, st.lists(st.sampled_from(NO_PERMISSIONS), min_size=1, max_size=1))

CLERK = ("roles:create", "roles:manage", "users:create", "users:manage", "clients:create", "clients:manage")
"""May do all that could lead upward, and else nothing."""
STAFF = (["operator"], ["platform-admin"], ["platform-admin", "realm-admin"], ["realm-admin"], ["r0"])

VERBS = {
    "create_role", "update_role", "create", "assign", "set_secret", "login", "credentials", "refresh", "create_realm",
    "delete_realm",
}  # fmt: skip
OUTCOMES = {
    "ok", "permission_denied", "not_found", "realm_not_found", "already_exists", "conflict", "invalid_token",
    "invalid_client", "invalid_grant",
}  # fmt: skip
"""What even the daily run comes across."""


class IdentityMachine(Life, RuleBasedStateMachine):
    """Steps against the model and every installation."""

    @initialize(
        listed=st.lists(LISTED, min_size=2, max_size=3),
        held=st.lists(st.lists(st.integers(0, 3), max_size=2), min_size=2, max_size=3),
    )
    def begin(self, listed: list[list[str]], held: list[list[int]]) -> None:
        """A tenant with a random graph of roles, another one, and people who run the platform."""
        self.set_out()
        for realm in (1, 2):
            self.step("create_realm", 0, None, number=realm)
        for number, names in enumerate([CLERK, *listed]):
            self.step("create_role", 0, 1, name=f"r{number}", listed=names)
        hybrid = ["users:create", "users:manage", "realms:manage"]
        self.step("create_role", 0, SYSTEM, name="r0", listed=hybrid)
        drawn = [[f"r{which}" for which in names if which <= len(listed)] for names in held]
        tenant, other = (["realm-admin"], ["r0"], *drawn), (["realm-admin"],)
        for realm, people in ((SYSTEM, STAFF), (1, tenant), (2, other)):
            door = self.added(0, realm, "client", [])
            for names in people:
                who = self.added(0, realm, "user", names)
                self.step("login", None, None, client=door, user=who, right=True)
        for names in drawn[:2]:
            self.step("credentials", None, None, client=self.added(0, 1, "client", names), right=True)
        for realm in (SYSTEM, 1, 2):
            self.look(realm, frozenset(BUILT_IN.values()))

    # --- roles, users, clients ----------------------------------------------------------------

    @rule(
        actor=ANY, where=WHERE, name=ANY, listed=SPELLED, verb=st.sampled_from(["create_role", "update_role"])
    )
    def write_role(self, actor: int, where: str, name: int, listed: list[str], verb: str) -> None:
        token, realm = self.scene(actor, where, 1)
        chosen = f"r{name % 9}" if verb == "create_role" else self.named(realm, name)
        self.take(verb, token, realm, name=chosen, listed=listed)

    @rule(actor=ANY, where=WHERE, name=ANY, sure=RARELY)
    def delete_role(self, actor: int, where: str, name: int, sure: bool) -> None:
        if sure:
            token, realm = self.scene(actor, where, 1)
            self.take("delete_role", token, realm, name=self.named(realm, name))

    @rule(actor=ANY, where=WHERE, home=HOME, kind=KIND, again=RARELY, which=ROLES)
    def create(self, actor: int, where: str, home: int, kind: str, again: bool, which: list[int]) -> None:
        self.made += not again
        token, realm = self.scene(actor, where, home)
        names = [self.named(realm, one) for one in which]
        self.take("create", token, realm, kind=kind, name=f"n{self.made}", roles=names)

    @rule(
        actor=ANY, where=WHERE, which=ANY, given=ROLES, verb=st.sampled_from(["assign", "assign", "remove"])
    )
    def change_roles(self, actor: int, where: str, which: int, given: list[int], verb: str) -> None:
        one = self.subject(which)
        token, realm = self.scene(actor, where, one.realm)
        names = [self.named(realm, number) for number in given]
        names = list(one.roles[:1]) if verb == "remove" and given[0] % 2 else names
        self.take(verb, token, realm, subject=one.number, roles=names)

    @rule(actor=ANY, where=WHERE, which=ANY, enabled=st.booleans())
    def switch(self, actor: int, where: str, which: int, enabled: bool) -> None:
        one = self.subject(which)
        self.take("switch", *self.scene(actor, where, one.realm), subject=one.number, enabled=enabled)

    @rule(actor=ANY, where=WHERE, which=ANY, sure=RARELY)
    def delete(self, actor: int, where: str, which: int, sure: bool) -> None:
        if sure:
            one = self.subject(which)
            self.take("delete", *self.scene(actor, where, one.realm), subject=one.number)

    @rule(actor=ANY, where=WHERE, which=ANY)
    def set_secret(self, actor: int, where: str, which: int) -> None:
        one = self.subject(which)
        self.take("set_secret", *self.scene(actor, where, one.realm), subject=one.number)

    @rule(actor=ANY, where=WHERE, which=ANY)
    def sign_out(self, actor: int, where: str, which: int) -> None:
        one = self.subject(which, "user")
        self.take("sign_out", *self.scene(actor, where, one.realm), subject=one.number)

    @rule(actor=ANY, where=WHERE, which=ANY, name=st.integers(1, 20))
    def rename(self, actor: int, where: str, which: int, name: int) -> None:
        one = self.subject(which, "user")
        self.take("rename", *self.scene(actor, where, one.realm), subject=one.number, name=f"n{name}")

    @rule(which=ANY, permission=st.sampled_from(sorted(ASKED - {SCOPED})))
    def explain(self, which: int, permission: str) -> None:
        one = self.subject(which)
        self.step("explain", 0, one.realm, subject=one.number, permission=permission)

    @rule(actor=ANY, right=SURE)
    def change_password(self, actor: int, right: bool) -> None:
        token = self.actor(actor)
        if self.model.tokens[token].subject:
            self.take("change_password", token, None, right=right)

    # --- tokens -------------------------------------------------------------------------------

    @rule(which=ANY, through=ANY, right=SURE)
    def login(self, which: int, through: int, right: bool) -> None:
        user = self.subject(which, "user")
        near = self.model.living(user.realm, "client") if through % 8 else self.model.subjects
        doors = [one.number for one in near if one.kind == "client" and one.number > 1]
        if doors:
            client = doors[through % len(doors)]
            self.take("login", None, None, client=client, user=user.number, right=right)

    @rule(which=ANY, right=SURE)
    def credentials(self, which: int, right: bool) -> None:
        self.take("credentials", None, None, client=self.subject(which, "client").number, right=right)

    @precondition(lambda self: len(self.model.grants) > 1)
    @rule(which=ANY, verb=st.sampled_from(["refresh", "refresh", "refresh", "revoke_grant"]))
    def present(self, which: int, verb: str) -> None:
        self.take(verb, None, None, grant=1 + which % (len(self.model.grants) - 1))

    @precondition(lambda self: len(self.model.tokens) > 1)
    @rule(which=ANY, sure=RARELY)
    def revoke_token(self, which: int, sure: bool) -> None:
        if sure:
            self.take("revoke_token", None, None, held=1 + which % (len(self.model.tokens) - 1))

    # --- realms -------------------------------------------------------------------------------

    @rule(actor=ANY, number=st.sampled_from(TENANTS))
    def create_realm(self, actor: int, number: int) -> None:
        self.take("create_realm", self.actor(actor, SYSTEM), None, number=number)

    @rule(actor=ANY, realm=st.sampled_from([SYSTEM, *TENANTS]), enabled=SURE)
    def switch_realm(self, actor: int, realm: int, enabled: bool) -> None:
        self.take("switch_realm", self.actor(actor, SYSTEM), realm, enabled=enabled)

    @rule(actor=ANY, realm=st.sampled_from([SYSTEM, 1, 2, 2, 3, 3]), sure=RARELY)
    def delete_realm(self, actor: int, realm: int, sure: bool) -> None:
        if sure:
            self.take("delete_realm", self.actor(actor, SYSTEM), realm)

    @precondition(lambda self: self.model.realms.get(1) == "on")
    @rule(actor=ANY, realm=st.sampled_from([None, 1]))
    def climb(self, actor: int, realm: int | None) -> None:
        # Who goes into another realm than their own runs the platform.
        self.everything_tried(self.actor(actor, None if realm is None else SYSTEM), realm)

    def teardown(self) -> None:
        """Nothing happened where nothing was done; of a realm that ends, nothing answers any more."""
        if not hasattr(self, "shown"):
            return
        if self.sound:
            for realm in self.model.realms:
                seen = self.stage.answers(side.visible(realm) for side in self.sides)
                self.alike(self.model.visible(realm), seen, f"realm {realm}")
                self.tokens_of(realm, last=99)
            for realm in [one for one, state in self.model.realms.items() if one and state != "gone"]:
                self.end(realm)
        self.stage.answers(side.leave() for side in self.sides)

    def end(self, realm: int) -> None:
        self.step("delete_realm", 0, realm)
        self.look(realm, frozenset())
        self.step("create_realm", 0, None, number=realm)
        for one in self.model.living(realm)[:4]:
            if one.kind == "client":
                self.step("credentials", None, None, client=one.number, right=True)
            self.step("switch", 0, realm, subject=one.number, enabled=True)
        subjects = self.model.subjects
        of_realm = [at for at, one in enumerate(self.model.grants) if subjects[one.user].realm == realm]
        for number in of_realm[-3:]:
            self.step("refresh", None, None, grant=number)
        self.tokens_of(realm, last=99)


def live(
    stage: Stage,
    examples: int,
    steps: int,
    model_type: type[Model] = Model,
    phases: Sequence[Phase] = (Phase.generate,),
) -> Counter[tuple[str, str]]:
    """Run the machine; what was answered, how often."""
    seen: Counter[tuple[str, str]] = Counter()
    parts = {"stage": stage, "model_type": model_type, "seen": seen}
    chosen = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        derandomize=True,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        phases=phases,
    )
    run_state_machine_as_test(type("Machine", (IdentityMachine,), parts), settings=chosen)
    return seen


@pytest.fixture(scope="module")
def on_both(tmp_path_factory: pytest.TempPathFactory, postgres_cluster: Cluster) -> Iterator[Stage]:
    url = postgres_cluster.create(migrated=False)
    opened = Stage((tmp_path_factory.mktemp("sqlite"), None), (tmp_path_factory.mktemp("postgresql"), url))
    yield opened
    opened.close()
    postgres_cluster.drop(url)


@pytest.mark.acceptance
@pytest.mark.timeout(5_400)  # a counterexample may take minutes to be made short
def test_no_order_of_events_gives_anybody_more_than_was_given_to_them(on_both: Stage) -> None:
    examples, steps = volume(200, share=0.015), volume(100, share=0.4)
    seen = live(on_both, examples, steps, phases=(Phase.generate, Phase.shrink))
    assert {verb for verb, _ in seen} >= VERBS
    assert {outcome for _, outcome in seen} >= OUTCOMES


# --- the machine notices ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def on_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    opened = Stage((tmp_path_factory.mktemp("sqlite"), None))
    yield opened
    opened.close()


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_service_with_a_defect_is_noticed(
    defect: Defect, on_sqlite: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    defect(monkeypatch, on_sqlite)
    with pytest.raises(Differs):
        live(on_sqlite, 40, 40)


@pytest.mark.parametrize("model_type", [GivesFreely, SeesNothing])
def test_a_path_upward_is_noticed_where_the_model_has_it_too(
    model_type: type[Model], on_sqlite: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    roles_unchecked(monkeypatch, on_sqlite)
    with pytest.raises(PathUpward):
        live(on_sqlite, 40, 40, model_type)
