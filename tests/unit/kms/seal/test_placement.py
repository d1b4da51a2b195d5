"""A new root key is not made where it would be lost, or lie with the data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qimem.kernel.refusal import Refused
from qimem.kms.seal.placement import Mounts, check_placement

DISK = {"/": "ext4"}
CONTAINER = {"/": "overlay", "/proc": "proc", "/var/lib/qimem": "ext4"}


def check(
    data: str | Path, key: str | Path | None = None, mounts=None, *, named=False, embedded=True
) -> None:
    place = Path(key or f"{data}.root.key")
    check_placement(Path(data), place, named=named, embedded=embedded, mounts=Mounts(mounts or DISK))


def refusal(*arguments, **named) -> Refused:
    with pytest.raises(Refused) as caught:
        check(*arguments, **named)
    assert "--root-key-file" in caught.value.hint
    return caught.value


def test_beside_a_directory_on_the_same_disk_is_fine(tmp_path: Path) -> None:
    check(tmp_path / "data")


def test_a_mount_point_as_data_directory_is_refused(tmp_path: Path) -> None:
    real = os.path.realpath(tmp_path)
    refused = refusal(tmp_path / "data", mounts=DISK | {f"{real}/data": "ext4"})
    assert "mount point" in refused.message
    assert f"--data-dir {tmp_path}/data/data" in refused.hint


def test_a_linked_mount_point_is_seen(tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(tmp_path / "volume")
    assert "mount point" in refusal(tmp_path / "data", mounts=DISK | {f"{tmp_path}/volume": "xfs"}).message


def test_a_mount_point_with_a_named_key_elsewhere_is_fine(tmp_path: Path) -> None:
    check(tmp_path / "data", tmp_path / "key", DISK | {f"{tmp_path}/data": "ext4"}, named=True)


def test_a_named_key_inside_the_data_directory_is_refused(tmp_path: Path) -> None:
    assert "inside" in refusal(tmp_path / "data", tmp_path / "data" / "key", named=True).message
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    assert "inside" in refusal(tmp_path / "data", tmp_path / "link" / "key", named=True).message


def test_the_container_layout_of_the_handbook_is_fine() -> None:
    if os.access("/var/lib", os.W_OK):
        check("/var/lib/qimem/data", mounts=CONTAINER)


@pytest.mark.parametrize("losable", ["overlay", "tmpfs", "ramfs"])
def test_a_key_that_is_lost_before_the_data_is_refused(tmp_path: Path, losable: str) -> None:
    mounts = {"/": "ext4", f"{tmp_path}/run": losable}
    (tmp_path / "run").mkdir()
    refused = refusal(tmp_path / "data", tmp_path / "run" / "key", mounts, named=True)
    assert losable in refused.message


def test_a_key_in_the_container_beside_a_database_server_is_refused(tmp_path: Path) -> None:
    assert "overlay" in refusal(tmp_path / "data", mounts={"/": "overlay"}, embedded=False).message


def test_key_and_data_that_are_lost_together_are_fine(tmp_path: Path) -> None:
    check(tmp_path / "data", mounts={"/": "overlay"})


def test_an_unwritable_parent_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "not writable" in refusal(tmp_path / "data").message


def test_mounts_are_read_as_the_kernel_writes_them(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(
        "22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"
        "30 22 0:26 / /with\\040space rw shared:5 master:1 - tmpfs tmpfs rw,size=1k\n"
        "31 22 254:0 /sub /bind rw - ext4 /dev/vda rw\n"
    )
    mounts = Mounts.read(table)
    assert mounts.types == {"/": "ext4", "/with space": "tmpfs", "/bind": "ext4"}
    assert mounts.is_mount_point(Path("/bind"))
    assert not mounts.is_mount_point(tmp_path)
    assert mounts.type_of(Path("/with space/deep/er")) == "tmpfs"
    assert Mounts.read(tmp_path / "none").types == {}


def test_this_system_has_a_root_mount() -> None:
    assert Mounts.read().is_mount_point(Path("/"))
    assert Mounts.read().type_of(Path("/"))
