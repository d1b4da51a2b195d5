"""`qimem config check`: every option in force and where it was written, or every mistake at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from qimem.cli.options import read_settings, settings_options
from qimem.cli.output import emit, output_option


@click.group()
def config() -> None:
    """Look at the configuration."""


@config.command()
@settings_options()
@output_option
def check(config_file: Path | None, format: str) -> None:
    """Read the configuration as `serve` would and show it; ends with 78 when it is refused."""
    loaded = read_settings(config_file, {})
    rows: list[dict[str, object]] = []
    for option, origin in loaded.origins.items():
        section, _, name = option.partition(".")
        value = getattr(getattr(loaded.settings, section), name)
        rows.append({"option": option, "value": _shown(value), "origin": origin})
    emit(rows, format)


def _shown(value: object) -> object:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={_shown(each)}" for name, each in value.items())
    if type(value) is tuple:
        return ", ".join(map(str, value))
    # Text of a secret type is its name, never the secret.
    return str(value)
