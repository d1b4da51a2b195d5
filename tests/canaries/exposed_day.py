"""A day of a server on which every kind of mistake is made, each with a secret in it.

What a person mistypes or a client misplaces is as secret as what is right: a password in the field
of the name, a token in a URL, a body that breaks off.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import socket
from collections.abc import Callable
from typing import Any

import httpx

from tests.support.canaries import Canary
from tests.support.server import Server, ok, refused

Execute = Callable[..., None]
"""Runs one SQL statement on the server's database from outside; `?` marks parameters."""

JSON = {"Content-Type": "application/json"}


class Plants:
    """Secrets that were made or seen, by name."""

    def __init__(self) -> None:
        self.canaries: list[Canary] = []

    def keep(self, name: str, value: str | bytes) -> None:
        """Remember a secret that the server made."""
        self.canaries.append(Canary(name, value.encode() if isinstance(value, str) else value))

    def text(self, name: str, prefix: str = "") -> str:
        """A new secret of ours."""
        value = prefix + secrets.token_urlsafe(24)
        self.keep(name, value)
        return value


class Caller:
    """Sends requests with a token, or without one."""

    def __init__(self, http: httpx.Client, token: str | None = None) -> None:
        self._http = http
        self._bearer = {"Authorization": f"Bearer {token}"} if token else {}

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self._request("GET", path, **more)

    def post(self, path: str, **more: Any) -> httpx.Response:
        return self._request("POST", path, **more)

    def delete(self, path: str) -> httpx.Response:
        return self._request("DELETE", path)

    def _request(self, method: str, path: str, headers: Any = None, **more: Any) -> httpx.Response:
        for attempt in range(5):
            answer = self._http.request(method, path, headers=self._bearer | (headers or {}), **more)
            # A busy machine may keep a password waiting too long; that is not what is tested here.
            if answer.status_code != 503 or attempt == 4:
                return answer
        raise AssertionError


