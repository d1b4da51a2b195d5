"""Every house rule holds in every module, and every rule still bites when it is broken."""

from __future__ import annotations

import pytest

from tests.architecture import rules
from tests.architecture.sources import SOURCE, Module, modules

HEAD = '"""Purpose."""\n'

PLANTED = [
    (rules.module_is_short, "qimem/kms/long.py", HEAD + "\n" * 400),
    (rules.functions_are_short, "qimem/kms/a.py", "def f():\n" + "    f()\n" * 50),
    (rules.functions_have_few_parameters, "qimem/kms/a.py", "def f(a, b, c, d, *, e, f, g): ..."),
    (
        rules.functions_have_few_parameters,
        "qimem/kms/a.py",
        "class A:\n  def f(self, a, b, c, d, e, f, g): ...",
    ),
    (rules.functions_have_few_parameters, "qimem/kms/a.py", "def f(a, b, c, d, e, *args, **kwargs): ..."),
    (rules.module_says_its_purpose, "qimem/kms/a.py", "import os"),
    (rules.public_names_are_documented, "qimem/kms/a.py", "def rotate(): ..."),
    (rules.public_names_are_documented, "qimem/kms/a.py", "class Key: ..."),
    (rules.public_names_are_documented, "qimem/kms/a.py", "class Key:\n  '''A.'''\n  async def f(self): ..."),
    (rules.names_say_something, "qimem/kms/utils.py", HEAD),
    (rules.names_say_something, "qimem/helpers/key.py", HEAD),
    (rules.names_say_something, "qimem/kms/a.py", "class KeyManager: ..."),
    (rules.time_and_chance_have_owners, "qimem/kms/a.py", "import time\nx = time.time()"),
    (rules.time_and_chance_have_owners, "qimem/kms/a.py", "import time as t\nx = t.time_ns()"),
    (rules.time_and_chance_have_owners, "qimem/kms/a.py", "from time import time"),
    (rules.time_and_chance_have_owners, "qimem/kms/a.py", "from datetime import datetime as d\nx = d.now()"),
    (rules.time_and_chance_have_owners, "qimem/kms/a.py", "import datetime\nx = datetime.datetime.now()"),
    (rules.time_and_chance_have_owners, "qimem/kms/a.py", "import os\nx = os.urandom(1)"),
    (rules.time_and_chance_have_owners, "qimem/kms/a.py", "import secrets\nx = secrets.token_bytes()"),
    (rules.time_and_chance_have_owners, "qimem/kms/a.py", "from uuid import uuid4"),
    (rules.time_and_chance_have_owners, "qimem/kms/a.py", "import random\nx = random.random()"),
    (rules.time_and_chance_have_owners, "qimem/kms/a.py", "import time\nx = time.monotonic()"),
    (rules.time_and_chance_have_owners, "qimem/crypto/a.py", "import time\nx = time.time()"),
    (rules.sqlite_is_opened_by_storage_alone, "qimem/storage/a.py", "import sqlite3"),
    (rules.sqlite_is_opened_by_storage_alone, "qimem/server/a.py", "open('qimem.db')"),
    (rules.sqlite_is_opened_by_storage_alone, "qimem/server/a.py", "database_path.open('rb')"),
    (rules.failures_are_not_swallowed, "qimem/kms/a.py", "try: f()\nexcept Exception: pass"),
    (rules.failures_are_not_swallowed, "qimem/kms/a.py", "try: f()\nexcept: g()"),
    (rules.failures_are_not_swallowed, "qimem/kms/a.py", "with contextlib.suppress(Exception): f()"),
    (rules.nothing_is_left_for_later, "qimem/kms/a.py", "# TO" + "DO: later"),
    (rules.nothing_is_left_for_later, "qimem/kms/a.py", "raise NotImplementedError"),
    (rules.kernel_needs_nothing_but_python, "qimem/kernel/a.py", "import msgspec"),
    (rules.kernel_needs_nothing_but_python, "qimem/errors.py", "from msgspec import Struct"),
    (rules.private_names_stay_at_home, "qimem/kms/a.py", "from qimem.kms.b import _secret"),
    (rules.packages_do_not_reexport, "qimem/kms/__init__.py", HEAD + "from qimem.kms.keys import KeyService"),
]

ALLOWED = [
    (rules.functions_have_few_parameters, "qimem/kms/a.py", "class A:\n  def f(self, a, b, c, d, e, f): ..."),
    (
        rules.public_names_are_documented,
        "qimem/kms/a.py",
        "def _f(): ...\ndef g():\n  '''G.'''\n  def h(): ...",
    ),
    (rules.time_and_chance_have_owners, "qimem/kernel/clock.py", "import time\nx = time.time_ns()"),
    (rules.time_and_chance_have_owners, "qimem/server/a.py", "import time\nx = time.monotonic()"),
    (rules.time_and_chance_have_owners, "qimem/kms/a.py", "x = clock.time()"),
    (rules.sqlite_is_opened_by_storage_alone, "qimem/server/a.py", "database.open()"),
    (rules.failures_are_not_swallowed, "qimem/kms/a.py", "try: f()\nexcept KeyError: pass"),
    (rules.names_say_something, "qimem/kms/keys.py", "class KeyService: ..."),
]


def label(value: object) -> str | None:
    return getattr(value, "__name__", None)


@pytest.mark.parametrize("rule", rules.RULES, ids=label)
def test_every_module_keeps_the_rule(rule) -> None:
    broken = [f"src/{module.path}:{finding}" for module in modules() for finding in rule(module)]
    assert not broken, "\n".join(["", *broken])


@pytest.mark.parametrize(("rule", "path", "text"), PLANTED, ids=label)
def test_a_planted_violation_is_found(rule, path: str, text: str) -> None:
    assert list(rule(Module(path, text)))


@pytest.mark.parametrize(("rule", "path", "text"), ALLOWED, ids=label)
def test_what_looks_similar_is_allowed(rule, path: str, text: str) -> None:
    assert not list(rule(Module(path, text)))


def test_every_rule_has_a_planted_violation() -> None:
    assert {rule for rule, _, _ in PLANTED} == set(rules.RULES)


def test_the_product_is_where_the_rules_look() -> None:
    assert len(modules()) > 100


def empty_rooms(root) -> list[str]:
    rooms = [
        directory for directory in root.glob("**/*") if directory.is_dir() and directory.name != "__pycache__"
    ]
    return [
        str(room)
        for room in rooms
        if not any(file.name != "__init__.py" for file in room.glob("**/*.*") if file.suffix != ".pyc")
    ]


def test_no_room_is_without_a_resident() -> None:
    assert not empty_rooms(SOURCE / "qimem")


def test_an_empty_room_is_found(tmp_path) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "__init__.py").write_text(HEAD)
    assert empty_rooms(tmp_path)
