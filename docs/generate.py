"""Writes the generated pages of docs/reference, or with --check says which of them are not current.

What is written comes from the code that acts on it: the endpoint table, the option dataclasses, the
commands, the permission enum, the limits with their comments, and every error code raised anywhere.
Only the meaning of an error code is prose, in errors.toml; a code without prose, or prose without a
code, stops the run.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib
import inspect
import json
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field
from pathlib import Path
from typing import Any

import click

from qimem import __version__, errors
from qimem.authz.permissions import BUILT_IN_ROLES, SCOPABLE, Permission, compile_permissions
from qimem.bootstrap.serving import ENDPOINTS
from qimem.cli import main as cli
from qimem.config.load import ALIASES
from qimem.config.schema import SECTIONS, options
from qimem.observability.metrics import BOUNDS_SECONDS, METRICS
from qimem.web.kit.errors import STATUS

DOCS = Path(__file__).parent
REFERENCE = DOCS / "reference"
SOURCE = DOCS.parent / "src" / "qimem"
MARK = "<!-- Written by docs/generate.py; `make docs` writes it anew. -->"


def page(title: str, introduction: str, body: list[str]) -> str:
    """A whole page."""
    return "\n".join([f"# {title}", "", MARK, "", introduction, "", *body]).rstrip() + "\n"


def table(heads: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table; a bar inside a cell is escaped."""
    lines = [heads, ["---"] * len(heads), *rows]
    return [
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |"
        for line in lines
    ]


# --- api.md -----------------------------------------------------------------------------------


def api() -> str:
    """Every operation of the OpenAPI document."""
    from qimem.web.kit.openapi import render  # noqa: PLC0415 - the other pages do without it

    document = json.loads(render(ENDPOINTS, __version__))
    needed = {(endpoint.method.lower(), endpoint.path): endpoint.permission for endpoint in ENDPOINTS}
    body = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            body += _operation(document, path, method, operation, needed.get((method, path)))
    introduction = (
        "JSON in, JSON out. A running server describes itself at `/v1/openapi.json` and shows a page at `/docs`. "
        "Errors are listed in [errors.md](errors.md), limits in [limits.md](limits.md)."
    )
    return page("HTTP API", introduction, body)


def _operation(
    document: dict[str, Any], path: str, method: str, operation: dict[str, Any], permission: Permission | None
) -> list[str]:
    lines = [f"## {method.upper()} {path}", "", operation.get("summary", ""), ""]
    lines += [f"Permission: `{permission}`." if permission else "No token needed.", ""]
    query = [parameter for parameter in operation.get("parameters", []) if parameter.get("in") == "query"]
    if query:
        rows = [[f"`{parameter['name']}`", _type(document, parameter["schema"])] for parameter in query]
        lines += ["Query:", "", *table(["name", "type"], rows), ""]
    sent = _schema(operation.get("requestBody", {}))
    if sent:
        lines += ["Request:", "", *_fields(document, sent), ""]
    example = _example(operation)
    if example is not None:
        lines += ["```json", json.dumps(example, indent=2, ensure_ascii=False), "```", ""]
    got = _schema(operation.get("responses", {}).get("200", {}))
    if got:
        lines += ["Answer:", "", *_fields(document, got), ""]
    return lines


def _schema(part: dict[str, Any]) -> dict[str, Any] | None:
    content = part.get("content", {}).get("application/json", {})
    found: dict[str, Any] | None = content.get("schema")
    return found


def _example(operation: dict[str, Any]) -> object:
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    if "example" in content:
        return content["example"]
    return next((named["value"] for named in content.get("examples", {}).values()), None)


