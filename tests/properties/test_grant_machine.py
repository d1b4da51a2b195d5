"""Any order of logins, refreshes, revocations and disablings, against a model of a few lines.

Every step runs on SQLite and on PostgreSQL through the services of production; both must answer as
the model says, so their traces are equal. A counterexample is a short list of steps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
import uvloop
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from qimem.bootstrap import first
from qimem.bootstrap.core import Core
from qimem.bootstrap.database import location
from qimem.config.schema import DatabaseSettings, ServerSettings, Settings
from qimem.crypto.passwords import TESTING
from qimem.crypto.randomness import new_uuid
from qimem.errors import Invalid, Unauthenticated
from qimem.identity.models import UserRecord
from qimem.kernel.clock import MICROSECONDS, ManualClock
from qimem.kernel.context import Actor
from qimem.kernel.ids import SYSTEM_REALM
from qimem.kernel.secret import SecretBytes, SecretText
from qimem.kernel.transaction import Tx
from qimem.kms.root_keys import RootKeys
from qimem.oauth.models import GrantRecord
from qimem.oauth.refresh_token import parse_refresh_token
from qimem.storage import postgres_epochs
from qimem.storage.repositories.clients import ClientRepository
from qimem.storage.repositories.grants import GrantRepository
from qimem.storage.repositories.instance import InstanceRepository
from qimem.storage.repositories.users import UserRepository
from qimem.storage.schema import app_user, client
from qimem.storage.statement import sql
from qimem.wire.auth import RefreshRequest, TokenRequest, TokenResponse
from tests.support.audit import FakeIntents, a_draft
from tests.support.metering import FakeMeter
from tests.support.oauth import taken_apart
from tests.support.volume import volume
from tests.unit.oauth.fakes import SECRET, a_client

PASSWORD = "a long enough phrase"
START = 1_800_000_000 * MICROSECONDS
DAY = 86_400
_PATIENCE_SECONDS = 30.0
"""The order of events is what is tested here, not whether a busy machine answers each within a second."""

WHICH = st.integers(0, 31)
PROOFS = st.sampled_from(["none", "secret"])
RARELY = st.sampled_from([False, False, False, True])

NOT_OURS = ("invalid_client", "invalid client credentials")
WRONG_LOGIN = ("invalid_grant", "invalid credentials")
WRONG_TOKEN = ("invalid_grant", "invalid refresh token")


@dataclass
class Side:
    """One installation on one kind of database."""

    run: Callable[[Coroutine[Any, Any, Any]], Any]
    database: Any
    core: Any
    clock: ManualClock
    phc: str
    services: Any
    who: dict[str, str] = field(default_factory=dict)
    user_id: UUID = field(default_factory=new_uuid)

    def begin(self, name: str) -> None:
        """A new user, a new client and another client, at the start of time."""
        self.clock.wall_us = START
        self.user_id = new_uuid()
        user = UserRecord(
            SYSTEM_REALM,
            self.user_id,
            name,
            name,
            None,
            enabled=True,
            roles=("realm-admin",),
            created_us=START,
        )
        clients = [
            a_client(f"{which}-{name}", SYSTEM_REALM, scope=None, roles=()) for which in ("app", "other")
        ]
        self.who = {"app": clients[0].client_id, "other": clients[1].client_id, "user": name}

        def add(tx: Tx) -> None:
            assert UserRepository().insert(tx, user, self.phc)
            for one in clients:
                ClientRepository().insert(tx, one)

        self.run(self.database.write(add))

    def set_enabled(self, table: sa.Table, *, enabled: bool) -> None:
        key = table.c.user_id == self.user_id if table is app_user else table.c.client_id == self.who["app"]
        statement = sql(sa.update(table).where(table.c.realm_id == SYSTEM_REALM, key).values(enabled=enabled))

        def change(tx: Tx) -> None:
            assert tx.run(statement) == 1
            self.database.bump(tx, SYSTEM_REALM)

        self.run(self.database.write(change))

    def answer(self, asked: Coroutine[Any, Any, Any]) -> Any:
        """What comes, or code and text of the refusal."""
        try:
            return self.run(asked)
        except (Invalid, Unauthenticated) as error:
            return (error.code, error.message)

    def row(self, refresh_token: str) -> GrantRecord:
        presented = parse_refresh_token(refresh_token)
        assert presented is not None
        return self.run(
            self.database.read(lambda tx: GrantRepository().find(tx, SYSTEM_REALM, presented.grant_id))
        )

    def is_let_in(self, access_token: str) -> bool:
        answer = self.answer(self.core.bearer.authenticate(f"Bearer {access_token}".encode()))
        if answer == ("invalid_token", "invalid access token"):
            return False
        assert isinstance(answer[0], Actor)
        return True


@dataclass
class Grant:
    """What the model knows of a grant. Tokens are lists with one text per side."""

    expires_us: int
    generation: int = 1
    rotated_us: int | None = None
    by_client: bool = False
    revoked: bool = False
    refresh: list[list[str]] = field(default_factory=list)
    access: list[tuple[list[str], int]] = field(default_factory=list)
    dead: set[str] = field(default_factory=set)


class GrantMachine(RuleBasedStateMachine):
    """Steps against both sides and the model."""

    sides: tuple[Side, ...]
    numbers = iter(range(10**9))

    @initialize()
    def begin(self) -> None:
        self.now_us = START
        self.user_on = self.client_on = True
        self.known: list[Grant] = []
        name = f"user{next(self.numbers)}"
        for side in self.sides:
            side.begin(name)

    @precondition(lambda self: len(self.known) < 6)
    @rule()
    def login(self) -> None:
        self.signed_in()

    @rule(which=WHICH, proof=PROOFS, times=st.integers(1, 3))
    def refresh_in_a_row(self, which: int, proof: str, times: int) -> None:
        grant = self.grant(which)
        for _ in range(times):
            self.present(grant, 0, proof)

    @rule(which=WHICH, back=st.sampled_from([1, 1, 2, 3]), proof=PROOFS)
    def refresh_once_more(self, which: int, back: int, proof: str) -> None:
        grant = self.grant(which)
        self.present(grant, back, proof)
        if grant.revoked:
            self.present(grant, 0, proof)

    @rule(which=WHICH, back=st.integers(0, 2), proof=st.sampled_from(["wrong", "other", "secret only"]))
    def refresh_as_someone_else(self, which: int, back: int, proof: str) -> None:
        self.present(self.grant(which), back, proof)

    @rule(seconds=st.sampled_from([0.5, 1, 4, 9, 10, 10.5, 11, 300, 899, 900, 901]))
    def wait(self, seconds: float) -> None:
        self.now_us += int(seconds * MICROSECONDS)
        for side in self.sides:
            side.clock.advance(seconds)

    @rule(which=WHICH, before=st.sampled_from([0, 0.5, 1, 500, 901]), back=st.integers(0, 1), proof=PROOFS)
    def come_back_towards_the_end(self, which: int, before: float, back: int, proof: str) -> None:
        grant = self.grant(which)
        wanted = grant.expires_us - int(before * MICROSECONDS)
        if wanted > self.now_us:
            self.wait((wanted - self.now_us) / MICROSECONDS)
        self.present(grant, back, proof)
        self.use(grant)

    @rule(which=WHICH, back=st.sampled_from([0, 0, 1, 3]), sure=RARELY)
    def revoke_a_refresh_token(self, which: int, back: int, sure: bool) -> None:
        if sure:
            self.end(self.grant(which), back)

    @rule(which=WHICH, number=st.integers(0, 5))
    def revoke_an_access_token(self, which: int, number: int) -> None:
        grant = self.grant(which)
        tokens, _ = grant.access[number % len(grant.access)]
        for side, token in zip(self.sides, tokens, strict=True):
            side.run(side.services.revocation.revoke(token, a_draft(), FakeMeter()))
        grant.dead.add(tokens[0])

    @rule(
        which=WHICH,
        who=st.sampled_from([app_user, client]),
        proof=PROOFS,
        back=st.integers(0, 1),
        end=RARELY,
    )
    def disable_for_a_while(self, which: int, who: sa.Table, proof: str, back: int, end: bool) -> None:
        grant = self.grant(which)
        self.set_enabled(who, enabled=False)
        assert self.login_answers() == [WRONG_LOGIN if self.client_on else NOT_OURS] * len(self.sides)
        self.present(grant, back, proof)
        self.use(grant)
        if end:
            self.end(grant, back)
        self.set_enabled(who, enabled=True)

    @rule(which=WHICH)
    def use_every_access_token(self, which: int) -> None:
        self.use(self.grant(which))

    def teardown(self) -> None:
        """The rows say what the model says."""
        for grant in getattr(self, "known", ()):
            wanted = (grant.generation, grant.revoked, grant.rotated_us, grant.expires_us)
            for side, token in zip(self.sides, grant.refresh[0], strict=True):
                row = side.row(token)
                assert (row.generation, row.revoked_us is not None, row.rotated_us, row.expires_us) == wanted

    def grant(self, which: int) -> Grant:
        """One of those that live, seldom a dead one: it has no more to tell."""
        live = [one for one in self.known if not one.revoked and one.expires_us > self.now_us]
        live = live or [self.signed_in()]
        among = self.known if which % 8 == 7 else live
        return among[which % len(among)]

    def login_answers(self) -> list[Any]:
        answers = []
        for side in self.sides:
            request = TokenRequest(
                client_id=side.who["app"],
                client_secret=SECRET,
                realm_id=SYSTEM_REALM,
                username=side.who["user"],
                password=PASSWORD,
            )
            answers.append(side.answer(side.services.tokens.exchange(request, a_draft(), FakeMeter())))
        return answers

    def signed_in(self) -> Grant:
        answers = self.login_answers()
        grant = Grant(expires_us=self.now_us + DAY * MICROSECONDS)
        self.known.append(grant)
        grant.refresh.append([answer.refresh_token for answer in answers])
        self.took(grant, answers)
        return grant

    def set_enabled(self, who: sa.Table, *, enabled: bool) -> None:
        if who is app_user:
            self.user_on = enabled
        else:
            self.client_on = enabled
        for side in self.sides:
            side.set_enabled(who, enabled=enabled)

    def end(self, grant: Grant, back: int) -> None:
        # Used before, so that every worker knows the tokens and has to forget them.
        self.use(grant)
        for side, token in zip(self.sides, grant.refresh[self.index(grant, back)], strict=True):
            side.run(side.services.revocation.revoke(token, a_draft(), FakeMeter()))
        grant.revoked = True
        self.use(grant)
        self.present(grant, 0, "none")

    def use(self, grant: Grant) -> None:
        for tokens, expires in grant.access:
            good = self.user_on and self.client_on and not grant.revoked and tokens[0] not in grant.dead
            good = good and expires * MICROSECONDS > self.now_us
            let_in = [side.is_let_in(token) for side, token in zip(self.sides, tokens, strict=True)]
            assert let_in == [good] * len(self.sides)

    def index(self, grant: Grant, back: int) -> int:
        return max(0, grant.generation - 1 - back)

    def present(self, grant: Grant, back: int, proof: str) -> None:
        at = self.index(grant, back)
        answers = []
        for number, side in enumerate(self.sides):
            proofs = {
                "none": {},
                "secret": {"client_id": side.who["app"], "client_secret": SECRET},
                "wrong": {"client_id": side.who["app"], "client_secret": SECRET + "x"},
                "other": {"client_id": side.who["other"], "client_secret": SECRET},
                "secret only": {"client_secret": SECRET},
            }
            request = RefreshRequest(refresh_token=grant.refresh[at][number], **proofs[proof])
            answers.append(side.answer(side.services.refresh.exchange(request, a_draft(), FakeMeter())))
        refusal = self.expected_refusal(grant, at + 1, proof)
        self.use(grant)
        if refusal is not None:
            assert answers == [refusal] * len(answers)
            return
        tokens = [answer.refresh_token for answer in answers]
        if at + 1 == grant.generation:
            assert not set(tokens) & {text for texts in grant.refresh for text in texts}
            grant.refresh.append(tokens)
            grant.generation += 1
            grant.rotated_us, grant.by_client = self.now_us, proof == "secret"
        assert tokens == grant.refresh[-1]
        self.took(grant, answers)

    def expected_refusal(self, grant: Grant, presented: int, proof: str) -> tuple[str, str] | None:
        """The model of a refresh; ends the grant where the rules say so."""
        if proof in ("wrong", "other", "secret only") or (proof == "secret" and not self.client_on):
            return NOT_OURS
        if grant.revoked or grant.expires_us <= self.now_us:
            return WRONG_TOKEN
        recent = grant.rotated_us is not None and self.now_us - grant.rotated_us <= 10 * MICROSECONDS
        again = presented == grant.generation - 1 and recent and grant.by_client == (proof == "secret")
        # A copy is one whether or not its user and client may sign in at the moment.
        grant.revoked = presented < grant.generation and not again
        return None if self.user_on and self.client_on and not grant.revoked else WRONG_TOKEN

    def took(self, grant: Grant, answers: list[TokenResponse]) -> None:
        left = (grant.expires_us - self.now_us) // MICROSECONDS
        lasts = max(1, min(900, left))
        assert [answer.expires_in for answer in answers] == [lasts] * len(answers)
        claims = [taken_apart(answer.access_token)[1] for answer in answers]
        assert [one["exp"] - one["iat"] for one in claims] == [lasts] * len(answers)
        assert [one["iat"] for one in claims] == [self.now_us // MICROSECONDS] * len(answers)
        grant.access.append(([answer.access_token for answer in answers], claims[0]["exp"]))


async def _open(directory: Path, url: str | None) -> tuple[Any, Any, ManualClock, str]:
    directory.mkdir()
    root_key = bytes(range(32))
    server = ServerSettings(data_dir=directory, external_url="https://id.example")
    database_settings = DatabaseSettings(url=None if url is None else SecretText(url))
    chosen = replace(Settings(), server=server, database=database_settings)
    await first.initialise(chosen, SecretBytes(root_key), first.AdminChoice())
    database = location(chosen).open(write_seconds=_PATIENCE_SECONDS)
    instance = await database.read(InstanceRepository().find)
    assert instance is not None
    clock = ManualClock(START)
    root = RootKeys(instance.instance_id, SecretBytes(root_key))
    core = Core(database, root, clock, "https://id.example", TESTING)
    return database, core, clock, await core.lane.hash(SYSTEM_REALM, PASSWORD)


@pytest.fixture
def sides(tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Side, ...]]:
    """The same installation on both kinds of database."""
    monkeypatch.setattr(postgres_epochs, "STORAGE_ANSWER_SECONDS", _PATIENCE_SECONDS)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        opened = [
            runner.run(_open(tmp_path / name, url))
            for name, url in (("sqlite", None), ("postgresql", postgres_url))
        ]
        unused: Any = None
        yield tuple(
            Side(runner.run, database, core, clock, phc, core.services(unused, FakeIntents(), unused, unused))
            for database, core, clock, phc in opened
        )
        for database, core, _, _ in opened:
            core.lane.close()
            runner.run(database.close())


@pytest.mark.acceptance
@pytest.mark.timeout(volume(7_200, share=0.125))  # a counterexample may take minutes to be made short
def test_no_order_of_events_leaves_the_rules_of_a_grant(sides: tuple[Side, ...]) -> None:
    machine = type("GrantMachineHere", (GrantMachine,), {"sides": sides})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=volume(2_000),
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
