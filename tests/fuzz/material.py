"""Valid requests of every operation, with ids and tokens of a running server."""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from qimem.bootstrap.serving import ENDPOINTS
from qimem.kernel.limits import AUDIT_SEGMENTS_PER_QUESTION, PASSWORD_LANE_WAIT_SECONDS
from qimem.web.kit.endpoint import Endpoint
from tests.fuzz.draft import Draft, Pairs, tree
from tests.fuzz.things import Ask, Things, fresh
from tests.support.paths import OPERATORS_ONLY

QUEUES = {
    "users.create": PASSWORD_LANE_WAIT_SECONDS, "tokens.issue": PASSWORD_LANE_WAIT_SECONDS,
    "users.set-password": PASSWORD_LANE_WAIT_SECONDS, "me.change-password": 2 * PASSWORD_LANE_WAIT_SECONDS,
    "me.enrol-totp": PASSWORD_LANE_WAIT_SECONDS, "me.disable-totp": PASSWORD_LANE_WAIT_SECONDS,
    "me.renew-recovery-codes": PASSWORD_LANE_WAIT_SECONDS,
    "audit.list": AUDIT_SEGMENTS_PER_QUESTION * 0.6,
}  # fmt: skip
"""Operation → seconds that it may wait beside the loop: for Argon2id, or for segments of the log to be read."""

WEIGHTS = {"users.create": 0.1, "users.set-password": 0.1, "me.change-password": 0.2, "me.enrol-totp": 0.2, "me.disable-totp": 0.5, "me.renew-recovery-codes": 0.5, "tokens.issue": 1.0, "audit.list": 0.3, "realms.create": 0.15, "system.openapi": 0.1, "system.docs": 0.1,
           "keys.encrypt": 2.0, "keys.decrypt": 3.0}  # fmt: skip
"""How often an operation is tried; 1 where it is not named. Hashing, rendering and reading the log would take all the time."""

FRESH_NAMES = 0.3
"""Elsewhere the examples' own names, which exist after the first time."""


@dataclass(frozen=True)
class Account:
    """Who asks: an administrator of a realm, and the operator for what only operators may do."""

    url: str
    realm_id: str
    credentials: dict[str, str]
    operator: dict[str, str]

    @property
    def host(self) -> bytes:
        return urlsplit(self.url).netloc.encode()


