"""Who sends the load: a client and a user of a realm, and the requests they send."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any

from bench.figures import RunRefused
from bench.load import Request, ask, get, post
from bench.servers import Installation, Server

TEXT = "sixty-four bytes of text, as long as a token or an account no. 1"
PAGE = 10
REFRESH_PATH = "/v1/auth/token/refresh"
_PERMISSIONS = ["keys:create", "keys:encrypt", "keys:decrypt", "tokens:introspect", "users:read"]
_PASSWORD = "a phrase that only the load knows"


@dataclass(frozen=True, slots=True)
class Caller:
    """One client, one user and one key of a realm."""

    realm_id: str
    client_id: str
    client_secret: str
    username: str
    password: str
    key_id: str

    def by_client(self) -> Request:
        """A token by client credentials."""
        body = {
            "grant_type": "client_credentials",
            "client_id": self.client_id,
            "client_secret": self.client_secret,
        }
        return post("/v1/auth/token", body)

    def by_password(self) -> Request:
        """A token pair by password."""
        body = {
            "client_id": self.client_id,
            "client_secret": self.client_secret,
            "realm_id": self.realm_id,
            "username": self.username,
            "password": self.password,
        }
        return post("/v1/auth/token", body)

    def token(self, server: Server) -> str:
        """An access token of the client."""
        return str(answer(server, self.by_client())["access_token"])

    def refresh_token(self, server: Server) -> str:
        """The refresh token of a new login."""
        return str(answer(server, self.by_password())["refresh_token"])

    def encrypt(self, token: str) -> Request:
        """64 bytes with the caller's key."""
        return post("/v1/security/encrypt", {"key_id": self.key_id, "input": TEXT}, token)

    def introspect(self, token: str) -> Request:
        """What the caller's own kind of token is good for, asked by a bearer who may ask about any."""
        return post("/v1/auth/token/introspect", {"token": token}, token)

    def create_key(self, token: str) -> Request:
        """A new key in the caller's realm."""
        return post("/v1/security/keys", {"algorithm": "aes256_gcm"}, token)

    def list_users(self, token: str) -> Request:
        """A page of the users of the caller's realm, which has as many."""
        return get(f"/v1/auth/users?limit={PAGE}", token)

    def list_keys(self, token: str) -> Request:
        """A page of the keys of the caller's realm."""
        return get(f"/v1/security/keys?limit={PAGE}", token)


def list_realms(token: str) -> Request:
    """The first page of all realms, for an operator."""
    return get(f"/v1/auth/realms?limit={PAGE}", token)


def decrypt(envelope: str, token: str) -> Request:
    """The envelope of 64 bytes."""
    return post("/v1/security/decrypt", {"envelope": envelope}, token)


def refresh(token: str) -> Request:
    """As `load.refresh_chain` sends it."""
    return post(REFRESH_PATH, {"refresh_token": token})


def answer(server: Server, request: Request) -> dict[str, Any]:
    """The JSON of a 200."""
    content: dict[str, Any] = json.loads(ask(server, request))
    return content


def operator_token(installation: Installation, server: Server) -> str:
    """An access token of who may do everything."""
    known = installation.credentials
    login = {name: known[name] for name in ("client_id", "client_secret", "realm_id", "username", "password")}
    return str(answer(server, post("/v1/auth/token", login))["access_token"])


def settle_in(installation: Installation, server: Server) -> Caller:
    """A caller in a realm of its own with the permissions it needs, all of it made over HTTP."""
    token = operator_token(installation, server)

    def make(path: str, **body: object) -> dict[str, Any]:
        return answer(server, post(path, body, token))

    realm = make("/v1/auth/realms", id="load", name="Load")["id"]
    role = make("/v1/auth/roles", realm_id=realm, name="caller", permissions=_PERMISSIONS)["name"]
    client = make("/v1/auth/clients", realm_id=realm, redirect_uris=[], roles=[role], tier="unlimited")
    user = make("/v1/auth/users", realm_id=realm, username="caller", password=_PASSWORD, roles=[role])
    key = make("/v1/security/keys", realm_id=realm)
    return Caller(
        realm, client["client_id"], client["client_secret"], user["username"], _PASSWORD, key["key_id"]
    )


def check_envelope(server: Server, caller: Caller, token: str) -> str:
    """An envelope of the caller's key that opens again.

    Raises:
        RunRefused: it does not: what is fast and wrong is not measured.
    """
    envelope = str(answer(server, caller.encrypt(token))["envelope"])
    if len(base64.b64decode(envelope)) != len(TEXT) + 53:
        raise RunRefused("the envelope has another length than the text and 53 bytes")
    if answer(server, decrypt(envelope, token))["plaintext"] != TEXT:
        raise RunRefused("the envelope opens to another text")
    return envelope
