"""The files of `deploy/` as values."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import yaml

from qimem.cli.main import root
from qimem.config.load import Loaded, load
from tests.architecture.sources import ROOT

DEPLOY = ROOT / "deploy"
ADDRESS = "https://keys.example"
_FLAGS = {"bind": "server.bind", "data_dir": "server.data_dir", "workers": "server.workers"} | {
    "admin_bind": "server.admin_bind",
    "root_key_file": "seal.root_key_file",
    "tls_cert": "tls.cert",
    "tls_key": "tls.key",
}


@dataclass(frozen=True)
class Instruction:
    """One of a Containerfile. `words` are those of its JSON form, or none."""

    name: str
    text: str

    @property
    def words(self) -> list[str]:
        start = self.text.find("[")
        return json.loads(self.text[start:]) if start >= 0 else []


def containerfile() -> list[Instruction]:
    text = re.sub(r"^\s*#.*\n", "", (DEPLOY / "Containerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [Instruction(*line.split(maxsplit=1)) for line in lines if line.strip()]


def only(name: str) -> Instruction:
    """The one instruction of that name."""
    (found,) = [instruction for instruction in containerfile() if instruction.name == name]
    return found


def compose(name: str, **variables: str) -> dict[str, Any]:
    """The file with its variables put in.

    Raises:
        KeyError: one that it demands is missing.
    """

    def value(match: re.Match[str]) -> str:
        variable, operator, text = match.groups()
        if variable not in variables and operator == ":?":
            raise KeyError(variable)
        return variables.get(variable, text)

    text = (DEPLOY / name).read_text()
    found: dict[str, Any] = yaml.safe_load(re.sub(r"\$\{(\w+)(:[?-])([^}]*)\}", value, text))
    return found


def parsed(command: list[str]) -> dict[str, Any]:
    """What our own command line makes of the arguments behind `qimem`, without running them.

    Raises:
        click.UsageError: nothing.
    """
    name, *arguments = command
    verb = root.get_command(click.Context(root), name)
    assert verb is not None, name
    with verb.make_context(name, list(arguments)) as context:
        return dict(context.params)


def loaded(command: list[str], environ: dict[str, str], file: Path | None = None) -> Loaded:
    """The configuration that these arguments and variables lead to.

    Raises:
        Misconfigured: it is refused.
    """
    given = {_FLAGS[name]: value for name, value in parsed(command).items() if name in _FLAGS}
    return load(given, environ, file=file)
