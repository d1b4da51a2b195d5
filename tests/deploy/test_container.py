"""The image's command on a volume, as an engine would run it: read-only, without rights, and again after `down`.

The layer and the volume are real mounts, so what is refused for a container's own layer is refused here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.deploy.files import ADDRESS, compose, only
from tests.support.containers import Container
from tests.support.server import ok

USER = 10001
PATH = {"PATH": "/opt/qimem/bin:/usr/bin:/bin"}
SERVICE = compose("compose.yaml", QIMEM_EXTERNAL_URL=ADDRESS)["services"]["qimem"]
COMMAND = [*only("ENTRYPOINT").words, *SERVICE["command"]]
ENVIRONMENT = PATH | SERVICE["environment"]

Make = Callable[..., Container]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Container] = []

    def new(volume: str = "volume", **more: Any) -> Container:
        container = Container(tmp_path / f"layer-{len(made)}", tmp_path / volume, USER, **more)
        made.append(container)
        return container

    yield new
    for container in made:
        container.kill()


def healthy(container: Container) -> bool:
    return container.run(only("HEALTHCHECK").words, PATH).returncode == 0


def token(container: Container) -> str:
    command = ["qimem", "token", "--credentials", "/var/lib/qimem/data.credentials.json"]
    done = container.run([*command, "--server", "http://127.0.0.1:8080"], PATH)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def call(container: Container, bearer: str, path: str, body: dict[str, str]) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {bearer}"}
    with container.network(), httpx.Client(base_url="http://127.0.0.1:8080", headers=headers) as client:
        return ok(client.post(path, json=body))


def test_data_and_root_key_outlive_the_container_and_no_new_key_is_made_for_them(make: Make) -> None:
    first = make()
    first.start(COMMAND, ENVIRONMENT)
    assert "credentials /var/lib/qimem/data.credentials.json" in first.ready()
    assert healthy(first)
    bearer = token(first)
    call(first, bearer, "/v1/security/keys", {"name": "orders"})
    envelope = call(first, bearer, "/v1/security/encrypt", {"name": "orders", "input": "4111"})["envelope"]
    # Process number 1 ignores every signal that it has no handler for.
    assert first.stop() == 0

    second = make()
    second.start(COMMAND, ENVIRONMENT)
    second.ready()
    answer = call(second, bearer, "/v1/security/decrypt", {"envelope": envelope})
    assert answer["plaintext"] == "4111"
    assert second.stop() == 0
    kept = {path.name: path.stat() for path in second.volume.iterdir()}
    assert {"data", "data.root.key", "data.credentials.json"} == kept.keys()
    assert all(status.st_uid == USER and status.st_mode & 0o077 == 0 for status in kept.values())

    (second.volume / "data.root.key").unlink()
    third = make()
    third.start(COMMAND, ENVIRONMENT)
    assert third.ended() == 78
    assert "root key /var/lib/qimem/data.root.key is missing" in third.errors
    assert not (third.volume / "data.root.key").exists()


def test_the_image_runs_with_nothing_but_a_volume(make: Make) -> None:
    container = make()
    container.start(
        [*only("ENTRYPOINT").words, *only("CMD").words],
        PATH | {"QIMEM_SERVER__TRUSTED_PROXIES": "172.31.250.1"},
    )
    container.ready()
    assert healthy(container)
    status = dict(
        line.split(":\t")
        for line in Path(f"/proc/{container.pid}/status").read_text().splitlines()
        if ":\t" in line
    )
    assert status["Uid"].split() == [str(USER)] * 4
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert container.run(["touch", "/opt/x"], PATH).returncode != 0
    assert container.stop() == 0


def test_a_container_that_serves_other_machines_in_the_clear_is_refused(make: Make) -> None:
    container = make()
    container.start([*only("ENTRYPOINT").words, *only("CMD").words], PATH)
    assert container.ended() == 78
    assert "trusted_proxies" in container.errors


def test_a_root_key_that_would_go_with_the_container_is_not_made(make: Make) -> None:
    container = make()
    command = ["/var/lib/qimem" if word == "/var/lib/qimem/data" else word for word in COMMAND]
    container.start(command, ENVIRONMENT)
    assert container.ended() == 78
    assert "/var/lib/qimem is a mount point" in container.errors
    assert not list(container.volume.iterdir())
