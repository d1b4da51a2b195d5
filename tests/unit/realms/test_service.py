from __future__ import annotations

import pytest

from qimem.authz.permissions import REALM_SCOPED
from qimem.errors import Conflict, Forbidden, InvalidFields
from qimem.kernel.context import Actor
from qimem.kernel.ids import SYSTEM_REALM, RealmId
from qimem.kernel.transaction import Tx
from qimem.realms.models import RealmRecord
from qimem.realms.service import RealmService, RealmTerms
from tests.unit.kernel.fakes import Table
from tests.unit.oauth.fakes import ACME, Setting, an_actor, asked_by

pytestmark = pytest.mark.anyio

OPERATOR = an_actor("*", realm_id=SYSTEM_REALM)
GLOBEX = RealmId("globex")


class Part(Table):
    """Something that a new realm must have; may fail in the middle."""

    def __init__(self, name: str, steps: list[str], failure: Exception | None = None) -> None:
        super().__init__()
        self._name = name
        self._steps = steps
        self._failure = failure

    def prepare(self, realm_id: RealmId, now_us: int) -> object:
        self._steps.append(f"prepare {self._name}")
        return f"{self._name} of {realm_id} at {now_us}"

    def provision(self, tx: Tx, realm_id: RealmId, prepared: object, now_us: int) -> None:
        self._steps.append(f"provision {self._name}")
        self.rows[realm_id] = prepared
        if self._failure is not None:
            raise self._failure


class World(Setting):
    """A service with two parts to provision."""

    def __init__(self, failure: Exception | None = None) -> None:
        super().__init__()
        self.steps: list[str] = []
        self.parts = [Part("kek", self.steps), Part("roles", self.steps, failure)]
        self.database._tables = (*self.database._tables, *self.parts)
        self.service = RealmService(
            self.work,
            self.database,
            self.realms,
            self.parts,
            RealmTerms(lambda realm_id: f"https://id.example/realms/{realm_id}"),
            self.clock,
        )


async def test_a_realm_is_made_with_all_its_parts_in_order() -> None:
    world = World()
    made = await world.service.create(asked_by(OPERATOR), "globex", "Globex")
    assert (made.id, made.name, made.issuer) == ("globex", "Globex", "https://id.example/realms/globex")
    assert made.created_at == "2027-01-15T08:00:00.000000Z"
    now = world.clock.now_us()
    assert world.realms.rows[GLOBEX] == RealmRecord(GLOBEX, "Globex", enabled=True, created_us=now)
    assert world.steps == ["prepare kek", "prepare roles", "provision kek", "provision roles"]
    assert [part.rows for part in world.parts] == [
        {GLOBEX: f"{name} of globex at {now}"} for name in ("kek", "roles")
    ]


async def test_a_realm_whose_last_part_fails_is_not_there() -> None:
    world = World(failure=RuntimeError("no space"))
    with pytest.raises(RuntimeError):
        await world.service.create(asked_by(OPERATOR), "globex", "Globex")
    assert GLOBEX not in world.realms.rows
    assert [part.rows for part in world.parts] == [{}, {}]


async def test_an_existing_realm_is_not_overwritten() -> None:
    world = World()
    before = world.realms.rows[ACME]
    with pytest.raises(Conflict, match=r"\Arealm already exists: acme\Z") as caught:
        await world.service.create(asked_by(OPERATOR), "acme", "Another owner")
    assert caught.value.code == "already_exists"
    assert world.realms.rows[ACME] is before
    assert "provision kek" not in world.steps


@pytest.mark.parametrize(
    "realm_id",
    ["", "A", "-a", "a_b", "a.b", "a b", "a/b", "a\n", "\na", "a\0", "é", "ａ", "a" * 64, "a" * 1_000_000],
    ids=lambda text: ascii(text[:8]),
)
async def test_an_id_against_the_rule_costs_no_key(realm_id: str) -> None:
    world = World()
    with pytest.raises(InvalidFields) as caught:
        await world.service.create(asked_by(OPERATOR), realm_id, "x")
    assert caught.value.fields == {"/id": "must match [a-z0-9][a-z0-9-]{0,62}"}
    assert world.steps == []


@pytest.mark.parametrize("name", ["", "x" * 257], ids=len)
async def test_a_name_against_the_rule_costs_no_key(name: str) -> None:
    world = World()
    with pytest.raises(InvalidFields) as caught:
        await world.service.create(asked_by(OPERATOR), "globex", name)
    assert caught.value.fields == {"/name": "must have 1 to 256 characters"}
    assert world.steps == []


@pytest.mark.parametrize(
    "actor",
    [an_actor(), an_actor("realm:*"), an_actor("realm:*", realm_id=SYSTEM_REALM), an_actor(*REALM_SCOPED), an_actor("realms:creates")],
    ids=lambda actor: " ".join(sorted(actor.permissions.names))[:30],
)  # fmt: skip
async def test_whoever_lacks_the_right_makes_no_realm(actor: Actor) -> None:
    world = World()
    with pytest.raises(Forbidden) as caught:
        await world.service.create(asked_by(actor), "globex", "x")
    assert caught.value.permission == "realms:create"
    assert world.steps == []
    assert GLOBEX not in world.realms.rows
