"""Whether a new root key may be made where it would land. Asked once, before an installation exists.

The mistakes this prevents lose all data at once: a volume whose backup holds key and data together,
and a key in a container's own layer, gone with the container while the data stays on its volume.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from qimem.kernel.refusal import Refused

MOUNTINFO = Path("/proc/self/mountinfo")
_LOSABLE = frozenset({"overlay", "tmpfs", "ramfs", "aufs"})
_FLAG = "--root-key-file"


@dataclass(frozen=True, slots=True)
class Mounts:
    """Mount point → file system type."""

    types: dict[str, str]

    @classmethod
    def read(cls, source: Path = MOUNTINFO) -> Mounts:
        """The mounts of this process; none known where the system has no such file."""
        try:
            lines = source.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        except OSError:
            return cls({})
        types = {}
        for line in lines:
            # proc(5): … mount point is field 5, the type follows the "-" that ends the optional fields.
            fields, _, rest = line.partition(" - ")
            point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields.split(" ")[4])
            types[point] = rest.split(" ")[0]
        return cls(types)

    def is_mount_point(self, path: Path) -> bool:
        """Whether something is mounted at this path, a bind mount of the same file system included."""
        real = os.path.realpath(path)
        return real in self.types or os.path.ismount(real)

    def type_of(self, path: Path) -> str:
        """Type of the file system that holds, or would hold, the path; empty when unknown."""
        real = Path(os.path.realpath(path))
        for candidate in (real, *real.parents):
            if str(candidate) in self.types:
                return self.types[str(candidate)]
        return ""


def check_placement(data_dir: Path, key: Path, *, named: bool, embedded: bool, mounts: Mounts) -> None:
    """Judge where a new installation would put its root key.

    Args:
        data_dir: The data directory, existing or not.
        key: Where the key would be made.
        named: Whether the operator named that place.
        embedded: Whether the data directory holds the data; otherwise a database server does.
        mounts: The mounts of this process.

    Raises:
        Refused: with the flag that helps.
    """
    check_outside(data_dir, key)
    real = Path(os.path.realpath(data_dir))
    if not named and mounts.is_mount_point(real):
        raise Refused(
            f"the data directory {data_dir} is a mount point, so the root key would land outside the volume",
            f"use --data-dir {data_dir}/data, or name a durable place with {_FLAG}",
        )
    if not os.access(_nearest(key.parent), os.W_OK):
        raise Refused(
            f"{key.parent} is not writable, and the root key belongs there",
            f"make it writable, or name another place with {_FLAG}",
        )
    data_type = mounts.type_of(real) if embedded else "server"
    key_type = mounts.type_of(key.parent)
    if key_type in _LOSABLE and data_type not in _LOSABLE:
        raise Refused(
            f"the root key would land on {key_type} ({key.parent}) and be lost before the data is",
            f"name a durable place with {_FLAG}",
        )


def check_outside(data_dir: Path, key: Path) -> None:
    """Refuse a root key, existing or not, inside the data directory.

    Raises:
        Refused: with the flag that helps.
    """
    if _inside(key, Path(os.path.realpath(data_dir))):
        raise Refused(
            f"the root key {key} would lie inside the data directory",
            f"name a place outside with {_FLAG}: a backup must not hold key and data together",
        )


def _inside(path: Path, directory: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(directory)


def _nearest(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path
