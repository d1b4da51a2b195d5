"""The documentation page: the OpenAPI document as one HTML file that needs nothing else.

No script, no image, no font, no other origin: it reads the same on a machine without a network, and
its policy forbids everything but its own style. All text goes through `markup`, which escapes it.
"""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Iterator, Sequence
from typing import Any, Final

from qimem.crypto.mac import digest
from qimem.web.kit.docs_style import STYLE
from qimem.web.kit.endpoint import Endpoint
from qimem.web.kit.markup import Markup, element, joined, prose
from qimem.web.kit.openapi import BEARER, describe
from qimem.web.kit.schemas import Schema

CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; "
    f"style-src 'sha256-{base64.b64encode(digest(STYLE.encode())).decode()}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What the page may do: apply its own style (CSP Level 3 §8.3), and nothing else."""

_JSON: Final = "application/json"
_HEAD: Final = Markup(
    '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
)
_BOUNDS: Final = (
    ("minLength", "maxLength", " characters"),
    ("minItems", "maxItems", " items"),
    ("minimum", "maximum", ""),
)
_SIGN_IN: Final = """export QIMEM=http://127.0.0.1:8080   # where this server is
export TOKEN=$(qimem token)          # the operator's token, on the server's machine
curl -sS "$QIMEM/v1/security/keys" \\
  -H "Authorization: Bearer $TOKEN\""""


def render_page(endpoints: Sequence[Endpoint], version: str) -> bytes:
    """The page as HTML in UTF-8.

    Args:
        endpoints: Every operation, as the OpenAPI document lists them.
        version: Of the product.
    """
    document = describe(endpoints, version)
    head = element(
        "head", _HEAD, element("title", document["info"]["title"]), element("style", Markup(STYLE))
    )
    columns = element("div", _navigation(document), _main(document), class_="columns")
    skip = element("a", "Skip to the operations", href="#operations", class_="skip")
    body = element("body", skip, _header(document["info"]), columns)
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n".encode()


def _header(info: dict[str, Any]) -> Markup:
    link = element("a", "OpenAPI 3.1 document", href="/v1/openapi.json")
    return element(
        "header", element("h1", info["title"]), element("p", f"Version {info['version']} · ", link)
    )


