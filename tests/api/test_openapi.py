"""The OpenAPI document is valid, is the endpoint table and nothing else, and its examples run.

They run in the order of the table in a fresh realm of a server of their own, since they create things by fixed
names. What they are answered is what the document says.
"""

from __future__ import annotations

import copy
import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import pytest
from jsonschema import Draft202012Validator, ValidationError
from openapi_spec_validator import OpenAPIV31SpecValidator

from qimem import wire
from qimem.bootstrap.serving import ENDPOINTS
from qimem.web.kit.field_notes import NOTES
from tests.api.examples import (
    BY_NAME,
    JSON,
    Stage,
    check,
    operation,
    play,
    request_schema,
    resolved,
    world_of_its_own,
)
from tests.support.api import World
from tests.support.server import ok, refused

WITH_EXAMPLE = [endpoint.name for endpoint in ENDPOINTS if endpoint.example is not None]


@pytest.fixture(scope="module")
def own_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world_of_its_own(tmp_path_factory.mktemp("examples")) as world:
        yield world


@pytest.fixture(scope="module")
def document(own_world: World) -> dict[str, Any]:
    return ok(own_world.anonymous().get("/v1/openapi.json"))


@pytest.fixture(scope="module")
def played(own_world: World) -> tuple[Stage, dict[str, httpx.Response]]:
    return play(own_world)


# --- the document and the table ---------------------------------------------------------------


