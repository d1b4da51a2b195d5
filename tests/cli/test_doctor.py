"""`qimem doctor` finds what is wrong, says what to do, and changes nothing."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import httpx
import pytest

from qimem.cli import examination
from qimem.cli.examination import Finding
from qimem.config.schema import AuditSettings, ServerSettings, Settings
from tests.support.cli import qimem
from tests.support.server import Server


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("doctor")
    assert qimem("init", "--data-dir", directory / "data").code == 0
    return directory


def found(data: Path, *arguments: str) -> tuple[int, dict[str, dict[str, str]]]:
    done = qimem("doctor", "--data-dir", data, "-o", "json", *arguments)
    return done.code, {row["check"]: row for row in done.json}


def copy(made: Path, tmp_path: Path) -> Path:
    subprocess.run(["cp", "-a", f"{made}/.", tmp_path], check=True)
    return tmp_path / "data"


def test_a_sound_installation_has_no_failed_check(made: Path) -> None:
    code, rows = found(made / "data")
    assert code == 0
    assert not [row for row in rows.values() if row["state"] == "fail"]
    assert rows["root key match"]["state"] == "ok"
    assert rows["write-ahead log"]["state"] == "ok"
    assert rows["database engine"]["detail"].startswith("SQLite 3.")


@pytest.mark.parametrize(
    ("fault", "check", "advice"),
    [
        ("loose directory", "data directory", "chmod 700"),
        ("loose file", "data files", "chmod -R go="),
        ("loose key", "root key", "chmod 600"),
        ("missing key", "root key", "--root-key-file"),
        ("wrong key", "root key match", "--root-key-file"),
        ("broken database", "database", "backup"),
        ("no database", "database", "qimem init"),
    ],
)
def test_a_fault_is_found_with_advice_and_ends_with_1(
    made: Path, tmp_path: Path, fault: str, check: str, advice: str
) -> None:
    data, key = copy(made, tmp_path), tmp_path / "data.root.key"
    match fault:
        case "loose directory":
            data.chmod(0o755)
        case "loose file":
            (data / "qimem.db").chmod(0o640)
        case "loose key":
            key.chmod(0o640)
        case "missing key":
            key.unlink()
        case "wrong key":
            key.write_bytes(os.urandom(32))
        case "broken database":
            (data / "qimem.db").write_bytes(b"no database at all, but long enough to be looked at" * 100)
        case "no database":
            for path in data.iterdir():
                path.unlink()
    code, rows = found(data)
    assert code == 1
    assert rows[check]["state"] == "fail"
    assert advice in rows[check]["advice"]


def test_a_credentials_file_left_behind_is_a_warning(made: Path, tmp_path: Path) -> None:
    data = copy(made, tmp_path)
    (tmp_path / "data.credentials.json").write_text("{}")
    code, rows = found(data)
    assert code == 0
    assert rows["credentials file"]["state"] == "warn"


def audit_space(settings: Settings, monkeypatch: pytest.MonkeyPatch, free: int, growth: float) -> Finding:
    monkeypatch.setattr(examination, "free_bytes", lambda _: free)
    monkeypatch.setattr(examination, "growth", lambda _log, _now: growth)
    (found,) = [
        each for each in asyncio.run(examination.examine(settings)) if each.check == "audit log space"
    ]
    return found


@pytest.mark.parametrize(
    ("free", "growth", "state"),
    [
        (2 << 30, 0.0, "ok"),
        (2 << 30, 1.0, "ok"),
        (1000 << 20, 0.0, "warn"),
        (2 << 30, (2 << 30) / 80_000, "warn"),
        (60 << 20, 0.0, "fail"),
    ],
    ids=["idle", "slow", "below a gigabyte", "less than a day", "below the reserve"],
)
def test_room_for_the_audit_log(
    made: Path, monkeypatch: pytest.MonkeyPatch, free: int, growth: float, state: str
) -> None:
    (made / "data" / "audit").mkdir(mode=0o700, exist_ok=True)
    settings = Settings(server=ServerSettings(data_dir=made / "data", workers=2))
    finding = audit_space(settings, monkeypatch, free, growth)
    assert finding.state == state
    assert ("audit.retention_days" in finding.advice) == (state != "ok")


@pytest.mark.parametrize(
    ("directory", "state"),
    [("here", "warn"), ("/proc", "ok"), ("absent", "fail")],
    ids=["same", "other", "absent"],
)
def test_where_checkpoints_are_kept(made: Path, tmp_path: Path, directory: str, state: str) -> None:
    (made / "data" / "audit").mkdir(mode=0o700, exist_ok=True)
    (tmp_path / "here").mkdir()
    kept = AuditSettings(checkpoint_file=tmp_path / directory / "kept.jsonl")
    settings = Settings(server=ServerSettings(data_dir=made / "data"), audit=kept)
    assert [found.state for found in examination._checkpoints(settings)] == [state]


def test_it_works_beside_a_running_server(tmp_path: Path) -> None:
    server = Server(tmp_path).start()
    try:
        code, rows = found(server.data)
        assert code == 0
        assert rows["external URL"]["detail"].startswith(server.url)
        assert httpx.get(f"{server.url}/health").status_code == 200
    finally:
        server.stop()


def test_a_table_is_printed_for_people(made: Path) -> None:
    done = qimem("doctor", "--data-dir", made / "data")
    assert done.out.splitlines()[0].split() == ["check", "state", "detail", "advice"]
