"""Chooses where the root key is kept: a named file, a systemd credential, or a file beside the data."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from qimem.kernel.refusal import Refused
from qimem.kernel.secret import SecretBytes
from qimem.kms.seal.base import Seal
from qimem.kms.seal.keyfile import KeyFileSeal

CREDENTIAL_NAME = "qimem-root-key"

_log = logging.getLogger(__name__)

_NOT_OURS_TO_MAKE = 0o037
"""systemd hands a credential over as 0400, or as root's 0440 with an access list whose mask shows as the group."""


def choose(
    data_dir: Path, *, source: str, root_key_file: Path | None, environ: Mapping[str, str], explicit: bool
) -> Seal:
    """The custody that the configuration asks for.

    Args:
        data_dir: The data directory, existing or not.
        source: `auto`, `file` or `credential`.
        root_key_file: The file the operator named.
        environ: Where systemd puts `CREDENTIALS_DIRECTORY`.
        explicit: Whether the operator asked for a new installation; only then is a named file made.

    Raises:
        Refused: a credential is wanted and the service manager gave none.
    """
    if root_key_file is not None:
        return KeyFileSeal(
            Path(os.path.realpath(root_key_file.parent)) / root_key_file.name, creatable=explicit
        )
    credential = _credential(environ)
    if source == "credential" and credential is None:
        raise Refused(
            "seal.source is credential, and there is no CREDENTIALS_DIRECTORY",
            f"start the service with LoadCredential={CREDENTIAL_NAME}:<file>",
        )
    if credential is not None and (source == "credential" or (source == "auto" and credential.exists())):
        return credential
    return KeyFileSeal(beside(data_dir))


def keys_at(seal: Seal) -> Iterator[SecretBytes]:
    """The keys that this custody has now: the one that waits to be the next, and the one in its place.

    In this order: one that takes its place between the two looks is then seen once at least.
    """
    if not isinstance(seal, KeyFileSeal):
        return
    for place in (seal.successor, seal):
        if place.exists():
            try:
                yield place.load()
            except Refused as refused:
                # It may have been renamed in this moment; if it is needed, whoever needs it refuses.
                _log.warning("%s", refused.message)


def beside(data_dir: Path) -> Path:
    """`realpath(<data-dir>).root.key`: next to the directory itself, also when it is reached by a link."""
    return Path(os.path.realpath(data_dir) + ".root.key")


def _credential(environ: Mapping[str, str]) -> KeyFileSeal | None:
    directory = environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        return None
    return KeyFileSeal(Path(directory) / CREDENTIAL_NAME, loose=_NOT_OURS_TO_MAKE, creatable=False)
