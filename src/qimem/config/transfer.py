"""Settings as bytes, for the pipe between the supervisor and its workers. Secrets are inside: never log them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from qimem.config.schema import Settings, build, options
from qimem.config.values import Address
from qimem.kernel.metering import Allowance
from qimem.kernel.secret import SecretText


def dump(settings: Settings) -> bytes:
    """Everything that is set, as JSON."""
    return json.dumps({option: _plain(_value(settings, option)) for option, _ in options()}).encode()


def restore(data: bytes) -> Settings:
    """What `dump` was given."""
    fields = dict(options())
    raw = json.loads(data)
    return build(
        {name: fields[name].metadata["read"](value) for name, value in raw.items() if value is not None}
    )


def _value(settings: Settings, option: str) -> object:
    section, _, name = option.partition(".")
    value: object = getattr(getattr(settings, section), name)
    return value


def _plain(value: object) -> object:
    match value:
        case SecretText():
            return value.reveal()
        case Path() | Address():
            return str(value)
        case Allowance():
            return value._asdict()
        case Mapping():
            return {name: _plain(each) for name, each in value.items()}
        case tuple():
            return list(value)
        case _:
            return value