def _operations(document: dict[str, Any], tag: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if tag in operation["tags"]:
                yield method, path, operation


def _navigation(document: dict[str, Any]) -> Markup:
    parts = [
        element("h2", "Start"),
        _links([("#authenticate", "Authenticate"), ("#rules", "Rules"), ("#errors", "Errors")]),
    ]
    for tag in document["tags"]:
        parts.append(element("h2", tag["name"]))
        found = _operations(document, tag["name"])
        parts.append(
            _links([(f"#{operation['operationId']}", operation["summary"]) for _, _, operation in found])
        )
    return element("nav", *parts, aria_label="Contents")


def _links(targets: list[tuple[str, str]]) -> Markup:
    return element("ul", *(element("li", element("a", text, href=target)) for target, text in targets))


def _main(document: dict[str, Any]) -> Markup:
    start = element(
        "section",
        element("h2", "Authenticate"),
        element("p", prose("Operations that need a permission want `Authorization: Bearer <access token>`.")),
        element("p", prose(BEARER)),
        _screen(_SIGN_IN),
        element(
            "p", prose("In the examples below, words in braces such as `{client_id}` stand for your own.")
        ),
        id="authenticate",
    )
    rules = element(
        "section",
        element("h2", "Rules for every operation"),
        element("p", prose(document["info"]["description"])),
        id="rules",
    )
    resources = [_resource(document, tag) for tag in document["tags"]]
    operations = element("div", *resources, id="operations")
    return element("main", start, rules, _errors(document), operations, _shapes(document))


def _resource(document: dict[str, Any], tag: dict[str, str]) -> Markup:
    articles = [_operation(document, *found) for found in _operations(document, tag["name"])]
    return element(
        "section",
        element("h2", tag["name"].capitalize()),
        element("p", prose(tag["description"])),
        *articles,
        id=f"resource-{tag['name']}",
    )


def _errors(document: dict[str, Any]) -> Markup:
    responses = document["components"]["responses"]
    statuses = {
        _component(response): status
        for methods in document["paths"].values()
        for operation in methods.values()
        for status, response in operation["responses"].items()
        if "$ref" in response
    }
    rows = [
        [
            element("span", _status(statuses[name]), id=f"error-{statuses[name]}"),
            prose(response["description"]),
        ]
        for name, response in responses.items()
        if name in statuses
    ]
    body = document["components"]["schemas"]["ErrorBody"]
    return element(
        "section",
        element("h2", "Errors"),
        element(
            "p", prose("Every refusal has this shape. Programs decide by `code`; `error` is for people.")
        ),
        _answer_fields(document, body),
        _table(["status", "when"], rows),
        id="errors",
    )


def _operation(document: dict[str, Any], method: str, path: str, operation: dict[str, Any]) -> Markup:
    permission = operation.get("x-permission")
    needs = (
        Markup("Needs a token, or credentials of a client")
        if operation.get("security")
        else Markup("Needs no token")
    )
    if permission:
        needs = joined("Needs permission ", element("code", permission))
    head = element(
        "div",
        element("h3", operation["summary"]),
        element(
            "p",
            element("span", method.upper(), class_=f"method {method}"),
            element("code", path),
            class_="address",
        ),
        element("p", needs, class_="needs"),
        class_="head",
    )
    body = element(
        "div",
        element("p", prose(operation["description"])),
        *_parameters(document, operation),
        *_request(document, operation),
        *_answers(document, operation),
        element("h4", "Refusals"),
        _refusals(operation),
        element("h4", "Example"),
        _screen(_curl(method, path, operation)),
        class_="body",
    )
    return element("article", head, body, id=operation["operationId"])


def _parameters(document: dict[str, Any], operation: dict[str, Any]) -> Iterator[Markup]:
    parameters = [_resolved(document, parameter) for parameter in operation.get("parameters", [])]
    if parameters:
        yield element("h4", "Parameters")
        yield _table(
            ["name", "in", "type", "presence", "meaning"],
            [
                [
                    element("code", parameter["name"]),
                    parameter["in"],
                    _type(parameter["schema"]),
                    _needed(parameter.get("required", False)),
                    _meaning(parameter | parameter["schema"]),
                ]
                for parameter in parameters
            ],
        )


def _request(document: dict[str, Any], operation: dict[str, Any]) -> Iterator[Markup]:
    sent = operation.get("requestBody")
    if sent is not None:
        schema = _resolved(document, sent["content"][_JSON]["schema"])
        yield element("h4", "Request body" if sent["required"] else "Request body (may be left out)")
        yield _table(
            ["field", "type", "presence", "meaning"],
            [
                [
                    element("code", name),
                    _type(inner, nulls=False),
                    _needed(name in schema["required"]),
                    _meaning(inner),
                ]
                for name, inner in schema["properties"].items()
            ],
        )
        yield element("p", f"{sent['description']}.", class_="needs")


def _answers(document: dict[str, Any], operation: dict[str, Any]) -> Iterator[Markup]:
    for status, response in operation["responses"].items():
        if "$ref" not in response:
            ((media_type, media),) = response["content"].items()
            yield element("h4", f"Answer {status}")
            if media_type == _JSON:
                yield _answer_fields(document, media["schema"])
            else:
                yield element("p", element("code", media_type))


def _answer_fields(document: dict[str, Any], schema: Schema) -> Markup:
    found = _resolved(document, schema)
    if "anyOf" in found:
        between = element("p", "or", class_="or")
        arms = [_answer_fields(document, arm) for arm in found["anyOf"]]
        return joined(arms[0], *(part for arm in arms[1:] for part in (between, arm)))
    if "properties" not in found:
        return element("p", _type(found))
    rows = [
        [element("code", name), _type(inner), _always(name in found["required"]), _meaning(inner)]
        for name, inner in found["properties"].items()
    ]
    return _table(["field", "type", "presence", "meaning"], rows)


def _refusals(operation: dict[str, Any]) -> Markup:
    statuses = [status for status, response in operation["responses"].items() if "$ref" in response]
    links = [element("li", element("a", _status(status), href=f"#error-{status}")) for status in statuses]
    return element("ul", *links, class_="codes")


def _shapes(document: dict[str, Any]) -> Markup:
    schemas = document["components"]["schemas"]
    named = sorted({name for schema in schemas.values() for name in _referenced(schema["properties"])})
    articles = [
        element(
            "article",
            element(
                "div",
                element("h3", name),
                element("p", prose(schemas[name]["description"]), class_="needs"),
                class_="head",
            ),
            element("div", _answer_fields(document, schemas[name]), class_="body"),
            id=f"shape-{name}",
        )
        for name in named
    ]
    return element("section", element("h2", "Shapes inside others"), *articles, id="shapes")


def _referenced(part: Any) -> Iterator[str]:
    if isinstance(part, dict) and "$ref" in part:
        yield _component(part)
    elif isinstance(part, dict | list):
        for inner in part.values() if isinstance(part, dict) else part:
            yield from _referenced(inner)


def _component(reference: Schema) -> str:
    return str(reference["$ref"].rsplit("/", 1)[1])


def _curl(method: str, path: str, operation: dict[str, Any]) -> str:
    given = [
        f"{parameter['name']}={parameter['schema']['example']}"
        for parameter in operation.get("parameters", ())
        if "example" in parameter.get("schema", {})
    ]
    lines = [f'curl -sS "$QIMEM{path}{"?" if given else ""}{"&".join(given)}"']
    if "security" not in operation:
        lines.append('-H "Authorization: Bearer $TOKEN"')
    media = operation.get("requestBody", {}).get("content", {}).get(_JSON, {})
    if "example" in media:
        example = json.dumps(media["example"], ensure_ascii=False)
        lines += ["-H 'Content-Type: application/json'", f"-d {shlex.quote(example)}"]
    if method == "patch":
        lines.append("-H 'If-Match: *'")
    if method not in {"get", "post"} or (method == "post" and "example" not in media):
        lines.append(f"-X {method.upper()}")
    return " \\\n  ".join(lines)


def _screen(text: str) -> Markup:
    return element("pre", element("code", text))


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    top = element("tr", *(element("th", head, scope="col") for head in heads))
    lines = [element("tr", *(element("td", cell) for cell in row)) for row in rows]
    table = element("table", element("thead", top), element("tbody", *lines))
    return element("div", table, class_=f"wide of-{len(heads)}")


def _resolved(document: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in part:
        _, *steps = part["$ref"].split("/")
        part = document
        for step in steps:
            part = part[step]
    return part


def _type(schema: Schema, *, nulls: bool = True) -> Markup:
    if "$ref" in schema:
        return element("a", _component(schema), href=f"#shape-{_component(schema)}")
    if "anyOf" in schema:
        # In a request null is another word for absent, which `optional` says already.
        types = [_type(arm) for arm in schema["anyOf"] if nulls or arm.get("type") != "null"]
        return joined(types[0], *(part for inner in types[1:] for part in (" or ", inner)))
    if "enum" in schema:
        return prose(" or ".join(f"`{value}`" for value in schema["enum"]))
    if schema.get("type") == "array":
        return joined("array of ", _type(schema["items"]))
    return joined(schema.get("format") or schema.get("type", "any"))


def _meaning(schema: Schema) -> Markup:
    said = [prose(schema["description"])] if "description" in schema else []
    for least, most, unit in _BOUNDS:
        if most in schema:
            low = f"{schema[least]} to" if least in schema else "at most"
            said.append(joined(f"{low} {schema[most]:,}{unit}"))
    return joined(*(part for index, text in enumerate(said) for part in (" · " if index else "", text)))


def _needed(required: bool) -> Markup:
    return (
        element("span", "required", class_="needed")
        if required
        else element("span", "optional", class_="free")
    )


def _always(required: bool) -> Markup:
    return joined("always") if required else element("span", "sometimes", class_="free")


def _status(status: str) -> str:
    return "other" if status == "default" else status
