"""The house rules a machine can judge. Each takes a module and says what is wrong with it, line by line."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.architecture.sources import Module, functions, imported

MODULE_LINES_MAX = 400
FUNCTION_LINES_MAX = 50
PARAMETERS_MAX = 6

VAGUE_NAMES = {"util", "utils", "helper", "helpers", "manager", "managers", "misc", "common_utils"}

OWNED_CALLS = {
    "os.urandom": ("qimem/crypto",),
    "secrets": ("qimem/crypto",),
    "random": ("qimem/jobs", "qimem/storage"),
    "uuid.uuid1": (),
    "uuid.uuid4": ("qimem/crypto", "qimem/client"),
    "time.time": ("qimem/kernel/clock.py",),
    "time.time_ns": ("qimem/kernel/clock.py",),
    "datetime.datetime.now": ("qimem/kernel/clock.py",),
    "datetime.datetime.utcnow": (),
    "datetime.datetime.today": (),
    "datetime.date.today": (),
}
"""What only its owner may use, so that tests can hold time still and one place answers for randomness.

`random` is not for secrets: two rooms spread their retries with it. Clients know nothing of `crypto`.
"""

DEADLINE_CALLS = {"time.monotonic", "time.perf_counter"}
DEADLINE_ROOMS = (
    "qimem/kernel/clock.py",
    "qimem/kernel/patience.py",
    "qimem/server",
    "qimem/storage",
    "qimem/web",
)

FACES = ("qimem/__init__.py", "qimem/client/__init__.py", "qimem/testing/__init__.py")
"""What other programs import by name; where their modules lie is ours to change."""

Findings = Iterator[str]


def module_is_short(module: Module) -> Findings:
    lines = module.text.count("\n")
    if lines > MODULE_LINES_MAX:
        yield f"{lines} lines, at most {MODULE_LINES_MAX}"


def functions_are_short(module: Module) -> Findings:
    # A migration lists tables column by column, and once released is never touched again.
    if module.inside("qimem/storage/migrations/versions"):
        return
    for function, _ in functions(module):
        lines = (function.end_lineno or function.lineno) - function.lineno + 1
        if lines > FUNCTION_LINES_MAX:
            yield f"{function.lineno}: {function.name} has {lines} lines, at most {FUNCTION_LINES_MAX}"


def functions_have_few_parameters(module: Module) -> Findings:
    for function, around in functions(module):
        given = function.args
        every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
        named = [argument.arg for argument in every if argument is not None]
        if around and isinstance(around[-1], ast.ClassDef) and named[:1] in (["self"], ["cls"]):
            named = named[1:]
        if len(named) > PARAMETERS_MAX:
            yield f"{function.lineno}: {function.name} takes {len(named)}, at most {PARAMETERS_MAX}"


def module_says_its_purpose(module: Module) -> Findings:
    if not ast.get_docstring(module.tree):
        yield "no docstring"


def public_names_are_documented(module: Module) -> Findings:
    defined = functions(module)
    private = {
        id(f)
        for f, around in defined
        if any(isinstance(a, ast.FunctionDef | ast.AsyncFunctionDef) for a in around)
    }
    for function, around in defined:
        hidden = [*around, function]
        if id(function) in private or any(getattr(node, "name", "").startswith("_") for node in hidden):
            continue
        if not ast.get_docstring(function) and not _inherits_its_meaning(function):
            yield f"{function.lineno}: {function.name} has no docstring"
    for node in module.tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and not ast.get_docstring(node):
            yield f"{node.lineno}: class {node.name} has no docstring"


def _inherits_its_meaning(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(
        isinstance(mark, ast.Name) and mark.id in {"override", "overload"} for mark in function.decorator_list
    )


def names_say_something(module: Module) -> Findings:
    parts = [*Path(module.path).with_suffix("").parts]
    classes = [node.name for node in ast.walk(module.tree) if isinstance(node, ast.ClassDef)]
    for name in parts + classes:
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower().split("_")
        if VAGUE_NAMES & {name.lower(), *words}:
            yield f"{name} says nothing about what it is for"


def time_and_chance_have_owners(module: Module) -> Findings:
    for line, name in _used(module):
        for owned, owners in OWNED_CALLS.items():
            if (name == owned or name.startswith(f"{owned}.")) and not module.inside(*owners):
                yield f"{line}: {name} belongs to {' and '.join(owners) or 'nobody'}"
        if name in DEADLINE_CALLS and not module.inside(*DEADLINE_ROOMS):
            yield f"{line}: {name} outside {', '.join(DEADLINE_ROOMS)}; use kernel.clock"


def _used(module: Module) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of what is used of other modules, import aliases resolved."""
    meant: dict[str, str] = {}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                meant[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                meant[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                yield node.lineno, f"{node.module}.{alias.name}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute):
            dotted = ast.unparse(node)
            first, _, rest = dotted.partition(".")
            if first in meant and rest.replace(".", "").isidentifier():
                yield node.lineno, f"{meant[first]}.{rest}"


def sqlite_is_opened_by_storage_alone(module: Module) -> Findings:
    for line, name in imported(module):
        if name.split(".")[0] in {"sqlite3", "_sqlite3", "pysqlite2", "aiosqlite"}:
            yield f"{line}: {name}: a second SQLite in one process loses commits (sqlite.org/howtocorrupt.html §2.2)"
    if module.inside("qimem/storage"):
        return
    for node in ast.walk(module.tree):
        if (
            isinstance(node, ast.Call)
            and _opens(node)
            and re.search(r"(sqlite|\.db\b|database_?(file|path))", ast.unparse(node))
        ):
            yield f"{node.lineno}: closing a plain descriptor of the database drops SQLite's locks (same page, §2.2)"


def _opens(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    return name in {"open", "read_bytes", "write_bytes", "read_text", "write_text", "copyfile", "copy"}


def failures_are_not_swallowed(module: Module) -> Findings:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else ""
            silent = all(isinstance(step, ast.Pass | ast.Continue) for step in node.body)
            if not caught or (silent and re.fullmatch(r"(Base)?Exception", caught)):
                yield f"{node.lineno}: except {caught or 'everything'} hides what went wrong"
        elif isinstance(node, ast.Call) and ast.unparse(node).startswith(
            ("contextlib.suppress(", "suppress(")
        ):
            if any(re.fullmatch(r"(Base)?Exception", ast.unparse(argument)) for argument in node.args):
                yield f"{node.lineno}: suppressing everything hides what went wrong"


def nothing_is_left_for_later(module: Module) -> Findings:
    for number, line in enumerate(module.text.splitlines(), 1):
        if re.search(r"\b(TODO|FIXME|XXX|HACK)\b", line):
            yield f"{number}: {line.strip()}"
    for node in ast.walk(module.tree):
        if (
            isinstance(node, ast.Raise)
            and node.exc is not None
            and "NotImplementedError" in ast.unparse(node.exc)
        ):
            yield f"{node.lineno}: a stub"


def kernel_needs_nothing_but_python(module: Module) -> Findings:
    import sys

    if not module.inside("qimem/kernel", "qimem/errors.py"):
        return
    for line, name in imported(module):
        if name.split(".")[0] not in {*sys.stdlib_module_names, "qimem"}:
            yield f"{line}: {name} is not of the standard library"


def private_names_stay_at_home(module: Module) -> Findings:
    for line, name in imported(module):
        if name.startswith("qimem.") and any(re.match(r"_[^_]", part) for part in name.split(".")):
            yield f"{line}: {name} is private to its module"


def packages_do_not_reexport(module: Module) -> Findings:
    if not module.path.endswith("/__init__.py") or module.path in FACES:
        return
    if any(not isinstance(node, ast.Expr) for node in module.tree.body):
        yield "code in a package's own file: every name has one address, its module"


RULES = (
    module_is_short,
    functions_are_short,
    functions_have_few_parameters,
    module_says_its_purpose,
    public_names_are_documented,
    names_say_something,
    time_and_chance_have_owners,
    sqlite_is_opened_by_storage_alone,
    failures_are_not_swallowed,
    nothing_is_left_for_later,
    kernel_needs_nothing_but_python,
    private_names_stay_at_home,
    packages_do_not_reexport,
)
