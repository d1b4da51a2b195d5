"""Which custody is chosen."""

from __future__ import annotations

from pathlib import Path

import pytest

from qimem.kernel.refusal import Refused
from qimem.kms.seal.custody import CREDENTIAL_NAME, beside, choose


def chosen(data_dir: Path, source="auto", root_key_file=None, environ=None, explicit=False):
    return choose(
        data_dir, source=source, root_key_file=root_key_file, environ=environ or {}, explicit=explicit
    )


def credentials(tmp_path: Path, mode: int = 0o400) -> dict[str, str]:
    (tmp_path / "creds").mkdir()
    (tmp_path / "creds" / CREDENTIAL_NAME).write_bytes(b"k" * 32)
    (tmp_path / "creds" / CREDENTIAL_NAME).chmod(mode)
    return {"CREDENTIALS_DIRECTORY": str(tmp_path / "creds")}


def test_by_default_the_key_lies_beside_the_data_directory(tmp_path: Path) -> None:
    assert chosen(tmp_path / "data").location == f"{tmp_path}/data.root.key"


def test_a_linked_data_directory_has_its_key_beside_the_real_one(tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    (tmp_path / "data").symlink_to(tmp_path / "volume")
    assert beside(tmp_path / "data") == tmp_path / "volume.root.key"


def test_a_service_credential_is_taken_when_there_is_one(tmp_path: Path) -> None:
    environ = credentials(tmp_path)
    seal = chosen(tmp_path / "data", environ=environ)
    assert seal.location == f"{tmp_path}/creds/{CREDENTIAL_NAME}"
    assert seal.load().equals(b"k" * 32)
    with pytest.raises(Refused):
        seal.create()


def test_a_credential_with_an_access_list_is_read(tmp_path: Path) -> None:
    assert len(chosen(tmp_path / "data", environ=credentials(tmp_path, 0o440)).load()) == 32


@pytest.mark.parametrize("mode", [0o444, 0o460, 0o402])
def test_a_loose_credential_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(Refused, match="open to others"):
        chosen(tmp_path / "data", environ=credentials(tmp_path, mode)).load()


def test_other_credentials_of_the_service_change_nothing(tmp_path: Path) -> None:
    seal = chosen(tmp_path / "data", environ={"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert seal.location == f"{tmp_path}/data.root.key"


def test_a_wanted_credential_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no CREDENTIALS_DIRECTORY") as caught:
        chosen(tmp_path / "data", source="credential")
    assert "LoadCredential=" in caught.value.hint
    with pytest.raises(Refused, match="is missing"):
        chosen(tmp_path / "data", "credential", environ={"CREDENTIALS_DIRECTORY": str(tmp_path)}).load()


def test_a_file_source_ignores_credentials(tmp_path: Path) -> None:
    assert chosen(tmp_path / "data", "file", environ=credentials(tmp_path)).location.endswith("data.root.key")


def test_a_named_file_wins_and_is_made_only_on_request(tmp_path: Path) -> None:
    named = tmp_path / "keys" / "root"
    seal = chosen(tmp_path / "data", root_key_file=named, environ=credentials(tmp_path))
    assert seal.location == str(named)
    with pytest.raises(Refused, match="no root key"):
        seal.create()
    named.parent.mkdir()
    assert len(chosen(tmp_path / "data", root_key_file=named, explicit=True).create()) == 32
