"""`qimem envelope inspect`: what an envelope says about itself, without any key."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from qimem.cli.output import emit, output_option
from qimem.errors import Invalid

_CHARS_MAX = 8 * 1024 * 1024


@click.group()
def envelope() -> None:
    """Look into envelopes."""


@envelope.command()
@click.argument("text", metavar="ENVELOPE")
@output_option
def inspect(text: str, format: str) -> None:
    """Show version, algorithm, key id, nonce, ciphertext and tag of ENVELOPE.

    ENVELOPE is base64; `-` reads it from stdin, `@file` from a file.
    """
    from qimem.crypto.envelope import parse_envelope, to_json  # noqa: PLC0415 - heavy

    fields = json.loads(to_json(parse_envelope(_read(text))))
    if format == "table":
        fields |= {name: bytes(fields[name]).hex() for name in ("nonce", "ciphertext", "tag")}
    emit(fields, format)


def _read(text: str) -> str:
    if text == "-":
        return sys.stdin.read(_CHARS_MAX).strip()
    if not text.startswith("@"):
        return text
    try:
        with Path(text[1:]).open(encoding="ascii", errors="replace") as file:
            return file.read(_CHARS_MAX).strip()
    except OSError as error:
        raise Invalid(f"cannot read {text[1:]}: {error.strerror}") from error
