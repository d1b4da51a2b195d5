"""Where an installation is not made, with real mounts: volumes, memory, overlays, read-only places.

The mounts live in a mount namespace of the command's own, so that nobody else sees them.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import psycopg
import pytest

from tests.cli.test_refusals import KEY, SERVE, judge, tree
from tests.support.cli import PROGRAM, Done, clean_environment, qimem


def mounted(mounts: str, *command: str | Path) -> Done:
    """Run a command behind these mounts, which nobody else sees."""
    own = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
    script = f'set -e; {mounts}; exec "$@"'
    done = subprocess.run(
        [*own, "sh", "-c", script, "sh", *PROGRAM, *map(str, command)],
        env=clean_environment(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A place on disk with a directory for data and one for other things."""
    for name in ("data", "disk", "upper", "work"):
        (tmp_path / name).mkdir(mode=0o700)
    kind = subprocess.run(
        ["stat", "-f", "-c", "%T", tmp_path], capture_output=True, text=True, check=True
    ).stdout
    assert kind.strip() not in {"tmpfs", "overlayfs", "ramfs"}, (
        "temporary files must be on a disk for these tests"
    )
    return tmp_path


def mount(place: Path, kind: str, at: str) -> str:
    match kind:
        case "tmpfs":
            return f"mount -t tmpfs tmpfs {place}/{at}"
        case "bind":
            return f"mount --bind {place}/disk {place}/{at}"
        case "read-only":
            return f"mount --bind {place}/{at} {place}/{at}; mount -o remount,bind,ro {place}/{at}"
        case _:
            layers = f"lowerdir={place}/data,upperdir={place}/upper,workdir={place}/work"
            return f"mount -t overlay -o {layers} overlay {place}/{at}"


@pytest.mark.parametrize(("kind", "command"), [("tmpfs", SERVE), ("bind", SERVE), ("bind", ("init",))])
def test_a_mount_point_is_no_data_directory(place: Path, kind: str, command: tuple[str, ...]) -> None:
    before = tree(place)
    done = mounted(mount(place, kind, "data"), *command, "--data-dir", place / "data")
    judge(done, "is a mount point", f"--data-dir {place}/data/data")
    assert "--root-key-file" in done.err
    assert tree(place) == before


@pytest.mark.parametrize("kind", ["tmpfs", "overlay"])
def test_a_key_is_not_made_where_it_is_lost_before_the_data(place: Path, kind: str) -> None:
    before = tree(place / "data")
    key = place / "disk" / "root.key"
    done = mounted(mount(place, kind, "disk"), "init", "--data-dir", place / "data", "--root-key-file", key)
    judge(done, "lost before the data is", "--root-key-file")
    assert tree(place / "data") == before
    assert not list(place.glob("upper/*"))
    assert not list(place.glob("*.key"))


def test_a_key_of_data_on_postgresql_is_not_made_in_memory(place: Path, postgres_url: str) -> None:
    command = ("init", "--data-dir", place / "disk" / "data", "--database-url", postgres_url)
    judge(mounted(mount(place, "tmpfs", "disk"), *command), "would land on tmpfs", "--root-key-file")
    with psycopg.connect(postgres_url) as connection:
        assert connection.execute(
            "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
        ).fetchone() == (0,)


def test_a_read_only_place_is_refused(place: Path) -> None:
    before = tree(place)
    done = mounted(mount(place, "read-only", "disk"), *SERVE, "--data-dir", place / "disk" / "data")
    judge(done, "Read-only file system", "--data-dir")
    assert tree(place) == before


def test_a_read_only_place_for_the_key_is_refused(place: Path) -> None:
    before = tree(place)
    named = ("--root-key-file", place / "disk" / "root.key")
    done = mounted(mount(place, "read-only", "disk"), "init", "--data-dir", place / "data", *named)
    judge(done, "is not writable", "--root-key-file")
    assert tree(place) == before


def test_a_key_inside_the_data_directory_is_refused(place: Path) -> None:
    before = tree(place)
    done = qimem("init", "--data-dir", place / "data", "--root-key-file", place / "data" / "root.key")
    judge(done, "inside the data directory", "--root-key-file")
    assert tree(place) == before


def test_a_key_put_inside_the_data_directory_is_refused_too(place: Path) -> None:
    key = place / "data" / "root.key"
    key.write_bytes(KEY)
    key.chmod(0o600)
    before = tree(place)
    judge(
        qimem("init", "--data-dir", place / "data", "--root-key-file", key),
        "inside the data",
        "--root-key-file",
    )
    assert tree(place) == before


def test_data_below_a_mount_point_have_their_key_on_the_same_volume(place: Path) -> None:
    done = mounted(mount(place, "bind", "data"), "init", "--data-dir", place / "data" / "data")
    assert done.code == 0, done.err
    assert {path.name for path in (place / "disk").iterdir()} == {"data", "data.root.key"}


def test_a_mount_point_with_a_key_named_elsewhere_is_fine(place: Path) -> None:
    named = ("--root-key-file", place / "root.key")
    done = mounted(mount(place, "bind", "data"), "init", "--data-dir", place / "data", *named)
    assert done.code == 0, done.err
    assert {path.name for path in (place / "disk").iterdir()} == {"qimem.db"}
    assert (place / "root.key").stat().st_size == 32
