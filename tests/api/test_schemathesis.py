"""What Schemathesis makes of the served document, in all of its phases, is answered as the document says.

It reads the document with two changes. Examples and ids are those of this server, so that requests get beyond
"not found". And `default`, which describes requests that cannot be read, is left out: it would cover for every
status that an operation does not name.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.api.examples import JSON, Stage, stage
from tests.support.api import World
from tests.support.broken_server import broken
from tests.support.load import a_world
from tests.support.server import Server, ok
from tests.support.volume import volume

SEED = os.environ.get("QIMEM_TEST_SEED") or "2026"
CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
    "response_schema_conformance", "negative_data_rejection", "positive_data_acceptance", "missing_required_header",
    "unsupported_method", "allow_header_conformance", "ignored_auth",
)  # fmt: skip
NOT_ASKED = ("use_after_free", "ensure_resource_availability")
"""They follow an object from its making and know nothing of realms: a key of one realm that is asked for in another
is a lost one to them."""

ACCEPTING = {
    "system.root", "system.health", "system.ready", "system.openapi", "system.docs", "security.health", "realms.jwks",
    "keys.create", "keys.get", "keys.enable", "keys.disable", "tokens.revoke",
}  # fmt: skip
"""Operations whose schema says all there is to say about a request; of the others it cannot: that a role exists,
that an envelope is one, that of three fields one is given."""

NEVER_SERVED = {
    *(
        f"POST /v1/auth/me/{what}"
        for what in ("password", "totp", "totp/confirm", "totp/disable", "recovery-codes")
    ),
    *(f"POST /v1/auth/realms/{{realm_id}}/{verb}" for verb in ("disable", "enable")),
    "DELETE /v1/auth/realms/{realm_id}",
}
"""These would sign out whoever calls, or end the realm that all others are about; the raw fuzzer has others for them."""

PHASES = ("examples", "coverage", "fuzzing", "stateful")
FAULTS = {
    "lets_everyone_in": "ST401",  # ignored_auth
    "forgets_a_field_of_its_answers": "ST108",  # response_schema_conformance
    "refuses_with_a_status_of_its_own": "ST103",  # status_code_conformance
    "takes_names_of_any_length": "ST201",  # negative_data_rejection
}
"""Fault of a server → the finding that it has to bring about."""


def furnished(world: World) -> Stage:
    """A realm in which the examples work."""
    place = stage(world)
    known = place.known
    key = ok(place.admin.post("/v1/security/keys", {"name": "orders"}))
    sealed = ok(place.admin.post("/v1/security/encrypt", {"name": "orders", "input": "4111"}))
    known |= {"key_id": key["key_id"], "envelope": sealed["envelope"]}
    realm_id = place.admin.realm_id
    known |= {
        "user_id": place.world.user(realm_id)["id"],
        "role": place.world.role(realm_id, []),
        "realm_id": realm_id,
    }
    # Not the client of who calls, which nobody ends.
    known["path.client_id"] = place.world.client(realm_id)["client_id"]
    # Otherwise the example would change the password of who calls.
    del known["password"]
    known |= {"client_id": place.admin.client_id, "client_secret": place.admin.client_secret}
    return place


def sharpened(document: Any, place: Stage) -> Any:
    """The document with what exists here."""
    if isinstance(document, list):
        return [sharpened(inner, place) for inner in document]
    if not isinstance(document, dict):
        return document
    inner = {name: sharpened(value, place) for name, value in document.items() if name != "default"}
    if "default" in document and "200" not in document:
        inner["default"] = document["default"]
    if "example" in inner:
        inner["example"] = place.fill(inner["example"])
    if (
        isinstance(inner.get("properties"), dict)
        and "realm_id" in inner["properties"]
        and "required" not in inner
    ):
        inner["properties"] |= {"realm_id": {"enum": [place.admin.realm_id, None]}}
    if inner.get("in") == "path":
        inner["example"] = place.known.get(f"path.{inner['name']}") or place.known[inner["name"]]
    if inner.get("in") == "query" and inner["name"] == "realm_id":
        inner["schema"] = {"const": place.admin.realm_id}
    return inner


def settings(place: Stage) -> str:
    """`schemathesis.toml`: who calls, and what is not asked of whom."""
    names = [endpoint["operationId"] for endpoint in operations(place)]
    strict = json.dumps(sorted(set(names) - ACCEPTING))
    wanted = dict.fromkeys(CHECKS, "true") | dict.fromkeys(NOT_ASKED, "false")
    checks = "\n".join(f"{check}.enabled = {value}" for check, value in wanted.items())
    assert set(names) >= ACCEPTING
    return f"""
