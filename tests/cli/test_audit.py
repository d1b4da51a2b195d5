"""`qimem audit`: verify, export and tail look at the files of a node, with the server running or not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.api import World
from tests.support.cli import qimem
from tests.support.server import Server, ok


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A server that did a few things and ended."""
    server = Server(tmp_path_factory.mktemp("audited")).start()
    world = World(server)
    for name in ("one", "two", "three"):
        ok(world.operator.post("/v1/security/keys", json={"name": name}))
    realm = world.person().realm_id
    world.close()
    server.stop()
    assert realm
    return server


@pytest.fixture
def data(stopped: Server, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stopped.data, tmp_path / "data"))


def lines(done: Any) -> list[dict[str, Any]]:
    assert done.code == 0, done.err
    return [json.loads(line) for line in done.out.splitlines()]


def audit(*arguments: object) -> Any:
    return qimem("audit", *map(str, arguments))


def test_an_untouched_log_is_good(data: Path) -> None:
    (stream,) = lines(audit("verify", "--data-dir", data, "-o", "jsonl"))
    assert (stream["state"], stream["unanchored"], stream["torn_bytes"]) == ("ok", 0, 0)
    assert stream["records"] == len(lines(audit("export", "--data-dir", data)))


@pytest.mark.parametrize("command", ["verify", "export", "tail"])
def test_a_place_without_a_log_is_no_empty_log(command: str, tmp_path: Path) -> None:
    done = audit(command, "--data-dir", tmp_path)
    assert (done.code, done.out) == (78, "")
    assert "--data-dir" in done.err


def test_the_data_are_where_the_environment_says(data: Path) -> None:
    there = {"QIMEM_SERVER__DATA_DIR": str(data)}
    assert lines(qimem("audit", "export", **there)) == lines(audit("export", "--data-dir", data))
    assert len(lines(qimem("audit", "tail", "-n", "2", **there))) == 2
    assert qimem("audit", "verify", **there).code == 0


def test_without_a_key_from_elsewhere_it_says_whom_it_trusted(data: Path) -> None:
    assert "--public-key" in audit("verify", "--data-dir", data).err
    key = shutil.copy(data / "audit" / "public-key.jwk", data.parent / "kept.jwk")
    done = audit("verify", "--data-dir", data, "--public-key", key)
    assert (done.code, done.err) == (0, "")


def test_a_changed_record_ends_with_one(data: Path) -> None:
    (segment,) = (data / "audit").glob("s*/0*.jsonl")
    segment.write_bytes(segment.read_bytes().replace(b"keys.create", b"keys.rotate", 1))
    done = audit("verify", "--data-dir", data, "-o", "jsonl")
    assert done.code == 1
    assert json.loads(done.out)["state"] == "altered"


def test_a_stream_that_an_anchor_knows_and_the_log_does_not_is_missed(data: Path) -> None:
    anchor = shutil.copytree(data / "audit" / "heads", data.parent / "heads")
    (stream,) = (data / "audit").glob("s*")
    shutil.rmtree(stream)
    shutil.rmtree(data / "audit" / "heads")
    assert audit("verify", "--data-dir", data).code == 0
    done = audit("verify", "--data-dir", data, "--anchor", anchor, "-o", "jsonl")
    assert done.code == 1
    assert json.loads(done.out)["fault"] == "the stream is gone"


def test_checkpoints_that_were_kept_elsewhere_are_looked_for(data: Path) -> None:
    kept = data.parent / "kept.jsonl"
    (head,) = (data / "audit" / "heads").glob("*")
    kept.write_bytes(head.read_bytes() + b"\n" + head.read_bytes()[:40])
    done = audit("verify", "--data-dir", data, "--checkpoints", kept)
    assert done.code == 0
    assert f"{kept}: 1 checkpoints were looked for" in done.err
    assert "line 2 holds no checkpoint" in done.err
    kept.write_bytes(head.read_bytes().replace(b'"number":', b'"number":9'))
    done = audit("verify", "--data-dir", data, "--checkpoints", kept)
    assert done.code == 1
    assert "line 1: the checkpoint is not signed with this key" in done.err


