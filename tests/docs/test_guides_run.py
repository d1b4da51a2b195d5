"""The programs of the guides run as the pages show them, against a real server, and refuse what they must."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec_key
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import get_default_algorithms

from tests.architecture.sources import ROOT
from tests.support.api import PASSWORD, World
from tests.support.cli import clean_environment
from tests.support.oauth import Forger, b64, forger, signing_input, taken_apart
from tests.support.server import Server, ok

EXAMPLES = ROOT / "docs/examples"
DIRECTORY = EXAMPLES / "protect-your-api"
PROGRAMS = sorted(path for path in EXAMPLES.glob("*/*.*") if path.suffix in {".py", ".js"})
LANGUAGES = {".py": "python", ".js": "js"}
COMMANDS = {
    "fastapi": (sys.executable, "-m", "uvicorn", "--app-dir", str(DIRECTORY), "fastapi_service:app", "--port", "0"),
    "express": ("node", str(DIRECTORY / "express_service.js")),
}  # fmt: skip
ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+")
LINES_MAX = 50


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.name)
def test_the_page_shows_the_program_that_runs(program: Path) -> None:
    page = (ROOT / f"docs/how-to/{program.parent.name}.md").read_text()
    assert f"```{LANGUAGES[program.suffix]}\n{program.read_text()}```\n" in page


@dataclass
class Service:
    """One of the example services, as a process of its own."""

    kind: str
    environment: dict[str, str]
    process: subprocess.Popen[str] = field(init=False)
    http: httpx.Client = field(init=False)

    def start(self) -> Service:
        # Debian's node looks there by itself; others have to be told.
        environment = clean_environment(**self.environment, NODE_PATH="/usr/share/nodejs", PORT="0")
        self.process = subprocess.Popen(
            COMMANDS[self.kind], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert self.process.stdout is not None
        seen = []
        for line, _ in zip(self.process.stdout, range(LINES_MAX), strict=False):
            seen.append(line)
            if found := ADDRESS.search(line):
                self.http = httpx.Client(base_url=found[0], timeout=30)
                return self
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        raise AssertionError("".join(seen))

    def stop(self) -> None:
        self.http.close()
        self.process.terminate()
        self.process.communicate(timeout=15)

    def call(self, route: str, token: str | None = None) -> httpx.Response:
        """Ask for `GET /orders` and the like, with this token."""
        method, path = route.split()
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return self.http.request(method, path, headers=headers)


@dataclass(frozen=True)
class Shop:
    """A realm with the services' own client, and one application whose users sign in."""

    world: World
    realm_id: str
    own: dict[str, Any]

    @classmethod
    def of(cls, world: World) -> Shop:
        realm_id = world.realm()
        return cls(world, realm_id, world.client(realm_id))

    @property
    def environment(self) -> dict[str, str]:
        return {
            "QIMEM_URL": self.world.server.url,
            "QIMEM_REALM": self.realm_id,
            "QIMEM_CLIENT_ID": self.own["client_id"],
            "QIMEM_CLIENT_SECRET": self.own["client_secret"],
        }

    def token(self, *permissions: str, **client: Any) -> str:
        """The access token of a new user who holds these permissions, through a new client."""
        application = self.world.client(self.realm_id, **client)
        roles = [self.world.role(self.realm_id, permissions)] if permissions else []
        user = self.world.user(self.realm_id, roles)
        credentials = {
            "client_id": application["client_id"],
            "client_secret": application["client_secret"],
            "realm_id": self.realm_id,
            "username": user["username"],
            "password": PASSWORD,
        }
        token: str = ok(self.world.anonymous().post("/v1/auth/token", json=credentials))["access_token"]
        return token


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    server = Server(tmp_path_factory.mktemp("guides")).start()
    made = World(server)
    yield made
    made.close()
    server.stop()


@pytest.fixture(scope="module")
def shop(world: World) -> Shop:
    return Shop.of(world)


@pytest.fixture(scope="module", params=sorted(COMMANDS))
def service(request: pytest.FixtureRequest, shop: Shop) -> Iterator[Service]:
    started = Service(request.param, shop.environment).start()
    yield started
    started.stop()


@pytest.fixture(scope="module")
def genuine(shop: Shop) -> Forger:
    """Holds the realm's signing key and the claims of a good token."""
    return forger(shop.world.server, shop.token("orders:read"))


def unauthorized(answer: httpx.Response) -> None:
    assert answer.status_code == 401, answer.text
    assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'


def forbidden(answer: httpx.Response, challenge: str) -> None:
    assert answer.status_code == 403, answer.text
    assert answer.headers["www-authenticate"] == challenge