def _resolve(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    return schema


def _fields(document: dict[str, Any], schema: dict[str, Any]) -> list[str]:
    resolved = _resolve(document, schema)
    choices = resolved.get("anyOf") or resolved.get("oneOf")
    if choices:
        lines: list[str] = []
        for choice in choices:
            lines += [*(["", "or", ""] if lines else []), *_fields(document, choice)]
        return lines
    required = set(resolved.get("required", []))
    rows = [
        [f"`{name}`", _type(document, inner), "yes" if name in required else "", inner.get("description", "")]
        for name, inner in resolved.get("properties", {}).items()
    ]
    return table(["field", "type", "always", "meaning"], rows) if rows else [_type(document, schema)]


def _type(document: dict[str, Any], schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return schema["$ref"].rsplit("/", 1)[1]
    choices = schema.get("anyOf") or schema.get("oneOf")
    if choices:
        return " or ".join(dict.fromkeys(_type(document, choice) for choice in choices))
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"array of {_type(document, schema.get('items', {}))}"
    kind = schema.get("type", "any")
    return " or ".join(kind) if isinstance(kind, list) else str(schema.get("format", kind))


# --- errors.md --------------------------------------------------------------------------------


def raised() -> dict[str, set[int]]:
    """Error code → HTTP statuses, from every place in the code that makes an error."""
    found: dict[str, set[int]] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                for code, status in _made(node):
                    found.setdefault(code, set()).add(status)
    return found


def _made(call: ast.Call) -> Iterator[tuple[str, int]]:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    if name == "TransportError":
        status, code = call.args[0], given.get("code", call.args[2] if len(call.args) > 2 else None)
        if isinstance(status, ast.Constant) and isinstance(code, ast.Constant):
            yield str(code.value), int(str(status.value))
        return
    kind = getattr(errors, name, None)
    if not (isinstance(kind, type) and issubclass(kind, errors.QimemError)):
        return
    code = given.get("code")
    if isinstance(code, ast.Constant) and isinstance(code.value, str):
        yield code.value, STATUS[kind.kind]
    elif code is None or (isinstance(code, ast.Constant) and code.value is None):
        yield kind.default_code, STATUS[kind.kind]


def error_codes() -> str:
    """Every code with its status, meaning and remedy."""
    told: dict[str, dict[str, str]] = tomllib.loads((DOCS / "errors.toml").read_text())
    found = raised()
    unexplained, unused = found.keys() - told.keys(), told.keys() - found.keys()
    if unexplained or unused:
        raise SystemExit(f"docs/errors.toml: missing {sorted(unexplained)}, raised nowhere {sorted(unused)}")
    body = []
    for code in sorted(told):
        statuses = ", ".join(str(status) for status in sorted(found[code]))
        body += [
            f"## {code}",
            "",
            f"Status {statuses}. {told[code]['meaning']}",
            "",
            told[code]["remedy"],
            "",
        ]
    introduction = (
        'Every refusal is `{"error":"<text>","code":"<code>","request_id":"<id>"}`, with `hint`, `fields`, '
        "`permission` and `resource` where they help. Programs decide by `code`; `error` is for people. "
        "Details of a failure of ours stand in the server's log under the request id."
    )
    return page("Error codes", introduction, body)


# --- configuration.md -------------------------------------------------------------------------


def configuration() -> str:
    """Every option, by section."""
    aliases = {option: name for name, option in ALIASES.items()}
    body = []
    for section in SECTIONS:
        body += [f"## [{section}]", ""]
        for option, entry in options():
            if option.startswith(f"{section}."):
                variables = f"`QIMEM_{option.replace('.', '__').upper()}`"
                if option in aliases:
                    variables += f" or `{aliases[option]}`"
                unit = entry.metadata["unit"]
                lines = [f"Default: {_shown(_default(entry))}.", f"Variable: {variables}."]
                lines += [f"Unit: {unit}."] if unit else []
                body += [f"### {option}", "", entry.metadata["help"], "", " ".join(lines), ""]
    introduction = (
        "Read from flags, variables, the file `--config` names (else `qimem.toml` in the working directory) and the "
        "defaults, the first that has a value. All mistakes are reported at once, each with its origin; "
        "`qimem config check` does it without starting anything. Secrets never stand in the file."
    )
    return page("Configuration", introduction, body)


def _default(entry: Field[Any]) -> object:
    return entry.default if entry.default_factory is MISSING else entry.default_factory()


def _shown(value: object) -> str:
    if value is None or value == ():
        return "none"
    if isinstance(value, dict):
        return ", ".join(f"`{name}={each}`" for name, each in value.items())
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


# --- cli.md -----------------------------------------------------------------------------------


def commands() -> str:
    """Every command with its flags."""
    introduction = (
        "Results go to stdout, everything else to stderr. "
        + str(cli.root.epilog)
        + " Every command has `--help`."
    )
    body: list[str] = []
    for name, command in _walk(cli.root, "qimem"):
        context = click.Context(command, info_name=name)
        help_text = re.sub(
            r"\n\n\x08\n(.+)", r"\n\n```text\n\1\n```", inspect.cleandoc(command.help or ""), flags=re.DOTALL
        )
        body += [f"## {name}", "", help_text, ""]
        rows = [
            ["`" + record[0].replace("`", "") + "`", record[1]]
            for parameter in command.params
            if (record := parameter.get_help_record(context))
        ]
        arguments = [
            [f"`{parameter.make_metavar(context)}`", ""]
            for parameter in command.params
            if isinstance(parameter, click.Argument)
        ]
        if rows or arguments:
            body += [*table(["flag", "meaning"], arguments + rows), ""]
    return page("Commands", introduction, body)


def _walk(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=name)
        for inner in command.list_commands(context):
            found = command.get_command(context, inner)
            if found is not None:
                yield from _walk(found, f"{name} {inner}")


# --- permissions.md ---------------------------------------------------------------------------


def permissions() -> str:
    """Every platform permission, and the endpoints that ask for it."""
    rows = []
    for permission in sorted(Permission):
        asked = [
            f"`{endpoint.method} {endpoint.path}`"
            for endpoint in ENDPOINTS
            if endpoint.permission is permission
        ]
        if permission is Permission.TOKENS_INTROSPECT:
            # Its own holder may ask about a token too, so the endpoint itself asks for none.
            asked.append("`POST /v1/auth/token/introspect`")
        scope = f"`{permission}:<lineage id>`" if permission in SCOPABLE else ""
        holders = [
            f"`{role}`"
            for role, wildcard in sorted(BUILT_IN_ROLES.items())
            if permission in compile_permissions(frozenset({wildcard})).everywhere
        ]
        rows.append([f"`{permission}`", ", ".join(asked) or "reserved", scope, ", ".join(holders)])
    body = table(["permission", "asked for by", "narrowed to one key", "built-in roles that hold it"], rows)
    roles = [[f"`{role}`", f"`{wildcard}`"] for role, wildcard in sorted(BUILT_IN_ROLES.items())]
    body += ["", "## Built-in roles", "", *table(["role", "holds"], roles), ""]
    body += [
        "`operator` and `platform-admin` exist in realm `system` alone and act in every realm. `platform-admin` runs the",
        "platform and neither uses nor sees a key; nor can it give away what leads to one.",
        "`realm-admin` exists in every realm and holds what is inside it, permissions of later versions included.",
        "",
        "## An application's own permissions",
        "",
        "A name that the platform does not define, 1 to 128 printable ASCII characters without `*`,",
        "is the application's own: carried in tokens, never asked for here. Whoever holds `roles:create` may give it.",
    ]
    introduction = (
        "A role lists permissions `resource:action`. Platform permissions are granted only by who holds them."
    )
    return page("Permissions", introduction, body)


# --- limits.md --------------------------------------------------------------------------------


def limits() -> str:
    """Every constant of kernel.limits with the comments around it."""
    module = importlib.import_module("qimem.kernel.limits")
    lines = (SOURCE / "kernel" / "limits.py").read_text().splitlines()
    tree = ast.parse("\n".join(lines))
    body: list[str] = []
    rows: list[list[str]] = []
    for node, following in zip(tree.body, [*tree.body[1:], None], strict=True):
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
            continue
        above = lines[node.lineno - 2]
        if above.startswith("# "):
            body += [*_limit_table(rows), f"## {above.removeprefix('# ').split('.')[0].split(':')[0]}", ""]
            rows = []
            remark = re.split(r"[.:] ", above.removeprefix("# "), maxsplit=1)[1:]
            body += [f"{remark[0][:1].upper()}{remark[0][1:]}", ""] if remark else []
        why = ""
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            why = " ".join(str(following.value.value).split())
        rows.append([f"`{node.target.id}`", f"{getattr(module, node.target.id):,}", why])
    body += _limit_table(rows)
    introduction = (
        "Every numeric limit. The unit stands at the end of the name; sizes without one are counts."
    )
    return page("Limits", introduction, body)


def _limit_table(rows: list[list[str]]) -> list[str]:
    return [*table(["limit", "value", "why"], rows), ""] if rows else []


# --- metrics.md -------------------------------------------------------------------------------


def metrics() -> str:
    """Every metric."""
    rows = [
        [
            f"`{metric.name}`",
            metric.kind.value,
            ", ".join(f"`{label}`" for label in metric.labels),
            metric.help,
        ]
        for metric in METRICS
    ]
    bounds = ", ".join(f"{bound:g}" for bound in BOUNDS_SECONDS)
    introduction = (
        "Served by the admin listener (`server.admin_bind`) at `/metrics`, in the text format of Prometheus; see "
        "[watch the server](../how-to/watch-the-server.md). Any worker answers for all of them. No label names a realm, a client, a "
        f"user, an address or a key. Buckets of durations end at {bounds} seconds."
    )
    return page("Metrics", introduction, table(["name", "kind", "labels", "what"], rows))


PAGES: dict[str, Callable[[], str]] = {
    "api.md": api,
    "cli.md": commands,
    "configuration.md": configuration,
    "errors.md": error_codes,
    "limits.md": limits,
    "metrics.md": metrics,
    "permissions.md": permissions,
}


def main() -> int:
    """Write the pages, or compare them."""
    parser = argparse.ArgumentParser(prog="docs/generate.py", description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 when a page is not current"
    )
    parser.add_argument("--only", choices=sorted(PAGES), help="this page alone")
    parser.add_argument("--reference", type=Path, default=REFERENCE, help="directory of the pages")
    chosen = parser.parse_args()
    stale = False
    for name, make in PAGES.items():
        if chosen.only in (None, name):
            path, text = chosen.reference / name, make()
            before = path.read_text() if path.exists() else ""
            if before != text and chosen.check:
                stale = True
                sys.stdout.writelines(
                    difflib.unified_diff(before.splitlines(True), text.splitlines(True), name, "now")
                )
            elif before != text:
                path.write_text(text)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
