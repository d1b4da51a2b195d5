"""Checkpoints leave the node: a file and a URL get them, and tell a log that was taken back with all that is beside it."""

from __future__ import annotations

import hashlib
import hmac
import json
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.cli import qimem
from tests.support.processes import eventually
from tests.support.server import Server, ok
from tests.support.strange_server import Authority, StrangeServer, body_of

SECRET = b"a secret that both sides know"
KEYS = "/v1/security/keys"


class Node:
    """A server that brings its checkpoints to a file and to a URL on this machine."""

    def __init__(self, directory: Path, hook: StrangeServer, authority: Authority, workers: int = 1) -> None:
        self.kept = directory / "kept.jsonl"
        secret = directory / "secret"
        secret.write_bytes(SECRET + b"\n")
        secret.chmod(0o600)
        configuration = directory / "qimem.toml"
        configuration.write_text(
            f"""
            [audit]
            checkpoint_file = "{self.kept}"
            checkpoint_url = "https://127.0.0.1:{hook.port}/in?token=hunter2"
            checkpoint_secret_file = "{secret}"
            checkpoint_seconds = 1
            [outbound]
            allow_networks = ["127.0.0.0/8"]
            ca_file = "{authority.file}"
            """
        )
        extra = ("--config", str(configuration), "--admin-bind", "127.0.0.1:0")
        self.server = Server(directory, workers=workers, extra=extra)

    def start(self) -> None:
        self.server.start()
        told = [line for line in self.server.lines if line.startswith("metrics ")]
        self.metrics = told[-1].removeprefix("metrics ")
        self.operator = self.server.client(self.server.token())

    def make(self, name: str) -> None:
        ok(self.operator.post(KEYS, json={"name": name}))

    def has(self) -> list[dict[str, Any]]:
        lines = self.kept.read_bytes().splitlines() if self.kept.exists() else []
        return [json.loads(line)["checkpoint"] for line in lines]

    def measured(self, name: str, **labels: str) -> float:
        families = text_string_to_metric_families(httpx.get(self.metrics).text)
        found = [each for family in families for each in family.samples if each.name == name]
        return max(each.value for each in found if labels.items() <= each.labels.items())

    def verified(self, *arguments: object) -> Any:
        return qimem("audit", "verify", "--data-dir", self.server.data, "-o", "jsonl", *arguments)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def test_a_log_that_was_taken_back_is_found_by_what_left_the_node(
    tmp_path: Path, authority: Authority
) -> None:
    with StrangeServer(authority) as hook:
        node = Node(tmp_path, hook, authority)
        node.start()
        node.make("one")
        eventually(lambda: node.has() and hook.requests)
        assert node.server.stop() == 0
        before = tmp_path / "before"
        shutil.copytree(node.server.data / "audit", before)
        node.start()
        node.make("two")
        eventually(lambda: len({each["number"] for each in node.has()}) > 1)
        node.make("three")
        assert node.server.stop() == 0

    # The end of the server has brought the very last one.
    (head,) = (node.server.data / "audit" / "heads").iterdir()
    assert node.kept.read_bytes().splitlines()[-1] == head.read_bytes()
    assert body_of(hook.requests[-1]) == head.read_bytes()
    for request in hook.requests:
        signature = hmac.new(SECRET, body_of(request), hashlib.sha256).hexdigest()
        assert f"X-Qimem-Signature: sha256={signature}\r\n".encode() in request
        assert request.startswith(b"POST /in?token=hunter2 HTTP/1.1\r\n")

    posted = tmp_path / "posted.jsonl"
    posted.write_bytes(b"\n".join(map(body_of, hook.requests)))
    for file in (node.kept, posted):
        done = node.verified("--checkpoints", file)
        assert done.code == 0, done.err
    shutil.rmtree(node.server.data / "audit")
    shutil.copytree(before, node.server.data / "audit")
    assert node.verified().code == 0
    for file in (node.kept, posted):
        done = node.verified("--checkpoints", file)
        assert done.code == 1
        assert "is behind its end" in json.loads(done.out)["fault"]
    log = node.server.log.read_text()
    assert "hunter2" not in log + done.err
    assert SECRET.decode() not in log


def test_sinks_that_take_nothing_delay_nobody_and_are_told(tmp_path: Path, authority: Authority) -> None:
    refusing = b"HTTP/1.1 500 x\r\nContent-Length: 0\r\n\r\n"
    with StrangeServer(authority, refusing) as hook:
        node = Node(tmp_path, hook, authority, workers=2)
        node.kept.mkdir()
        node.start()
        for number in range(5):
            node.make(f"k{number}")
        for sink in ("file", "url"):
            name = f"qimem_worker_checkpoint_{sink}_late_seconds"
            eventually(
                lambda sink=sink: node.measured("qimem_checkpoint_failures_total", sink=sink) >= 2, seconds=15
            )
            eventually(lambda name=name: node.measured(name) > 0, seconds=10)
        node.kept.rmdir()
        hook.answer = b"HTTP/1.1 204 x\r\n\r\n"
        for sink in ("file", "url"):
            name = f"qimem_worker_checkpoint_{sink}_late_seconds"
            eventually(lambda name=name: node.measured(name) == 0, seconds=30)
        assert node.has()
        assert node.server.stop() == 0
    log = node.server.log.read_text()
    assert log.count("checkpoints do not reach audit.checkpoint_url: it answered 500") == 1
    assert log.count("checkpoints do not reach audit.checkpoint_file") == 1
    assert node.verified("--checkpoints", node.kept).code == 0
