"""Looks at an embedded database without changing it; safe beside a running server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import apsw

from qimem.errors import storage_unavailable
from qimem.storage.sqlite_connection import open_reader


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was found.

    Args:
        engine: Version of the SQLite engine in use.
        journal_mode: `wal` when all is well.
        faults: What the integrity check reports; empty when the file is sound.
    """

    engine: str
    journal_mode: str
    faults: tuple[str, ...]


def inspect_sqlite(file: Path) -> Inspection:
    """Check the structure of every page, but not each index entry: seconds for gigabytes.

    Raises:
        Unavailable: it cannot be opened or read.
    """
    try:
        connection = open_reader(file)
        try:
            mode = str(connection.pragma("journal_mode"))
            rows = [str(row[0]) for row in connection.execute("PRAGMA quick_check(20)")]
        finally:
            connection.close()
    except apsw.Error as error:
        raise storage_unavailable() from error
    return Inspection(apsw.sqlite_lib_version(), mode, () if rows == ["ok"] else tuple(rows))