def test_a_file_without_a_checkpoint_proves_nothing(data: Path) -> None:
    kept = data.parent / "kept.jsonl"
    kept.write_bytes(b"\n")
    done = audit("verify", "--data-dir", data, "--checkpoints", kept)
    assert done.code == 1
    assert "0 checkpoints were looked for" in done.err
    assert audit("verify", "--data-dir", data, "--checkpoints", data / "absent").code == 78


@pytest.mark.parametrize("arguments", [("verify",), ("verify", "--public-key", "no-such-file")])
def test_what_cannot_be_checked_is_refused(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = audit(*arguments, "--data-dir", tmp_path)
    assert done.code == 78
    assert "hint:" in done.err


def test_export_prints_all_or_a_realm_or_a_time(data: Path) -> None:
    everything = lines(audit("export", "--data-dir", data))
    assert len(everything) >= 8
    system = lines(audit("export", "--data-dir", data, "--realm", "system"))
    assert {record["realm"] for record in system} == {"system"}
    assert len(system) < len(everything)
    middle = everything[3]["at"]
    since = lines(audit("export", "--data-dir", data, "--since", middle))
    until = lines(audit("export", "--data-dir", data, "--until", middle))
    assert until + since == everything
    assert audit("export", "--data-dir", data, "--since", "yesterday").code == 2


def test_export_leaves_out_what_is_damaged_and_says_so(data: Path) -> None:
    everything = lines(audit("export", "--data-dir", data))
    (segment,) = (data / "audit").glob("s*/0*.jsonl")
    hit = everything[3]["id"].encode()
    segment.write_bytes(segment.read_bytes().replace(b'"id":"%b"' % hit, b'"id":"%b#' % hit))
    done = audit("export", "--data-dir", data)
    assert done.code == 1
    assert [json.loads(line) for line in done.out.splitlines()] == everything[:3] + everything[4:]
    (said,) = done.err.splitlines()
    assert "audit segment 1 of s" in said
    done = audit("tail", "--data-dir", data, "-n", 3)
    assert (done.code, len(done.err.splitlines())) == (0, 1)


def test_export_says_when_a_segment_cannot_be_read(data: Path) -> None:
    (segment,) = (data / "audit").glob("s*/0*.jsonl")
    segment.rename(f"{segment}.gz")
    done = audit("export", "--data-dir", data)
    assert (done.code, done.out) == (1, "")
    assert "cannot be read" in done.err


def test_tail_prints_the_last_ones(data: Path) -> None:
    everything = lines(audit("export", "--data-dir", data))
    assert lines(audit("tail", "--data-dir", data, "-n", 2)) == everything[-2:]
    assert lines(audit("tail", "--data-dir", data, "-n", 0)) == []


def test_tail_follows_a_running_server(tmp_path: Path) -> None:
    server = Server(tmp_path).start()
    try:
        world = World(server)
        command = [
            sys.executable,
            "-m",
            "qimem",
            "audit",
            "tail",
            "--data-dir",
            str(server.data),
            "-n",
            "1",
            "-f",
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as tail:
            assert tail.stdout is not None
            assert json.loads(tail.stdout.readline())["event"] == "tokens.issue"
            for name in ("one", "two"):
                ok(world.operator.post("/v1/security/keys", json={"name": name}))
                assert json.loads(tail.stdout.readline())["event"] == "keys.create"
            tail.kill()
    finally:
        server.stop()


def test_an_empty_directory_has_no_records(tmp_path: Path) -> None:
    (tmp_path / "audit").mkdir()
    assert lines(audit("export", "--data-dir", tmp_path)) == []
    assert lines(audit("tail", "--data-dir", tmp_path)) == []