class Day:
    """What happens on that day, in a realm of its own."""

    def __init__(self, server: Server, plants: Plants, realm_id: str, execute: Execute) -> None:
        self.server, self.plants, self.realm_id, self.execute = server, plants, realm_id, execute
        self.statuses: set[int] = set()
        self.username = f"ada-{secrets.token_hex(12)}"
        self.email = f"{secrets.token_hex(12)}@mail.example"
        # One client for every caller: a new one costs 30 ms, and the server cannot tell.
        self.http = server.client()
        self.operator = Caller(self.http, server.token())
        self.nobody = Caller(self.http)

    def run(self) -> None:
        """All of it."""
        try:
            self._people()
            self._tokens()
            self._keys()
            self._wrong_credentials()
            self._malformed_bodies()
            self._misplaced_secrets()
            self._broken_framing()
            self._damaged_rows()
        finally:
            self.http.close()

    def _people(self) -> None:
        realm, text, keep = self.realm_id, self.plants.text, self.plants.keep
        ok(self.operator.post("/v1/auth/realms", json={"id": realm, "name": realm}))
        self.client = ok(
            self.operator.post("/v1/auth/clients", json={"realm_id": realm, "redirect_uris": []})
        )
        keep("client secret", self.client["client_secret"])
        self.password = text("password", "Pä55 🔑 ")
        user = {"realm_id": realm, "username": self.username, "password": self.password, "roles": ["realm-admin"],
                "email": self.email}  # fmt: skip
        body = json.dumps(user).encode()
        once = JSON | {"Idempotency-Key": secrets.token_hex(8)}
        for replayed in (None, "true"):
            answer = self.operator.post("/v1/auth/users", content=body, headers=once)
            assert answer.headers.get("idempotency-replayed") == replayed
            ok(answer)
        # A password is guessed from its digest at billions a second; Argon2id is there to prevent that.
        keep("SHA-256 of the password", hashlib.sha256(self.password.encode()).digest())
        keep("SHA-256 of the body with the password", hashlib.sha256(body).digest())
        other = user | {"username": "endless", "password": text("too long password") * 10}
        refused(self.operator.post("/v1/auth/users", json=other), 400, "weak_password")
        refused(self.operator.post("/v1/auth/users", json=user | {"password": text("second password")}),
                409, "already_exists")  # fmt: skip
        registration = {
            "realm_id": realm,
            "redirect_uris": [f"https://u:{text('password in a URI')}@a.example/"],
        }
        self._refused(400, "/v1/auth/clients", registration)
        jwks = {
            "keys": [{"kty": "EC", "crv": "P-256", "x": "x", "y": "y", "d": text("private key of a client")}]
        }
        self._refused(400, "/v1/auth/clients", {"realm_id": realm, "redirect_uris": [], "jwks": jwks})

    def _tokens(self) -> None:
        keep = self.plants.keep
        self.pair = ok(self._login({}))
        self.ada = Caller(self.http, self.pair["access_token"])
        self._keep_pair("first", self.pair)
        again = ok(
            self.nobody.post("/v1/auth/token/refresh", json={"refresh_token": self.pair["refresh_token"]})
        )
        self._keep_pair("second", again)
        machine = self._client_credentials() | {"grant_type": "client_credentials"}
        keep("client's access token", ok(self.nobody.post("/v1/auth/token", json=machine))["access_token"])
        revoked = ok(self._login({}))
        self._keep_pair("revoked", revoked)
        ok(self.nobody.post("/v1/auth/token/revoke", json={"token": revoked["refresh_token"]}))
        ok(
            self.nobody.post(
                "/v1/auth/token/revoke", json={"token": self.plants.text("unknown token", "qrt_")}
            )
        )
        self._note(Caller(self.http, revoked["access_token"]).get("/v1/security/keys"), 401)
        unknown = {"refresh_token": self.plants.text("unknown refresh token", "qrt_")}
        refused(self.nobody.post("/v1/auth/token/refresh", json=unknown), 400, "invalid_grant")

    def _keys(self) -> None:
        text, keep, ada = self.plants.text, self.plants.keep, self.ada
        once = JSON | {"Idempotency-Key": secrets.token_hex(8)}
        for _ in range(2):
            made = ada.post("/v1/security/keys", content=b'{"name":"orders"}', headers=once)
            first = ok(made)
        # A stretch of the JSON that only the answer as a whole has: the ids in it are no secret.
        keep("replayed answer", made.content[made.content.index(b'"lineage_id"') :][:16])
        chacha = ok(ada.post("/v1/security/keys", json={"name": "chacha", "algorithm": "chacha20_poly1305"}))
        envelopes = [
            self._encrypt({"name": "orders", "input": text("plaintext")}),
            self._encrypt({"key_id": chacha["key_id"], "input": text("plaintext of ChaCha20")}),
        ]
        binary = secrets.token_bytes(48)
        keep("binary plaintext", binary)
        envelopes.append(self._encrypt({"name": "orders", "input_b64": base64.b64encode(binary).decode()}))
        items = [
            {"name": "orders", "input": text("plaintext of a batch")},
            {"name": "none", "input": text("lost item")},
        ]
        ok(ada.post("/v1/security/encrypt", json={"items": items}))
        ok(ada.post("/v1/security/rotate", json={"name": "orders"}))
        for envelope in envelopes:
            ok(ada.post("/v1/security/decrypt", json={"input": envelope, "encoding": "base64"}))
        refused(ada.post("/v1/security/decrypt", json={"input": envelopes[2]}), 400, "not_text")
        refused(
            ada.post("/v1/security/decrypt", json={"input": envelopes[0], "name": "chacha"}),
            400,
            "key_mismatch",
        )
        sealed = base64.b64decode(envelopes[0])
        tampered = base64.b64encode(sealed[:-1] + bytes((sealed[-1] ^ 1,))).decode()
        self._refused(400, "/v1/security/decrypt", {"input": tampered}, ada)
        inactive = {"key_id": first["key_id"], "input": text("plaintext for an inactive key")}
        refused(ada.post("/v1/security/encrypt", json=inactive), 400, "key_inactive")
        self._refused(
            404, "/v1/security/encrypt", {"name": "none", "input": text("plaintext for no key")}, ada
        )
        self._refused(
            400, "/v1/security/decrypt", {"input": text("plaintext in the place of an envelope")}, ada
        )
        self._refused(409, "/v1/security/keys", {"name": "orders"}, ada)
        other = self.operator.post("/v1/security/keys", json={"realm_id": text("unknown realm")})
        refused(other, 404, "realm_not_found")
        self._note(ada.post("/v1/security/keys", content=b'{"name":"other"}', headers=once), 422)

    def _wrong_credentials(self) -> None:
        text = self.plants.text
        self._login({"password": text("wrong password")}, 400)
        self._login({"password": text("endless password") * 20}, 400)
        self._login({"username": text("password in the field of the name")}, 400)
        self._login({"client_secret": text("wrong client secret", "qcs_")}, 401)
        self._login({"client_id": text("secret in the field of the client")}, 401)
        self._login({"realm_id": text("secret in the field of the realm")}, 401)
        self._login({"totp_code": text("code of a user without one")}, 200)
        self._login({"grant_type": text("secret as grant type")}, 400)
        self._login({"scope": text("secret as scope") + ' "'}, 400)
        self._note(Caller(self.http, text("garbage bearer")).get("/v1/security/keys"), 401)
        self._note(Caller(self.http, text("long bearer") * 300).get("/v1/security/keys"), 401)
        header, payload, _ = self.pair["access_token"].split(".")
        forged = f"{header}.{payload}.{text('forged signature')}"
        self._note(Caller(self.http, forged).get("/v1/security/keys"), 401)
        basic = base64.b64encode(f"{self.client['client_id']}:{text('secret in Basic')}".encode()).decode()
        more = {"Authorization": f"Basic {basic}", "Cookie": f"session={text('cookie')}"}
        self._note(self.nobody.get("/v1/security/keys", headers=more), 401)

    def _malformed_bodies(self) -> None:
        text, path = self.plants.text, "/v1/auth/token"
        bodies = (
            '{"password":"' + text("password in half a JSON"),
            '{"KEY":1,"KEY":2}'.replace("KEY", text("key that stands twice")),
            json.dumps({text("secret as field"): 1}),
            json.dumps({"client_id": "c", "passwort": text("secret in an unknown field")}),
            json.dumps({"client_id": [text("secret of the wrong type")]}),
            '{"client_id":"c","password":"\\ud800' + text("secret behind half a character") + '"}',
            '{"password":' + "[" * 40 + f'"{text("secret too deep")}"' + "]" * 40 + "}",
            text("secret for a body"),
            '{"client_id":"c","password":"' + text("secret in a long body") + "x" * (4 << 20) + '"}',
        )
        for body in bodies:
            self._note(self.nobody.post(path, content=body.encode(), headers=JSON), None)
        self._note(self.nobody.post(path, content=b"\xff" + text("not UTF-8").encode(), headers=JSON), 400)
        self._note(self.nobody.post(path, data={"password": text("password in a form")}), 415)
        packed = {"Content-Encoding": "gzip"} | JSON
        self._note(self.nobody.post(path, content=text("encoded body").encode(), headers=packed), 415)

    def _misplaced_secrets(self) -> None:
        text, ada = self.plants.text, self.ada
        mine = self.pair["access_token"]
        self._note(self.nobody.get("/v1/security/keys", params={"access_token": mine}), 401)
        self._note(ada.get("/v1/security/keys", params={"access_token": text("token in a query")}), 400)
        self._note(ada.get("/v1/security/keys", params={"cursor": text("secret as cursor")}), 400)
        self._note(ada.get("/v1/security/keys", params={"limit": text("secret as limit")}), 400)
        self._note(ada.get(f"/v1/security/keys/{text('secret as key id')}"), 404)
        self._note(ada.get(f"/{text('secret as path')}"), 404)
        self._note(ada.get(f"/v1/security/keys/%20{text('secret in an escaped path')}"), 400)
        self._note(ada.delete(f"/v1/security/keys?token={text('secret behind a wrong method')}"), 405)
        self._note(self.nobody.get(f"/realms/{text('secret as realm')[:30]}/jwks"), 404)

    def _broken_framing(self) -> None:
        text = self.plants.text
        start = "POST /v1/auth/token HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        self._send(f"{text('secret as method')} / HTTP/1.1\r\nHost: a\r\n\r\n", 400)
        self._send(f"GET /?token={text('token in a long URL') + 'x' * 9000} HTTP/1.1\r\nHost: a\r\n\r\n", 414)
        self._send(
            f"GET / HTTP/1.1\r\nHost: a\r\nX: {text('secret in a long header') + 'x' * 40_000}\r\n\r\n", 431
        )
        self._send(f"{start}Content-Length: 2\r\nContent-Length: 9\r\n\r\n{text('body of two lengths')}", 400)
        self._send(f"{start}Transfer-Encoding: chunked\r\n\r\nzz\r\n{text('body of broken chunks')}", 400)
        self._send(
            f"{start}Content-Length: 4000\r\n\r\n" + '{"password":"' + text("body that breaks off"), None
        )

    def _damaged_rows(self) -> None:
        """Requests that end in `internal error` while a secret is in hand: damage of the database."""
        text, realm = self.plants.text, self.realm_id
        key = ok(self.ada.post("/v1/security/keys", json={"name": "damaged"}))
        wrapped, where = secrets.token_bytes(60), "realm_id = ? AND lineage_id = ?"
        self.execute(f"UPDATE kms_version SET wrapped = ? WHERE {where}", wrapped, realm, key["key_id"])
        self._refused(
            500,
            "/v1/security/encrypt",
            {"name": "damaged", "input": text("plaintext under damage")},
            self.ada,
        )
        hurt = f"{realm}-hurt"
        ok(self.operator.post("/v1/auth/realms", json={"id": hurt, "name": hurt}))
        client = ok(self.operator.post("/v1/auth/clients", json={"realm_id": hurt, "redirect_uris": []}))
        user = {"realm_id": hurt, "username": "bob", "password": text("password under damage"), "roles": []}
        ok(self.operator.post("/v1/auth/users", json=user))
        login = {"client_id": client["client_id"], "client_secret": client["client_secret"], "realm_id": hurt,
                 "username": "bob", "password": user["password"]}  # fmt: skip
        self.execute(
            "UPDATE kms_version SET wrapped = ? WHERE realm_id = ? AND lineage_id IN (SELECT lineage_id "
            "FROM kms_key WHERE realm_id = ? AND purpose = 'token-signing')",
            wrapped,
            hurt,
            hurt,
        )
        self._refused(500, "/v1/auth/token", login, self.nobody)
        self.execute("UPDATE credential SET data = ? WHERE realm_id = ?", "no such hash", hurt)
        self._note(self.nobody.post("/v1/auth/token", json=login), None)

    def _keep_pair(self, word: str, pair: dict[str, Any]) -> None:
        keep = self.plants.keep
        keep(f"{word} access token", pair["access_token"])
        signature = pair["access_token"].rpartition(".")[2]
        keep(f"signature of the {word} access token", base64.urlsafe_b64decode(signature + "=="))
        keep(f"{word} refresh token", pair["refresh_token"])
        data = pair["refresh_token"].removeprefix("qrt_")
        keep(
            f"MAC of the {word} refresh token", base64.urlsafe_b64decode(data + "=" * (-len(data) % 4))[-32:]
        )

    def _encrypt(self, body: dict[str, str]) -> str:
        return ok(self.ada.post("/v1/security/encrypt", json=body))["envelope"]

    def _client_credentials(self) -> dict[str, str]:
        return {name: self.client[name] for name in ("client_id", "client_secret")}

    def _login(self, more: dict[str, str], status: int = 200) -> httpx.Response:
        body = self._client_credentials() | {
            "realm_id": self.realm_id, "username": self.username, "password": self.password, **more,
        }  # fmt: skip
        answer = self.nobody.post("/v1/auth/token", json=body)
        self._note(answer, status)
        if status == 200:
            self._keep_pair("another", answer.json())
        return answer

    def _refused(self, status: int, path: str, body: Any, caller: Caller | None = None) -> None:
        self._note((caller or self.operator).post(path, json=body), status)

    def _note(self, answer: httpx.Response, status: int | None) -> None:
        assert status in (None, answer.status_code), f"{answer.status_code} {answer.text}"
        self.statuses.add(answer.status_code)

    def _send(self, request: str, status: int | None) -> None:
        host, port = self.server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(request.encode())
            if status is None:
                return
            line = connection.recv(4096).split(b"\r\n")[0]
            assert line.startswith(b"HTTP/1.1 %d" % status), line
            self.statuses.add(status)
