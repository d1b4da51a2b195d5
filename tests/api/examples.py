"""The examples of the endpoint table, played in its order, and answers judged by the document's schemas."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from jsonschema import Draft202012Validator, ValidationError

from qimem.bootstrap.serving import ENDPOINTS
from qimem.web.kit.endpoint import Endpoint
from tests.support.api import PASSWORD, Person, World
from tests.support.one_time import code_of
from tests.support.server import Server

JSON = "application/json"
BY_NAME = {endpoint.name: endpoint for endpoint in ENDPOINTS}

LEARNED = {
    "realms.create": {"realm_id": "id"},
    "roles.create": {"role": "name"},
    "keys.create": {"key_id": "key_id"},
    "keys.encrypt": {"envelope": "envelope"},
    "clients.create": {"client_id": "client_id", "client_secret": "client_secret"},
    "users.create": {"user_id": "id"},
    "tokens.refresh": {"refresh_token": "refresh_token"},
}
"""Endpoint → words that later examples have in braces, and the fields of its answer that they stand for."""


OF_A_FACTOR = {"me.enrol-totp", "me.confirm-totp", "me.renew-recovery-codes", "me.disable-totp"}
"""What one person does, one after the other."""


@dataclass
class Stage:
    """Where the examples run: a fresh realm with its administrator, and what is known so far."""

    world: World
    admin: Person
    nobody: httpx.Client
    known: dict[str, str] = field(default_factory=dict)
    cautious: Person | None = None

    def caller(self, endpoint: Endpoint) -> httpx.Client:
        """Who may do this and no more."""
        if endpoint.name == "me.change-password":
            # Whoever does this is signed out.
            return self.world.person().http
        if endpoint.name in OF_A_FACTOR:
            self.cautious = self.cautious or self.world.person()
            return self.cautious.http
        if not endpoint.needs_bearer:
            return self.nobody
        return self.world.operator if endpoint.name.startswith("realms.") else self.admin.http

    def fill(self, value: Any) -> Any:
        """The value with known words in place of those in braces."""
        if isinstance(value, dict):
            return {name: self.fill(inner) for name, inner in value.items()}
        if isinstance(value, str):
            for name, known in self.known.items():
                value = value.replace(f"{{{name}}}", known)
        return value

    def learn(self, name: str, answer: dict[str, Any]) -> None:
        """Keep what later examples need of an answer."""
        self.known |= {word: answer[field] for word, field in LEARNED.get(name, {}).items()}
        if name == "me.enrol-totp":
            self.known["pending_code"] = code_of(answer["secret"])
        if "recovery_codes" in answer:
            self.known["code"] = answer["recovery_codes"][0]

    def call(self, endpoint: Endpoint, client: httpx.Client | None = None, **more: Any) -> httpx.Response:
        """The endpoint with its example, as it stands in the document unless `more` says otherwise."""
        path = self.fill(more.pop("path", endpoint.path))
        if endpoint.merges:
            more["headers"] = {"If-Match": "*"} | more.get("headers", {})
        if endpoint.name == "realms.delete":
            more["params"] = {"confirm": self.known.get("realm_id", "")} | more.get("params", {})
        if endpoint.example is not None and not more.keys() & {"json", "content"}:
            more["json"] = self.fill(dict(endpoint.example))
        return (client or self.caller(endpoint)).request(endpoint.method, path, **more)


def stage(world: World) -> Stage:
    """A fresh realm on this server."""
    admin = world.person()
    # The example of revoke ends this second sign-in; the first one goes on.
    second = admin.login()["refresh_token"]
    return Stage(
        world,
        admin,
        world.anonymous(),
        {"realm": admin.realm_id, "refresh_token": second, "password": PASSWORD},
    )


def operation(document: dict[str, Any], name: str) -> dict[str, Any]:
    return document["paths"][BY_NAME[name].path][BY_NAME[name].method.lower()]


def resolved(document: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in part:
        _, *steps = part["$ref"].split("/")
        part = document
        for step in steps:
            part = part[step]
    return part


def check(document: dict[str, Any], schema: dict[str, Any], value: object) -> None:
    """Raise where the value is not of the schema, or has a field that the schema does not name."""
    whole = schema | {"components": document["components"]}
    Draft202012Validator(whole, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(value)
    arms = [resolved(document, arm) for arm in resolved(document, schema).get("anyOf", [schema])]
    named = [arm["properties"].keys() for arm in arms if "properties" in arm]
    if isinstance(value, dict) and named and not any(value.keys() <= names for names in named):
        raise ValidationError(f"undocumented field among {sorted(value)}")


def request_schema(document: dict[str, Any], name: str) -> dict[str, Any]:
    return operation(document, name)["requestBody"]["content"][JSON]["schema"]


@contextmanager
def world_of_its_own(directory: Path) -> Iterator[World]:
    """The operator of a server of its own: an example creates the realm `acme`, and two cannot."""
    server = Server(directory).start()
    world = World(server)
    try:
        yield world
    finally:
        world.close()
        server.stop()


def play(world: World) -> tuple[Stage, dict[str, httpx.Response]]:
    """Every endpoint called once in a fresh realm, in the order of the table, deletions last; its answers by name."""
    place, answers = stage(world), {}
    # What is deleted first would be missed by the others.
    for endpoint in sorted(ENDPOINTS, key=lambda endpoint: endpoint.method == "DELETE"):
        answers[endpoint.name] = answer = place.call(endpoint)
        if answer.status_code == 200 and answer.headers["content-type"] == JSON:
            place.learn(endpoint.name, answer.json())
    return place, answers