headers = {{ Authorization = "Bearer {place.admin.access_token}" }}

[checks]
{checks}
missing_required_header.expected-statuses = [400, 401, 403, 415, 428]
positive_data_acceptance.expected-statuses = ["2xx", "401", "403", "404", "409", "422"]

[[operations]]
include-operation-id = "realms.create"
headers = {{ Authorization = "{place.world.operator.headers["authorization"]}" }}

[[operations]]
include-operation-id = {strict}
checks.positive_data_acceptance.enabled = false
"""


def operations(place: Stage) -> list[dict[str, Any]]:
    document = ok(place.nobody.get("/v1/openapi.json"))
    return [operation for methods in document["paths"].values() for operation in methods.values()]


def explore(server: Server, examples: int) -> dict[str, Any]:
    """Schemathesis' report on a server that is started here."""
    place_of_work = server.directory / "schemathesis"
    place_of_work.mkdir()
    with a_world(server) as world:
        place = furnished(world)
        document = sharpened(ok(place.nobody.get("/v1/openapi.json")), place)
        # What revoke ends must not be what refresh spends.
        media = document["paths"]["/v1/auth/token/revoke"]["post"]["requestBody"]["content"][JSON]
        media["example"] = {"token": place.admin.login()["refresh_token"]}
        # Nor the name of a key that is there already.
        document["paths"]["/v1/security/keys"]["post"]["requestBody"]["content"][JSON]["example"] = {
            "name": "fresh"
        }
        (place_of_work / "openapi.json").write_text(json.dumps(document))
        (place_of_work / "schemathesis.toml").write_text(settings(place))
        command = [
            str(Path(sys.executable).with_name("st")), "--no-color", "run", "openapi.json", "--url", server.url,
            "--seed", SEED, "--max-examples", str(examples), "--continue-on-failure", "--phases", ",".join(PHASES), "--report", "json", "--report-json-path", "report.json",
            "--output-truncate", "false", "--suppress-health-check", "all",
        ]  # fmt: skip
        done = subprocess.run(command, cwd=place_of_work, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr)
    return json.loads((place_of_work / "report.json").read_text())


@pytest.mark.acceptance
def test_every_answer_is_as_the_document_says(tmp_path: Path) -> None:
    report = explore(Server(tmp_path), volume(300, share=0.05))
    assert report["failures"] == report["errors"] == []
    assert report["exit_code"] == 0
    assert {name: phase["status"] for name, phase in report["phases"].items()} == dict.fromkeys(
        PHASES, "success"
    )
    assert report["operations"]["tested"] == report["operations"]["total"]
    # Checks of answers that are all refusals would prove little.
    served = {
        operation: sum(phase["accepted"] for phase in phases.values())
        for operation, phases in report["valid_rates"].items()
    }
    assert {operation for operation, count in served.items() if count == 0} <= NEVER_SERVED


def test_answers_that_are_not_in_the_document_are_found(tmp_path: Path) -> None:
    report = explore(Server(tmp_path, environment=broken(tmp_path, *FAULTS)), 5)
    assert {failure["code"] for failure in report["failures"]} >= set(FAULTS.values())
