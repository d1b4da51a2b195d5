"""The first lines of a server that still has its credentials file: where it is, and three lines to paste."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from qimem.kernel.addresses import keeps_secrets
from qimem.kernel.refusal import Refused
from qimem.server.credentials import DEFAULT_FILE, CredentialsFile

if TYPE_CHECKING:
    from qimem.server.launch import Serving


def greeting(serving: Serving) -> list[str]:
    """What to print before `ready`; nothing once the credentials file was taken away."""
    file = CredentialsFile.beside(serving.settings.server.data_dir)
    if not file.exists():
        return []
    settings = serving.settings
    # A certificate is made out to a name: by the address it would not be taken.
    named = settings.server.external_url if settings.tls.cert is not None else None
    return [f"credentials {file.path}", *paste_lines(named or serving.url, file)]


def paste_lines(url: str, file: CredentialsFile) -> list[str]:
    """Create a key, encrypt by its name, decrypt the envelope: to be pasted as they are elsewhere."""
    bearer = f'-H "Authorization: Bearer $({_token_command(url, file)})"'
    curl = f"curl -sS -w '\\n' {bearer} -H 'Content-Type: application/json'"
    envelope = shlex.quote(str(file.path).removesuffix(".credentials.json") + ".envelope.json")
    create = f"""{curl} -d '{{"name":"first"}}' {url}/v1/security/keys"""
    encrypt = f"""{curl} -d '{{"name":"first","input":"hello"}}' {url}/v1/security/encrypt | tee {envelope}"""
    # Of the answer only its first field goes back: the envelope.
    decrypt = f"""sed 's/,"key_id.*/}}/' {envelope} | {curl} -d @- {url}/v1/security/decrypt"""
    return [create, encrypt, decrypt]


def _token_command(url: str, file: CredentialsFile) -> str:
    words = [*_program(), "token"]
    if file.path != DEFAULT_FILE:
        words += ["--credentials", str(file.path)]
    try:
        known = file.read().get("external_url")
    except Refused:
        known = None
    if known != url:
        words += ["--server", url]
    if not keeps_secrets(url):
        # This server was told to speak plain HTTP there, and the lines are for its own machine.
        words.append("--allow-plain-http")
    return shlex.join(words)


def _program() -> list[str]:
    """How to call the same program again from the same directory."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py" or not os.access(called, os.X_OK):
        return [sys.executable, "-m", "qimem"]
    # Directory included even where this terminal finds it by name: the other one may not.
    return [str(called)]
