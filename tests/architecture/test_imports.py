"""The layers hold, and each contract still bites when a violation is planted into a copy of the package."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.architecture.sources import ROOT, SOURCE, imported, modules

PLANTED = {
    "Layers": ("qimem/kernel/clock.py", "import qimem.wire.common"),
    "Cryptography only in crypto": ("qimem/kms/models.py", "import cryptography.fernet"),
    "SQL only in storage": ("qimem/identity/models.py", "import sqlalchemy"),
    "HTTP machinery only in web and server": ("qimem/bootstrap/core.py", "import uvicorn"),
    "Prometheus only in observability": ("qimem/web/app.py", "import prometheus_client"),
    "Valkey only in coordination": ("qimem/web/app.py", "import redis"),
    "click only in cli": ("qimem/server/launch.py", "import click"),
    "structlog only in observability, cli and server": ("qimem/web/app.py", "import structlog"),
    "The sqlite3 of the standard library nowhere": ("qimem/storage/schema.py", "import sqlite3"),
}

WRONG_WAYS = [
    ("qimem/kernel/clock.py", "qimem.wire.common"),
    ("qimem/wire/common.py", "qimem.observability.logging"),
    ("qimem/crypto/mac.py", "qimem.authz.permissions"),
    ("qimem/outbound/target.py", "qimem.crypto.mac"),
    ("qimem/outbound/target.py", "qimem.jobs.ports"),
    ("qimem/realms/models.py", "qimem.kms.models"),
    ("qimem/kms/models.py", "qimem.identity.models"),
    ("qimem/identity/models.py", "qimem.kms.models"),
    ("qimem/oauth/models.py", "qimem.storage.schema"),
    ("qimem/web/app.py", "qimem.storage.schema"),
    ("qimem/storage/schema.py", "qimem.web.services"),
    ("qimem/config/schema.py", "qimem.storage.schema"),
    ("qimem/bootstrap/core.py", "qimem.server.order"),
    ("qimem/server/order.py", "qimem.cli.output"),
]


def lint(source: Path) -> subprocess.CompletedProcess[str]:
    command = [
        Path(sys.executable).with_name("lint-imports"),
        "--no-cache",
        "--config",
        ROOT / ".importlinter",
    ]
    environment = os.environ | {"PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "200"}
    return subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True, check=False)


def copy_with(directory: Path, planted: list[tuple[str, str]]) -> Path:
    source = directory / "src"
    shutil.copytree(SOURCE, source, ignore=shutil.ignore_patterns("__pycache__"))
    for path, line in planted:
        with (source / path).open("a") as file:
            file.write(f"\n{line}\n")
    return source


def contracts() -> set[str]:
    file = configparser.ConfigParser()
    file.read(ROOT / ".importlinter")
    return {file[section]["name"] for section in file.sections() if ":contract:" in section}


def test_every_contract_is_kept() -> None:
    done = lint(SOURCE)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_contract_has_a_planted_violation() -> None:
    assert set(PLANTED) == contracts()


def test_every_contract_bites(tmp_path: Path) -> None:
    done = lint(copy_with(tmp_path, list(PLANTED.values())))
    assert done.returncode == 1, done.stdout + done.stderr
    broken = {line.removesuffix(" BROKEN") for line in done.stdout.splitlines() if line.endswith(" BROKEN")}
    assert broken == set(PLANTED)


def test_no_layer_may_look_up_or_sideways(tmp_path: Path) -> None:
    said = lint(copy_with(tmp_path, [(path, f"import {name}") for path, name in WRONG_WAYS])).stdout
    for path, name in WRONG_WAYS:
        importer = path.removesuffix(".py").replace("/", ".")
        assert f"{importer} -> {name} " in said, (importer, name)


def test_a_package_that_no_layer_names_is_refused(tmp_path: Path) -> None:
    source = copy_with(tmp_path, [])
    (source / "qimem" / "extras").mkdir()
    (source / "qimem" / "extras" / "__init__.py").write_text('"""Nowhere."""\n')
    assert "extras" in lint(source).stdout


def third_party() -> set[str]:
    top = {
        name.split(".")[0]
        for module in modules()
        # Imported by pytest itself.
        if module.path != "qimem/testing/plugin.py"
        for _, name in imported(module)
    }
    return top - set(sys.stdlib_module_names) - {"qimem", "None"}


def declared() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {requirement.split(">=")[0].split("[")[0].lower() for requirement in project["dependencies"]}


def distributions(modules: set[str]) -> set[str]:
    known = packages_distributions()
    return {known[module][0].lower().replace("_", "-") for module in modules}


def test_every_package_that_is_imported_is_a_declared_dependency() -> None:
    assert distributions(third_party()) <= declared()


def test_every_declared_dependency_is_imported() -> None:
    # redis imports it before Python 3.11.3, which Debian 12 has; a lock file is made with one Python for all.
    assert declared() - {"async-timeout"} <= distributions(third_party())


@pytest.mark.parametrize("planted", [{"requests_unknown"}, {"pytest"}])
def test_an_undeclared_import_is_found(planted: set[str]) -> None:
    known = packages_distributions()
    names = {known.get(module, [module])[0] for module in planted}
    assert not names <= declared()