@dataclass
class Material:
    """What a valid request needs, made anew now and then: tokens end, keys are disabled, refreshes spent."""

    account: Account
    known: dict[str, str]
    operator_token: str

    @classmethod
    def make(cls, account: Account, ask: Ask) -> Material:
        """Sign in and make a key.

        Args:
            ask: POSTs a body with a bearer token, and returns the JSON of the 200.
        """
        pair = ask("/v1/auth/token", account.credentials, None)
        # What is revoked, or refreshed twice, belongs to a sign-in of its own: it takes its access tokens along.
        revocable = ask("/v1/auth/token", account.credentials, None)["refresh_token"]
        refreshable = ask("/v1/auth/token", account.credentials, None)["refresh_token"]
        operator = ask("/v1/auth/token", account.operator, None)["access_token"]
        bearer = pair["access_token"]
        client = {name: account.credentials[name] for name in ("client_id", "client_secret")}
        in_realm = client | {"realm_id": account.realm_id}
        name = fresh("orders")
        key = ask("/v1/security/keys", {"name": name}, bearer)
        plaintext = {"key_id": key["key_id"], "input": "4111 1111 1111 1111"}
        sealed = ask("/v1/security/encrypt", plaintext, bearer)
        known = {
            "bearer": bearer, "refresh_token": refreshable, "revocable": revocable,
            "key_id": key["key_id"], "lineage_id": key["lineage_id"], "name": name, "envelope": sealed["envelope"],
            "realm": account.realm_id, **client, **Things(ask, bearer, operator, in_realm).all(),
        }  # fmt: skip
        return cls(account, known, operator)

    def valid(self, chance: random.Random) -> Draft:
        """A request that a server without faults serves, or refuses because of what exists already."""
        endpoint = chance.choices(ENDPOINTS, _WEIGHTS)[0]
        body = self._body(endpoint, chance)
        headers = [(b"Host", self.account.host)]
        if endpoint.needs_bearer:
            operators = endpoint.permission in OPERATORS_ONLY or endpoint.realm_in_path
            own = self.known.get(f"bearer.{endpoint.name}", self.known["bearer"])
            token = self.operator_token if operators else own
            headers.append((b"Authorization", b"Bearer " + token.encode()))
        if body is not None:
            headers.append((b"Content-Type", b"application/json"))
        if endpoint.merges:
            headers.append((b"If-Match", b"*"))
        if endpoint.idempotent and chance.random() < 0.2:
            headers.append((b"Idempotency-Key", b"key-%d" % chance.randrange(500)))
        return Draft(
            endpoint.name, endpoint.method.encode(), self._path(endpoint).encode(), self._query(endpoint, chance),
            headers, body, queue_seconds=QUEUES.get(endpoint.name, 0.0),
        )  # fmt: skip

    def _path(self, endpoint: Endpoint) -> str:
        # What is deleted is nothing that the other operations still need.
        path = endpoint.path.replace("{client_id}", "{other_client}")
        doomed = self.known.get(f"doomed.{endpoint.name}")
        return self.fill(path if doomed is None else re.sub(r"\{\w+\}", doomed, path))

    def fill(self, text: str) -> str:
        """The text with what is known in place of the words in braces."""
        for name in re.findall(r"\{(\w+)\}", text):
            text = text.replace(f"{{{name}}}", self.known.get(name, f"{{{name}}}"))
        return text

    def _body(self, endpoint: Endpoint, chance: random.Random) -> Any:
        if endpoint.request is None:
            return None
        text = json.dumps(dict(endpoint.example or {}))
        if endpoint.name == "tokens.revoke":
            text = text.replace("{refresh_token}", self.known["revocable"])
        example = json.loads(self.fill(text))
        body: Pairs = tree(example)
        for index, (name, value) in enumerate(body):
            if name == "name" and value == "orders":
                body[index] = (name, self.known["name"])
            elif name in {"id", "name", "username"} and chance.random() < FRESH_NAMES:
                body[index] = (name, fresh(value))
        self._vary(endpoint, body, chance)
        return body

    def _vary(self, endpoint: Endpoint, body: Pairs, chance: random.Random) -> None:
        """Optional fields that no example shows, so that their values are spoiled too."""
        assert endpoint.request is not None
        given = {name for name, _ in body}
        unset = [
            name for name in endpoint.request.__struct_fields__ if name not in given and name in OPTIONAL
        ]
        for name in chance.sample(unset, min(len(unset), chance.choice((0, 0, 1, 1, 2)))):
            value = OPTIONAL[name]
            body.append((name, self.fill(value) if isinstance(value, str) else tree(value)))
        if "items" in unset and chance.random() < 0.3:
            item = Pairs(pair for pair in body if pair[0] in {"input", "envelope", "encoding"})
            body[:] = [("items", [item] * chance.randrange(1, 4)), ("name", self.known["name"])]

    def _query(self, endpoint: Endpoint, chance: random.Random) -> bytes:
        if endpoint.name == "realms.delete":
            return b"confirm=" + self.known[f"doomed.{endpoint.name}"].encode()
        if endpoint.query is None or chance.random() < 0.3:
            return b""
        names = chance.sample(endpoint.query.__struct_fields__, min(2, len(endpoint.query.__struct_fields__)))
        return b"&".join(f"{name}={self.fill(str(QUERY.get(name, 'x')))}".encode() for name in names)


OPTIONAL: dict[str, Any] = {
    "algorithm": "chacha20_poly1305", "realm_id": "{realm}", "encoding": "base64", "input_b64": "AAECAw==",
    "grant_types": ["password", "refresh_token"], "response_types": ["code"], "token_endpoint_auth_method": "none",
    "scope": "openid profile", "jwks": {"keys": [{"kty": "oct", "k": "AAAA"}]}, "jwks_uri": "https://shop.example/jwks",
    "post_logout_redirect_uris": ["https://shop.example/bye"], "tier": "free", "email": "ada@shop.example",
    "username": "ada", "password": "a-long-enough-phrase", "grant_type": "password", "client_secret": "{client_secret}",
    "totp_code": "123456", "key_id": "{key_id}", "lineage_id": "{key_id}", "client_name": "shop", "mode": "now",
    "client_id": "{client_id}", "items": [], "refresh_grace_seconds": 5, "refresh_requires_client": True,
}  # fmt: skip
QUERY = {"limit": 2, "cursor": "WzE3NjQxOTI2MDAwMDAwMDAsIjAwMDAwMDAwLTAwMDAtNDAwMC04MDAwLTAwMDAwMDAwMDAwMCJd",
         "realm_id": "{realm}", "since": "2026-01-31T12:00:00Z", "until": "2126-01-31T12:00:00Z",
         "key_id": "{key_id}", "client_id": "{client_id}", "event": "keys.create", "outcome": "ok"}  # fmt: skip
_WEIGHTS = [WEIGHTS.get(endpoint.name, 1.0) for endpoint in ENDPOINTS]
