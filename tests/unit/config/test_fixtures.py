"""Fixtures files: what they may say, and every mistake at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from qimem.config.fixtures import read_fixtures
from qimem.config.refusal import Misconfigured

WHOLE = """
[realm]
id = "acme"
[roles]
cipher = ["keys:encrypt"]
[client]
id = "shop"
secret = "qcs_x"
tier = "free"
[user]
username = "ada"
password = "hunter2-canary"
"""


def fixtures(tmp_path: Path, text: str):
    (tmp_path / "dev.toml").write_text(text)
    return read_fixtures(tmp_path / "dev.toml")


def test_a_whole_file(tmp_path: Path) -> None:
    read = fixtures(tmp_path, WHOLE)
    assert (read.realm.id, read.client.id, read.client.tier, read.user.roles) == (
        "acme",
        "shop",
        "free",
        ("realm-admin",),
    )
    assert read.client.secret.reveal() == "qcs_x"
    assert read.roles == {"cipher": ["keys:encrypt"]}
    assert "hunter2" not in repr(read)


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    text = '[realm]\nid = "NO"\n[client]\nid = 3\nsecrt = "hunter2-canary"\nroles = "x"\n[usr]\n'
    with pytest.raises(Misconfigured) as caught:
        fixtures(tmp_path, text)
    assert [f"{mistake.option}: {mistake.reason}" for mistake in caught.value.mistakes] == [
        "usr: no such entry; did you mean user?",
        "client.secret: is missing",
        "client.id: expected text",
        "client.secrt: no such entry; did you mean client.secret?",
        "client.roles: expected a list of texts",
        "user.username: is missing",
        "user.password: is missing",
        "realm.id: must match [a-z0-9][a-z0-9-]{0,62}",
    ]
    assert "hunter2" not in caught.value.message


@pytest.mark.parametrize("text", ["[realm", "realm = 1", 'roles = ["x"]', '[roles]\nx = "keys:encrypt"'])
def test_something_else_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(Misconfigured):
        fixtures(tmp_path, text)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="No such file"):
        read_fixtures(tmp_path / "none")