def public_key(shop: Shop) -> dict[str, Any]:
    found: dict[str, Any] = ok(shop.world.anonymous().get(f"/realms/{shop.realm_id}/jwks"))["keys"][0]
    return found


def test_a_good_token_opens_what_its_holder_may_do(service: Service, shop: Shop) -> None:
    token = shop.token("orders:read")
    answer = ok(service.call("GET /orders", token))
    assert answer == {"orders_of": taken_apart(token)[1]["sub"]}


def test_a_forger_with_the_genuine_key_is_believed(service: Service, genuine: Forger) -> None:
    # Else the refusals below could come from another fault of what they forge.
    ok(service.call("GET /orders", genuine.forge()))


def test_without_a_token_the_answer_names_the_scheme_alone(service: Service) -> None:
    answer = service.call("GET /orders")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("header", ["Basic Zm9vOmJhcg==", "Bearer", "token"])
def test_another_scheme_is_no_token(service: Service, header: str) -> None:
    answer = service.http.get("/orders", headers={"Authorization": header})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("token", ["garbage", "a.b.c", "..", "eyJhbGciOiJFUzI1NiJ9.e30.AA", "x" * 5000])
def test_garbage_is_refused(service: Service, token: str) -> None:
    unauthorized(service.call("GET /orders", token))


def test_a_changed_claim_is_refused(service: Service, genuine: Forger) -> None:
    header, _, signature = genuine.forge().split(".")
    claims = b64(json.dumps(genuine.claims | {"permissions": ["orders:refund"]}).encode())
    unauthorized(service.call("GET /orders", f"{header}.{claims}.{signature}"))


WRONG: dict[str, dict[str, Any]] = {
    "expired": {"exp": 1_700_000_000, "iat": 1_699_999_100},
    "without an end": {"exp": None},
    "of another audience": {"aud": "https://other.example"},
    "without audience": {"aud": None},
    "of another issuer": {"iss": "https://other.example/realms/shop"},
    "without issuer": {"iss": None},
}


@pytest.mark.parametrize("name", WRONG)
def test_a_token_with_one_wrong_claim_is_refused(service: Service, genuine: Forger, name: str) -> None:
    unauthorized(service.call("GET /orders", genuine.forge(**WRONG[name])))


@pytest.mark.parametrize("typ", ["JWT", "logout+jwt", None])
def test_another_kind_of_token_is_refused(service: Service, genuine: Forger, typ: str | None) -> None:
    unauthorized(service.call("GET /orders", genuine.forge({"typ": typ})))


@pytest.mark.parametrize("alg", ["none", "None", "NONE"])
def test_an_unsigned_token_is_refused(service: Service, genuine: Forger, alg: str) -> None:
    unauthorized(
        service.call("GET /orders", f"{signing_input(genuine.header | {'alg': alg}, genuine.claims)}.")
    )


def as_pem(jwk: dict[str, Any]) -> bytes:
    pem: bytes = jwt.PyJWK(jwk).key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem


@pytest.mark.parametrize("secret", [as_pem, lambda jwk: json.dumps(jwk).encode(), lambda _: b""])
def test_a_public_key_is_no_secret_of_hs256(
    service: Service, shop: Shop, genuine: Forger, secret: Callable[[dict[str, Any]], bytes]
) -> None:
    text = signing_input(genuine.header | {"alg": "HS256"}, genuine.claims)
    tag = hmac.digest(secret(public_key(shop)), text.encode(), hashlib.sha256)
    unauthorized(service.call("GET /orders", f"{text}.{b64(tag)}"))


def test_a_token_of_another_realm_is_refused(service: Service, world: World) -> None:
    unauthorized(service.call("GET /orders", Shop.of(world).token("orders:read")))


def test_the_operator_of_the_platform_is_nobody_here(service: Service, world: World) -> None:
    unauthorized(service.call("GET /orders", world.server.token()))


def test_the_key_of_another_realm_does_not_sign_for_this_one(
    service: Service, world: World, genuine: Forger
) -> None:
    thief = forger(world.server, Shop.of(world).token("orders:read"))
    thief.claims = genuine.claims
    unauthorized(service.call("GET /orders", thief.forge()))
    unauthorized(service.call("GET /orders", thief.forge({"kid": genuine.header["kid"]})))


def test_a_missing_permission_is_403(service: Service, shop: Shop) -> None:
    answer = service.call("GET /orders", shop.token("orders:write"))
    forbidden(answer, 'Bearer error="insufficient_scope"')


