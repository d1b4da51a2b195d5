"""Builders over HTTP: a realm with a person in it, in one line, for tests that care about something else."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.support.server import Server, ok, patiently

PASSWORD = "a long enough phrase"
_numbers = itertools.count(1)
_RENEW_SECONDS = 600


@dataclass
class Person:
    """Someone who is signed in to a realm: `get` and `post` carry the access token."""

    realm_id: str
    client_id: str
    client_secret: str
    username: str
    pair: dict[str, Any]
    http: httpx.Client
    roles: Sequence[str] = field(default=())

    @property
    def access_token(self) -> str:
        return self.pair["access_token"]

    @property
    def refresh_token(self) -> str:
        return self.pair["refresh_token"]

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.http.get(path, **more)

    def post(self, path: str, body: Any = None, **more: Any) -> httpx.Response:
        if body is not None:
            more["json"] = body
        return self.http.post(path, **more)

    def login(self) -> dict[str, Any]:
        """One more token pair for the same person."""
        return ok(self.http.post("/v1/auth/token", json=self.credentials()))

    def login_after_a_fault(self) -> dict[str, Any]:
        """As `login`, repeated while what a fault has broken is still being given up."""
        return patiently(lambda: self.http.post("/v1/auth/token", json=self.credentials()))

    def credentials(self) -> dict[str, str]:
        return {
            "client_id": self.client_id,
            "client_secret": self.client_secret,
            "realm_id": self.realm_id,
            "username": self.username,
            "password": PASSWORD,
        }


class World:
    """The operator of a running server, who makes realms and people. Names never repeat."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.operator = server.client(server.token())
        self.operator.event_hooks["request"].append(self._renewed)
        self._signed_in = time.monotonic()
        self._open = [self.operator]

    def close(self) -> None:
        for client in self._open:
            client.close()

    def fresh(self, word: str) -> str:
        """A name that nobody used."""
        return f"{word}-{next(_numbers)}"

    def anonymous(self) -> httpx.Client:
        """A caller without a token."""
        return self._kept(self.server.client())

    def bearer(self, token: str) -> httpx.Client:
        """A caller with this token."""
        return self._kept(self.server.client(token))

    def realm(self) -> str:
        """A new realm; its id."""
        name = self.fresh("realm")
        return ok(self.operator.post("/v1/auth/realms", json={"id": name, "name": name}))["id"]

    def role(self, realm_id: str, permissions: Sequence[str]) -> str:
        """A new role; its name."""
        body = {"realm_id": realm_id, "name": self.fresh("role"), "permissions": list(permissions)}
        return ok(self.operator.post("/v1/auth/roles", json=body))["name"]

    def client(self, realm_id: str, **more: Any) -> dict[str, Any]:
        """A new client, as the API answers it, with its secret."""
        body = {"realm_id": realm_id, "redirect_uris": [], **more}
        return ok(self.operator.post("/v1/auth/clients", json=body))

    def user(self, realm_id: str, roles: Sequence[str] = ()) -> dict[str, Any]:
        """A new user with the password `PASSWORD`, as the API answers it."""
        body = {
            "realm_id": realm_id,
            "username": self.fresh("user"),
            "password": PASSWORD,
            "roles": list(roles),
        }
        return ok(self.operator.post("/v1/auth/users", json=body))

    def person(self, *permissions: str, realm_id: str | None = None, roles: Sequence[str] = ()) -> Person:
        """A signed-in user of a new (or the given) realm.

        Args:
            permissions: What a new role for this user permits; none and no roles: `realm-admin`.
        """
        where = realm_id or self.realm()
        given = list(roles) + ([self.role(where, permissions)] if permissions else [])
        given = given or ["realm-admin"]
        client, user = self.client(where), self.user(where, given)
        credentials = {
            "client_id": client["client_id"],
            "client_secret": client["client_secret"],
            "realm_id": where,
            "username": user["username"],
            "password": PASSWORD,
        }
        pair = ok(self.operator.post("/v1/auth/token", json=credentials))
        return Person(
            where, client["client_id"], client["client_secret"], user["username"], pair,
            self.bearer(pair["access_token"]), given,
        )  # fmt: skip

    def _renewed(self, request: httpx.Request) -> None:
        # One of these serves all tests of a process, and a token is good for a quarter of an hour.
        bearer = self.operator.headers["authorization"]
        if (
            request.headers.get("authorization") == bearer
            and time.monotonic() > self._signed_in + _RENEW_SECONDS
        ):
            self._signed_in = time.monotonic()
            bearer = f"Bearer {self.server.token()}"
            self.operator.headers["authorization"] = request.headers["authorization"] = bearer

    def _kept(self, client: httpx.Client) -> httpx.Client:
        self._open.append(client)
        return client
