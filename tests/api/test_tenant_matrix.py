"""Every operation, by everybody of one realm, at everything of another: nothing happens, and nothing is learned.

Made from the endpoint table. What exists in the other realm has to be answered as what exists nowhere, in status and
in body, on the first call (cold) and on the second (warm); and the other realm's rows have to be as they were.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import pytest

from qimem.bootstrap.serving import ENDPOINTS
from qimem.storage.schema import METADATA
from qimem.web.kit.endpoint import Endpoint
from tests.support.api import PASSWORD, Person, World
from tests.support.oauth import nobody, rows
from tests.support.paths import ABSENT, filled
from tests.support.server import ok

BEARERS = [endpoint for endpoint in ENDPOINTS if endpoint.needs_bearer]
NAMING = [endpoint for endpoint in BEARERS if endpoint.names_realm]
OBJECTS = ("key_id", "user_id", "client_id", "role")
OF_OBJECTS = [endpoint for endpoint in BEARERS if any(f"{{{name}}}" in endpoint.path for name in OBJECTS)]
IN_BODIES = {
    "keys.encrypt": ("key_id", "lineage_id", "name"), "keys.decrypt": ("key_id", "lineage_id", "name", "envelope", "input"),
    "keys.rotate": ("key_id", "lineage_id", "name"), "authz.explain": ("user_id", "client_id"),
    "tokens.introspect": ("token",), "audit.list": (),
}  # fmt: skip
"""Operation → fields of its body that name an object."""


@dataclass(frozen=True)
class Tenants:
    """Who attacks, in realm A, and what stands in realm B.

    Args:
        theirs: Name of a parameter or field → the thing of B.
    """

    world: World
    attackers: dict[str, httpx.Client]
    realm_a: str
    realm_b: str
    theirs: dict[str, str]
    owner: Person

    def state_of_b(self) -> str:
        """A digest of every row of B, but of who signed in."""
        found = {}
        for table in METADATA.tables.values():
            if "realm_id" in table.c and table.name not in {"login_attempt", "idempotency"}:
                found[table.name] = sorted(
                    repr(sorted(row.items())) for row in rows(self.world.server, table, realm_id=self.realm_b)
                )
        return hashlib.sha256(json.dumps(found).encode()).hexdigest()


@pytest.fixture(scope="module")
def tenants(world: World) -> Iterator[Tenants]:
    admin, owner = world.person(), world.person()
    key = ok(owner.post("/v1/security/keys", {"name": "orders"}))
    ok(admin.post("/v1/security/keys", {"name": "invoices"}))
    sealed = ok(owner.post("/v1/security/encrypt", {"name": "orders", "input": "4111"}))["envelope"]
    client = world.client(admin.realm_id, roles=["realm-admin"])
    body = {"grant_type": "client_credentials", **{n: client[n] for n in ("client_id", "client_secret")}}
    own = ok(nobody(world).post("/v1/auth/token", json=body))["access_token"]
    attackers = {
        "administrator": admin.http,
        "service account": world.bearer(own),
        "clerk": world.person("keys:read", "users:read", realm_id=admin.realm_id).http,
        "nobody": world.anonymous(),
        "garbage": world.bearer("x.y.z"),
    }
    theirs = {
        "key_id": key["key_id"], "lineage_id": key["lineage_id"], "name": "orders", "envelope": sealed, "input": sealed,
        "user_id": world.user(owner.realm_id)["id"], "client_id": world.client(owner.realm_id)["client_id"],
        "role": world.role(owner.realm_id, []), "token": owner.refresh_token,
    }  # fmt: skip
    made = Tenants(world, attackers, admin.realm_id, owner.realm_id, theirs, owner)
    before = made.state_of_b()
    yield made
    assert made.state_of_b() == before
    ok(owner.get("/v1/auth/me"))


def spellings(realm_id: str) -> dict[str, str]:
    return {
        "as it is": realm_id, "upper case": realm_id.upper(), "a space behind": f"{realm_id} ", "a space before": f" {realm_id}",
        "a slash behind": f"{realm_id}/", "up and down": f"../{realm_id}", "escaped": f"%2e%2e%2f{realm_id}",
        "no hyphen": realm_id.replace("-", ""), "full width": "".join(chr(ord(c) + 0xFEE0) if c.isalpha() else c for c in realm_id),
        "NUL": f"{realm_id}\x00", "long": realm_id * 60, "a pair": f"{realm_id}:x", "system": "system", "root": "root", "*": "*",
        "empty": "", "a list": f"{realm_id},system", "urn": f"urn:realm:{realm_id}",
    }  # fmt: skip


def asked(
    tenants: Tenants,
    caller: httpx.Client,
    endpoint: Endpoint,
    place: dict[str, str],
    body: dict[str, Any],
    query: Any,
) -> httpx.Response:
    """The endpoint with these things in its path, its body and its query."""
    path = filled(endpoint.path, **place)
    headers = {"If-Match": "*"} if endpoint.merges else {}
    more: dict[str, Any] = {"params": query} if query else {}
    if endpoint.request is not None:
        example = {
            k: v for k, v in (endpoint.example or {}).items() if not isinstance(v, str) or "{" not in v
        }
        more["json"] = _fresh(tenants, example) | body
    return caller.request(endpoint.method, path, headers=headers, **more)


def _fresh(tenants: Tenants, example: dict[str, Any]) -> dict[str, Any]:
    for name in example.keys() & {"id", "name", "username"}:
        example[name] = tenants.world.fresh("mine")
    if "password" in example:
        example["password"] = PASSWORD
    return example


def told(answer: httpx.Response, *names: str) -> tuple[int, str]:
    """Status and body, without what names the request or repeats what was asked."""
    text = re.sub(r'"request_id":"[^"]*"', "", answer.text)
    for name in names:
        text = text.replace(json.dumps(name)[1:-1], "…").replace(name, "…")
    return answer.status_code, text


@pytest.mark.parametrize("endpoint", NAMING, ids=lambda endpoint: endpoint.name)
def test_no_spelling_of_a_foreign_realm_is_one(tenants: Tenants, endpoint: Endpoint) -> None:
    for who, caller in tenants.attackers.items():
        for how, spelled in spellings(tenants.realm_b).items():
            if endpoint.realm_in_path:
                if not spelled.isascii() or re.search(r"[\x00 /%]", spelled) or not spelled:
                    continue
                places = [({"realm_id": spelled}, {}, {})]
            elif endpoint.request is not None:
                places = [({}, {"realm_id": spelled}, {}), ({}, {}, {"realm_id": spelled})]
            else:
                places = [({}, {}, {"realm_id": spelled})]
            for place, body, query in places:
                for _ in range(2):
                    answer = asked(tenants, caller, endpoint, place, body, query)
                    assert answer.status_code in {400, 401, 403, 404}, (who, how, answer.text)


@pytest.mark.parametrize("endpoint", NAMING, ids=lambda endpoint: endpoint.name)
def test_a_foreign_realm_is_told_from_an_absent_one_by_nothing(tenants: Tenants, endpoint: Endpoint) -> None:
    absent = "realm-" + "9" * (len(tenants.realm_b) - 6)
    for who, caller in tenants.attackers.items():
        answers = []
        for realm_id in (tenants.realm_b, absent) * 2:
            place = {"realm_id": realm_id} if endpoint.realm_in_path else {}
            inside = {"realm_id": realm_id}
            body, query = ({}, {}) if endpoint.realm_in_path else (inside, {})
            if endpoint.request is None:
                body, query = {}, query or ({} if endpoint.realm_in_path else inside)
            if endpoint.name == "realms.delete":
                query = {"confirm": realm_id}
            answers.append(told(asked(tenants, caller, endpoint, place, body, query), realm_id))
        assert len(set(answers)) == 1, (who, answers)


@pytest.mark.parametrize("endpoint", OF_OBJECTS, ids=lambda endpoint: endpoint.name)
def test_a_foreign_object_is_told_from_an_absent_one_by_nothing(tenants: Tenants, endpoint: Endpoint) -> None:
    (name,) = [name for name in OBJECTS if f"{{{name}}}" in endpoint.path]
    theirs = tenants.theirs[name]
    absent = "role-" + "9" * (len(theirs) - 5) if name == "role" else str(uuid4())
    alike = [(theirs, absent)]
    if name != "role":
        alike += [(theirs.upper(), absent.upper()), (theirs.replace("-", ""), absent.replace("-", ""))]
    for who, caller in tenants.attackers.items():
        for pair in alike:
            answers = [
                told(asked(tenants, caller, endpoint, {name: one}, {}, {}), one, one.lower(), _plain(one))
                for one in pair * 2
            ]
            assert len(set(answers)) == 1, (who, answers)
            assert answers[0][0] in {400, 401, 403, 404}, (who, answers)


def _plain(text: str) -> str:
    """A UUID as the server would write it."""
    digits = text.replace("-", "").lower()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


@pytest.mark.parametrize(
    ("name", "field"), [(name, field) for name, fields in IN_BODIES.items() for field in fields]
)
def test_a_foreign_object_in_a_body_is_none(tenants: Tenants, name: str, field: str) -> None:
    (endpoint,) = [endpoint for endpoint in ENDPOINTS if endpoint.name == name]
    own = ok(
        tenants.attackers["administrator"].post(
            "/v1/security/encrypt", json={"name": "invoices", "input": "x"}
        )
    )
    for who, caller in tenants.attackers.items():
        body: dict[str, Any] = {field: tenants.theirs[field]}
        if name == "keys.encrypt":
            body["input"] = "x"
        if name == "keys.decrypt" and field not in {"envelope", "input"}:
            body["envelope"] = own["envelope"]
        if name == "authz.explain":
            body["permission"] = "keys:read"
        for _ in range(2):
            answer = caller.request(endpoint.method, endpoint.path, json=body)
            if name == "tokens.introspect" and answer.status_code == 200:
                assert answer.json() == {"active": False}, who
                continue
            assert answer.status_code in {400, 401, 403, 404}, (who, answer.text)


def test_lists_show_nothing_foreign(tenants: Tenants) -> None:
    records = ok(tenants.attackers["administrator"].get("/v1/audit/events", params={"limit": 200}))["items"]
    assert {record["realm"] for record in records} == {tenants.realm_a}
    # In the log stands what the attackers asked for; everywhere else nothing of it may.
    lists = [e for e in BEARERS if e.method == "GET" and e.query is not None and e.name != "audit.list"]
    for endpoint in lists:
        for who in ("administrator", "service account"):
            answer = tenants.attackers[who].get(filled(endpoint.path, role="realm-admin"))
            for thing in (*tenants.theirs.values(), tenants.realm_b):
                if thing not in {"orders", ABSENT}:
                    assert thing not in answer.text, (endpoint.name, who)