def test_the_document_is_valid_openapi_3_1(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1.")
    assert [error.message for error in OpenAPIV31SpecValidator(document).iter_errors()] == []


def test_a_reference_into_nothing_would_be_found(document: dict[str, Any]) -> None:
    broken = copy.deepcopy(document)
    del broken["components"]["schemas"]["KeyMetadata"]
    with pytest.raises(Exception, match="KeyMetadata"):
        OpenAPIV31SpecValidator(broken).validate()


def test_every_endpoint_is_in_the_document_and_nothing_else(document: dict[str, Any]) -> None:
    found = {
        (method.upper(), path, inner["operationId"])
        for path, methods in document["paths"].items()
        for method, inner in methods.items()
    }
    assert found == {(endpoint.method, endpoint.path, endpoint.name) for endpoint in ENDPOINTS}


def test_permissions_are_those_of_the_table(document: dict[str, Any]) -> None:
    found = {name: operation(document, name).get("x-permission") for name in BY_NAME}
    assert found == {name: endpoint.permission for name, endpoint in BY_NAME.items()}


def test_only_endpoints_without_a_permission_are_public(document: dict[str, Any]) -> None:
    assert document["security"] == [{"bearer": []}]
    security = {name: operation(document, name).get("security") for name in BY_NAME}
    public = {name for name, needed in security.items() if needed == []}
    either = {name for name, needed in security.items() if needed}
    unguarded = {name for name, endpoint in BY_NAME.items() if not endpoint.needs_bearer}
    assert public | either == unguarded
    assert either == {name for name, endpoint in BY_NAME.items() if endpoint.any_caller}


def test_no_host_is_named(document: dict[str, Any]) -> None:
    assert document["servers"] == [{"url": "/"}]


def test_every_resource_is_described(document: dict[str, Any]) -> None:
    told = {tag["name"] for tag in document["tags"] if tag["description"]}
    assert told == {tag for name in BY_NAME for tag in operation(document, name)["tags"]}


def test_every_operation_has_a_summary_and_a_description(document: dict[str, Any]) -> None:
    silent = [
        name for name in BY_NAME if not all(operation(document, name)[w] for w in ("summary", "description"))
    ]
    assert not silent


def test_a_body_is_required_unless_no_field_is(document: dict[str, Any]) -> None:
    bodies = {
        name: operation(document, name).get("requestBody", {}).get("required")
        for name, endpoint in BY_NAME.items()
    }
    expected = {
        name: None if endpoint.request is None else not endpoint.optional_body
        for name, endpoint in BY_NAME.items()
    }
    assert bodies == expected


def test_path_parameters_are_those_of_the_path(document: dict[str, Any]) -> None:
    for name, endpoint in BY_NAME.items():
        given = [
            resolved(document, parameter) for parameter in operation(document, name).get("parameters", [])
        ]
        in_path = [f"{{{parameter['name']}}}" for parameter in given if parameter["in"] == "path"]
        assert in_path == [step for step in endpoint.path.split("/") if step.startswith("{")], name


def test_query_parameters_are_those_of_the_struct_and_take_no_null(document: dict[str, Any]) -> None:
    for name, endpoint in BY_NAME.items():
        given = [
            resolved(document, parameter) for parameter in operation(document, name).get("parameters", [])
        ]
        query = {parameter["name"]: parameter["schema"] for parameter in given if parameter["in"] == "query"}
        assert tuple(query) == (endpoint.query.__struct_fields__ if endpoint.query else ()), name
        assert all(schema["type"] in {"integer", "string"} for schema in query.values()), name


def test_the_idempotency_key_and_its_answers_are_documented_where_it_is_honored(
    document: dict[str, Any],
) -> None:
    for name, endpoint in BY_NAME.items():
        inner = operation(document, name)
        given = {resolved(document, parameter)["name"] for parameter in inner.get("parameters", [])}
        replayed = "Idempotency-Replayed" in inner["responses"]["200"]["headers"]
        found = ("Idempotency-Key" in given, replayed, "422" in inner["responses"])
        assert found == (endpoint.idempotent,) * 3, name


def test_requests_forbid_unknown_fields_and_answers_may_grow(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    closed = {name for name, schema in schemas.items() if schema.get("additionalProperties") is False}
    assert closed == {name for name in schemas if name.endswith(("Request", "Item"))}


def test_an_optional_field_of_a_request_may_be_null(document: dict[str, Any]) -> None:
    for name, schema in document["components"]["schemas"].items():
        # In a merge patch null takes away, and what cannot be missing cannot be taken away.
        if name.endswith("Request") and not name.startswith("Update"):
            for property_name in schema["properties"].keys() - set(schema["required"]):
                Draft202012Validator(
                    schema["properties"][property_name] | {"components": document["components"]}
                ).validate(None)


def test_every_field_and_parameter_has_a_meaning(document: dict[str, Any]) -> None:
    silent = [
        f"{name}.{property_name}"
        for name, schema in document["components"]["schemas"].items()
        for property_name, inner in schema["properties"].items()
        if "description" not in inner
    ]
    silent += [
        f"{name} {parameter['name']}"
        for name in BY_NAME
        for parameter in operation(document, name).get("parameters", [])
        if "description" not in resolved(document, parameter)
    ]
    assert not silent, "add them to web/kit/field_notes.py"


def test_no_note_is_about_a_field_that_is_gone() -> None:
    rooms = [
        importlib.import_module(f"qimem.wire.{room.name}") for room in pkgutil.iter_modules(wire.__path__)
    ]
    structs = {
        name: found
        for room in rooms
        for name, found in vars(room).items()
        if isinstance(found, type) and issubclass(found, msgspec.Struct)
    }

    def has_field(note: str) -> bool:
        owner, name = note.split(".")
        kin = [struct for struct in structs.values() if issubclass(struct, structs[owner])]
        return any(name in struct.__struct_fields__ for struct in kin)

    assert [note for note in NOTES if not has_field(note)] == []


# --- the examples -----------------------------------------------------------------------------


def test_every_operation_with_a_body_has_an_example(document: dict[str, Any]) -> None:
    shown = {
        name
        for name in BY_NAME
        if "example" in operation(document, name).get("requestBody", {}).get("content", {}).get(JSON, {})
    }
    assert shown == {name for name, endpoint in BY_NAME.items() if endpoint.request is not None}


@pytest.mark.parametrize("name", WITH_EXAMPLE)
def test_the_example_fits_its_schema(document: dict[str, Any], name: str) -> None:
    media = operation(document, name)["requestBody"]["content"][JSON]
    assert media["example"] == dict(BY_NAME[name].example or {})
    check(document, media["schema"], media["example"])


@pytest.mark.parametrize("name", WITH_EXAMPLE)
def test_an_example_with_a_slip_would_not_fit(document: dict[str, Any], name: str) -> None:
    slip = dict(BY_NAME[name].example or {}) | {"nmae": "orders"}
    with pytest.raises(ValidationError):
        check(document, request_schema(document, name), slip)


@pytest.mark.parametrize("name", BY_NAME)
def test_the_operation_answers_what_is_documented(document: dict[str, Any], played: Any, name: str) -> None:
    answer = played[1][name]
    assert answer.status_code == 200, answer.text
    told = operation(document, name)["responses"]["200"]
    ((media_type, media),) = told["content"].items()
    assert answer.headers["content-type"].partition(";")[0] == media_type
    check(document, media["schema"], answer.json() if media_type == JSON else answer.text)
    assert "x-request-id" in answer.headers


@pytest.mark.parametrize("name", ["keys.get", "keys.list", "clients.create", "system.root"])
def test_an_answer_without_a_field_would_not_pass(document: dict[str, Any], played: Any, name: str) -> None:
    schema = operation(document, name)["responses"]["200"]["content"][JSON]["schema"]
    whole = played[1][name].json()
    check(document, schema, whole)
    for missing in whole:
        with pytest.raises(ValidationError):
            check(document, schema, {other: value for other, value in whole.items() if other != missing})


@pytest.mark.parametrize("name", ["refresh_token", "scope"])
def test_a_field_that_is_left_out_is_never_null(document: dict[str, Any], name: str) -> None:
    schema = {"$ref": "#/components/schemas/TokenResponse"}
    least = {"access_token": "x", "expires_in": 1, "token_type": "Bearer"}
    check(document, schema, least)
    with pytest.raises(ValidationError):
        check(document, schema, least | {name: None})


def test_an_answer_with_an_undocumented_field_would_not_pass(document: dict[str, Any], played: Any) -> None:
    schema = operation(document, "keys.encrypt")["responses"]["200"]["content"][JSON]["schema"]
    with pytest.raises(ValidationError, match="undocumented"):
        check(document, schema, played[1]["keys.encrypt"].json() | {"nonce": "x"})


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("keys.encrypt", {"name": "orders", "items": [{"input": "a"}, {"input": "b", "input_b64": "Yg=="}]}),
        (
            "keys.decrypt",
            {"items": [{"input": "{envelope}"}, {"input": "{envelope}", "encoding": "base64"}, {}]},
        ),
        ("keys.decrypt", {"input": "{envelope}", "encoding": "base64"}),
    ],
)
def test_the_other_shapes_of_an_answer_are_documented(
    document: dict[str, Any], played: Any, name: str, body: dict[str, Any]
) -> None:
    place, _ = played
    items = [place.fill(item) for item in body.get("items", [])]
    sent = place.fill({**body, "items": items} if items else body)
    check(document, request_schema(document, name), sent)
    answer = ok(place.call(BY_NAME[name], json=sent))
    check(document, operation(document, name)["responses"]["200"]["content"][JSON]["schema"], answer)
    assert len(answer.get("items", [])) == len(items)


def test_a_replay_carries_the_documented_header(played: Any) -> None:
    place, _ = played
    sent = {"json": {"name": "replayed"}, "headers": {"Idempotency-Key": "documented"}}
    first, second = (place.call(BY_NAME["keys.create"], **sent) for _ in range(2))
    assert ok(first) == ok(second)
    assert ("idempotency-replayed" in first.headers, second.headers["idempotency-replayed"]) == (
        False,
        "true",
    )


def test_the_document_says_nothing_about_a_path_it_does_not_serve(own_world: World) -> None:
    refused(own_world.anonymous().get("/openapi.json"), 404, "not_found")


def test_the_record_of_a_batch_that_asked_for_no_key_of_ours_is_documented(
    document: dict[str, Any], own_world: World
) -> None:
    absent = "00000000-0000-4000-8000-000000000000"
    ok(own_world.operator.post("/v1/security/encrypt", json={"items": [{"input": "x", "key_id": absent}]}))
    page = ok(own_world.operator.get("/v1/audit/events", params={"event": "keys.encrypt", "limit": 1}))
    assert page["items"][0]["used"] == [{"key": absent, "version": 0, "count": 1}]
    check(document, operation(document, "audit.list")["responses"]["200"]["content"][JSON]["schema"], page)
