"""`GET /realms/{realm}/jwks`: the keys to verify with, and nothing else."""

from __future__ import annotations

from http.client import HTTPConnection

import pytest
from joserfc.jwk import ECKey

from qimem.storage.schema import kms_key, kms_version
from tests.support.api import World
from tests.support.oauth import change, nobody, rows, taken_apart
from tests.support.server import ok, refused


def test_a_realm_publishes_the_public_half_of_its_key(each_world: World) -> None:
    realm_id = each_world.realm()
    answer = nobody(each_world).get(f"/realms/{realm_id}/jwks")
    (key,) = ok(answer)["keys"]
    assert key.keys() == {"kty", "crv", "x", "y", "kid", "use", "alg"}
    assert (key["kty"], key["crv"], key["use"], key["alg"]) == ("EC", "P-256", "sig", "ES256")
    assert key["kid"] == ECKey.import_key({name: key[name] for name in ("kty", "crv", "x", "y")}).thumbprint()
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "public, max-age=300"


def test_every_realm_has_a_key_of_its_own(world: World) -> None:
    kids = {ok(nobody(world).get(f"/realms/{realm_id}/jwks"))["keys"][0]["kid"]
            for realm_id in ("system", world.realm(), world.realm())}  # fmt: skip
    assert len(kids) == 3


def test_the_key_that_signs_is_published(each_world: World) -> None:
    person = each_world.person()
    keys = ok(person.get(f"/realms/{person.realm_id}/jwks"))["keys"]
    assert taken_apart(person.access_token)[0]["kid"] in [key["kid"] for key in keys]


def test_a_disabled_key_is_withdrawn_and_its_tokens_die(each_world: World) -> None:
    server, person = each_world.server, each_world.person()
    ok(person.get("/v1/security/keys"))
    (lineage,) = rows(server, kms_key, realm_id=person.realm_id, purpose="token-signing")
    where = {"realm_id": person.realm_id, "lineage_id": lineage["lineage_id"]}
    assert change(server, kms_version, {"enabled": False}, **where) == 1
    refused(nobody(each_world).get(f"/realms/{person.realm_id}/jwks"), 404, "realm_not_found")
    refused(person.get("/v1/security/keys"), 401, "invalid_token")


def test_the_realms_other_keys_are_not_published(world: World) -> None:
    person = world.person()
    for name in ("orders", "mail"):
        ok(person.post("/v1/security/keys", {"name": name}))
    assert len(ok(person.get(f"/realms/{person.realm_id}/jwks"))["keys"]) == 1


@pytest.mark.parametrize(
    "realm_id", ["absent", "System", "SYSTEM", "system.", "-", "x" * 64, "x" * 2000, "'", "*", "a_b"]
)
def test_an_absent_realm_is_not_found(world: World, realm_id: str) -> None:
    answer = nobody(world).get(f"/realms/{realm_id}/jwks")
    assert refused(answer, 404, "realm_not_found")["error"] == f"realm not found: {realm_id}"[:256]
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/realms/system/jwks/", 404), ("/realms/system", 404), ("/realms//jwks", 400), ("/realms/jwks", 404),
        ("/realms/system/JWKS", 404), ("/realms/system/jwks.json", 404), ("/v1/realms/system/jwks", 404),
        ("/realms/%73ystem/jwks", 400), ("/realms/a/../system/jwks", 400), ("/realms/system/x/jwks", 404),
    ],
)  # fmt: skip
def test_only_the_exact_path_is_served(world: World, path: str, status: int) -> None:
    # The usual client would tidy the path up before it is sent.
    connection = HTTPConnection(world.server.url.removeprefix("http://"), timeout=10)
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    assert (answer.status, b"keys" in body) == (status, False)


def test_head_and_options_are_answered(world: World) -> None:
    head = nobody(world).head("/realms/system/jwks")
    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["content-length"]) == len(nobody(world).get("/realms/system/jwks").content)
    options = nobody(world).options("/realms/system/jwks")
    assert (options.status_code, options.headers["allow"]) == (204, "GET, HEAD, OPTIONS")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_keys_cannot_be_written(world: World, method: str) -> None:
    answer = world.operator.request(method, "/realms/system/jwks", json={"keys": []})
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS")


def test_a_bad_bearer_does_not_matter(world: World) -> None:
    ok(nobody(world).get("/realms/system/jwks", headers={"Authorization": "Bearer garbage"}))