def test_a_wildcard_of_the_platform_holds_no_permission_of_the_application(
    service: Service, shop: Shop
) -> None:
    token = shop.world.person(realm_id=shop.realm_id).access_token
    assert taken_apart(token)[1]["permissions"] == ["realm:*"]
    forbidden(service.call("GET /orders", token), 'Bearer error="insufficient_scope"')


def test_a_missing_scope_is_403_and_named(service: Service, shop: Shop) -> None:
    answer = service.call("POST /orders", shop.token("orders:write", scope="profile orders-of-others"))
    forbidden(answer, 'Bearer error="insufficient_scope", scope="orders"')
    answer = service.call("POST /orders", shop.token("orders:write"))
    forbidden(answer, 'Bearer error="insufficient_scope", scope="orders"')


def test_permission_and_scope_together_let_in(service: Service, shop: Shop) -> None:
    token = shop.token("orders:write", scope="profile orders")
    claims = taken_apart(token)[1]
    assert ok(service.call("POST /orders", token)) == {
        "ordered_by": claims["sub"],
        "through": claims["client_id"],
    }


def test_a_revoked_token_lives_offline_and_is_dead_where_qimem_is_asked(service: Service, shop: Shop) -> None:
    token = shop.token("orders:read", "orders:refund")
    ok(service.call("POST /refunds", token))
    ok(shop.world.anonymous().post("/v1/auth/token/revoke", json={"token": token}))
    ok(service.call("GET /orders", token))
    unauthorized(service.call("POST /refunds", token))


def test_a_permission_taken_away_counts_at_once_where_qimem_is_asked(service: Service, shop: Shop) -> None:
    role = shop.world.role(shop.realm_id, ["orders:read", "orders:refund"])
    person = shop.world.person(realm_id=shop.realm_id, roles=[role])
    body = {"realm_id": shop.realm_id, "permissions": ["orders:read"]}
    ok(shop.world.operator.patch(f"/v1/auth/roles/{role}", json=body, headers={"If-Match": "*"}))
    ok(service.call("GET /orders", person.access_token))
    forbidden(service.call("POST /refunds", person.access_token), 'Bearer error="insufficient_scope"')


def test_a_bad_token_is_judged_before_qimem_is_asked(service: Service, genuine: Forger) -> None:
    unauthorized(service.call("POST /refunds", genuine.forge(exp=1_700_000_000)))


@pytest.mark.parametrize("kind", sorted(COMMANDS))
def test_without_qimem_known_keys_verify_and_nothing_else_is_let_in(kind: str, tmp_path: Path) -> None:
    server = Server(tmp_path).start()
    made = World(server)
    shop = Shop.of(made)
    token = shop.token("orders:read", "orders:refund")
    known, late = (Service(kind, shop.environment).start() for _ in range(2))
    try:
        ok(known.call("GET /orders", token))
        made.close()
        server.stop()
        ok(known.call("GET /orders", token))
        for answer in (known.call("POST /refunds", token), late.call("GET /orders", token)):
            assert answer.status_code == 503, answer.text
            assert answer.headers["retry-after"] == "5"
            assert "www-authenticate" not in answer.headers
    finally:
        known.stop()
        late.stop()
        server.stop()


@contextmanager
def publisher(keys: list[dict[str, Any]]) -> Iterator[str]:
    """Stands in for a QIMEM that publishes these keys, whatever realm is asked for."""
    body = json.dumps({"keys": keys}).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            """Tests read no log."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("kind", sorted(COMMANDS))
def test_only_the_algorithm_that_the_program_names_counts(kind: str, shop: Shop) -> None:
    # QIMEM publishes keys for ES256 alone. With others in the set it is the program's list that decides.
    private: dict[str, Any] = {
        "ES256": generate_ec_key(SECP256R1()),
        "ES384": generate_ec_key(SECP384R1()),
        "RS256": generate_rsa_key(65537, 2048),
    }
    public = [
        get_default_algorithms()[name].to_jwk(key.public_key(), as_dict=True) | {"kid": name, "alg": name}
        for name, key in private.items()
    ]
    with publisher(public) as url:
        _, claims, _ = taken_apart(shop.token("orders:read"))
        claims |= {"iss": f"{url}/realms/{shop.realm_id}", "aud": url}
        service = Service(kind, shop.environment | {"QIMEM_URL": url}).start()
        try:
            for name, key in private.items():
                token = jwt.encode(claims, key, name, headers={"typ": "at+jwt", "kid": name})
                answer = service.call("GET /orders", token)
                assert answer.status_code == (200 if name == "ES256" else 401), (name, answer.text)
        finally:
            service.stop()
