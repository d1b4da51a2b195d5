"""Secrets in files of their own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qimem.config.load import load
from qimem.config.refusal import Misconfigured
from qimem.config.secret_file import read_line
from qimem.config.transfer import dump, restore

URL = "postgresql://qimem:hunter2@db/qimem"
FILE = "QIMEM_DATABASE__URL_FILE"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def secret(tmp_path: Path, content: bytes | str = URL + "\n", mode: int = 0o600) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(mode)
    return path


def refusal(environ: dict[str, str], flags: dict[str, object] | None = None) -> str:
    with pytest.raises(Misconfigured) as caught:
        load(flags or {}, environ)
    assert "hunter2" not in str(caught.value)
    (mistake,) = caught.value.mistakes
    return str(mistake)


def test_the_url_of_the_database_is_read_from_the_file(tmp_path: Path) -> None:
    path = secret(tmp_path)
    loaded = load({}, {FILE: str(path)})
    assert loaded.settings.database.url is not None
    assert loaded.settings.database.url.reveal() == URL
    assert loaded.origins["database.url"] == str(path)
    assert "hunter2" not in repr(loaded)


def test_the_url_of_valkey_is_read_from_the_file(tmp_path: Path) -> None:
    path = secret(tmp_path, "valkey://qimem:hunter2@counts:6379")
    (tmp_path / "qimem.toml").write_text(f'[limits]\nvalkey_url_file = "{path}"\n')
    found = load({}, {}).settings.limits.valkey_url
    assert found is not None
    assert found.reveal() == "valkey://qimem:hunter2@counts:6379"


def test_workers_are_told_what_was_read(tmp_path: Path) -> None:
    settings = load({}, {FILE: str(secret(tmp_path))}).settings
    restored = restore(dump(settings)).database.url
    assert restored is not None
    assert restored.reveal() == URL


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o440, 0o640])
def test_one_that_its_owner_and_group_read_is_taken(tmp_path: Path, mode: int) -> None:
    assert read_line(secret(tmp_path, mode=mode)) == URL


def test_a_link_is_followed(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(secret(tmp_path))
    assert read_line(link) == URL


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o620, 0o644, 0o660, 0o777])
def test_one_that_is_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    path = secret(tmp_path, mode=mode)
    assert refusal({FILE: str(path)}) == (
        f"{FILE}: database.url_file: {path} is open to others (mode {mode:04o}); chmod 600 {path}"
    )


def test_one_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = secret(tmp_path)
    monkeypatch.setattr(os, "fstat", lambda _: os.stat_result((0o100600, 0, 0, 1, 4321, 0, 1, 0, 0, 0)))
    assert "belongs to another user (uid 4321)" in refusal({FILE: str(path)})


def test_one_that_is_missing_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "nothing"
    assert (
        refusal({FILE: str(path)})
        == f"{FILE}: database.url_file: cannot read {path}: No such file or directory"
    )


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    for path in (pipe, tmp_path):
        assert f"{path} is not a plain file" in refusal({FILE: str(path)})


@pytest.mark.parametrize(
    "content", ["", "\n", f"{URL}\n{URL}\n", f" {URL}", f"{URL}\n\n", f"{URL}\0", b"\xff", "x" * 8193]
)
def test_what_is_no_line_is_refused(tmp_path: Path, content: bytes | str) -> None:
    refusal({FILE: str(secret(tmp_path, content))})


def test_a_line_break_of_windows_is_no_part_of_it(tmp_path: Path) -> None:
    assert read_line(secret(tmp_path, f"{URL}\r\n")) == URL


def test_what_is_no_url_is_refused_like_any_other(tmp_path: Path) -> None:
    path = secret(tmp_path, "mysql://qimem:hunter2@db/qimem")
    assert refusal({FILE: str(path)}) == f"{path}: database.url: expected a postgresql:// URL"


def test_two_places_for_one_url_are_a_contradiction(tmp_path: Path) -> None:
    path = secret(tmp_path)
    said = refusal({FILE: str(path)}, {"database.url": "postgresql://db/other"})
    assert said == f"{FILE}: database.url_file: contradicts --database-url"


def test_an_empty_name_is_told_of_once() -> None:
    assert refusal({FILE: ""}) == f"{FILE}: database.url_file: expected text"


def test_the_hint_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "qimem.toml").write_text(f'[database]\nurl = "{URL}"\n')
    with pytest.raises(Misconfigured) as caught:
        load({}, {})
    assert caught.value.hint == "write the URL into a file of mode 0600, and name that with database.url_file"
