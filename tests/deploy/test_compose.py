"""The compose files: what they refer to is there, and the server takes what they give it."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Any

import pytest

from qimem.config.refusal import Misconfigured
from qimem.kernel.limits import DRAIN_SECONDS
from tests.deploy.files import ADDRESS, DEPLOY, compose, loaded

FILES = ["compose.yaml", "compose.cluster.yaml"]
Service = dict[str, Any]


def whole(name: str, **more: str) -> dict[str, Any]:
    return compose(name, QIMEM_EXTERNAL_URL=ADDRESS, **more)


def nodes(name: str) -> dict[str, Service]:
    return {
        key: service for key, service in whole(name)["services"].items() if service.get("image") == "qimem"
    }


NODES = [(name, node) for name in FILES for node in nodes(name)]


def names(value: Any) -> set[str]:
    """Of a list, or of a table."""
    return set(value)


@pytest.mark.parametrize("name", FILES)
def test_what_a_service_refers_to_is_declared(name: str) -> None:
    file = whole(name)
    used: dict[str, set[str]] = {"volumes": set(), "networks": set(), "secrets": set()}
    for service in file["services"].values():
        used["networks"] |= names(service["networks"])
        used["secrets"] |= names(service.get("secrets", []))
        sources = {mount.split(":")[0] for mount in service.get("volumes", [])}
        used["volumes"] |= {source for source in sources if source[0] not in "./"}
        for source in sources:
            assert not source.startswith(".") or (DEPLOY / source).is_file(), source
        assert names(service.get("depends_on", {})) <= file["services"].keys()
    for kind, found in used.items():
        assert found == names(file.get(kind, {})), kind


@pytest.mark.parametrize("name", FILES)
def test_who_is_waited_for_tells_how_it_is(name: str) -> None:
    services = whole(name)["services"]
    for service in services.values():
        for other, condition in service.get("depends_on", {}).items():
            assert condition == {"condition": "service_healthy"}
            # The image of the server brings its own check.
            assert "healthcheck" in services[other] or services[other]["image"] == "qimem"


@pytest.mark.parametrize("name", FILES)
def test_images_have_a_version_and_no_place(name: str) -> None:
    for service in whole(name)["services"].values():
        image = service["image"]
        assert "build" in service or image.partition(":")[2] not in ("", "latest"), image
        assert "." not in image.partition(":")[0], image


@pytest.mark.parametrize("name", FILES)
def test_no_address_means_no_start(name: str) -> None:
    with pytest.raises(KeyError, match="QIMEM_EXTERNAL_URL"):
        compose(name)


@pytest.mark.parametrize(("name", "node"), NODES)
def test_a_node_has_no_rights_and_writes_to_its_volume_alone(name: str, node: str) -> None:
    service = nodes(name)[node]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["ulimits"]["core"] == 0
    assert all("noexec" in mount for mount in service["tmpfs"])
    assert not {"privileged", "user", "cap_add", "pid", "network_mode"} & service.keys()
    assert int(service["stop_grace_period"].removesuffix("s")) > DRAIN_SECONDS
    (volume,) = service["volumes"]
    assert volume.split(":")[1] == "/var/lib/qimem"


@pytest.mark.parametrize(("name", "node"), NODES)
def test_the_build_is_ours(name: str, node: str) -> None:
    build = nodes(name)[node]["build"]
    context = (DEPLOY / build["context"]).resolve()
    assert (context / build["dockerfile"]) == DEPLOY / "Containerfile"


def with_secrets(service: Service, directory: Path) -> dict[str, str]:
    """The variables, with the places of secrets moved to where this test can write."""
    environment = service["environment"]
    for variable, path in environment.items():
        if path.startswith("/run/secrets/"):
            secret = path.removeprefix("/run/secrets/")
            assert secret in service["secrets"]
            (directory / secret).write_text("postgresql://db/q" if "database" in secret else "valkey://v")
            (directory / secret).chmod(0o400)
            environment[variable] = str(directory / secret)
    return environment


@pytest.mark.parametrize(("name", "node"), NODES)
def test_the_server_takes_command_and_variables(name: str, node: str, tmp_path: Path) -> None:
    service = nodes(name)[node]
    settings = loaded(service["command"], with_secrets(service, tmp_path)).settings
    assert settings.server.external_url == ADDRESS
    assert str(settings.server.data_dir) == "/var/lib/qimem/data"
    if settings.seal.root_key_file is not None:
        assert settings.seal.root_key_file.name in service["secrets"]
    assert not settings.server.allow_plain_http


@pytest.mark.parametrize(("name", "node"), NODES)
def test_one_address_alone_is_believed_about_clients(name: str, node: str) -> None:
    file = whole(name)
    (config,) = file["networks"]["front"]["ipam"]["config"]
    trusted = nodes(name)[node]["environment"]["QIMEM_SERVER__TRUSTED_PROXIES"]
    proxy = file["services"].get("proxy")
    assert trusted == (proxy["networks"]["front"]["ipv4_address"] if proxy else config["gateway"])
    assert ipaddress.ip_address(trusted) in ipaddress.ip_network(config["subnet"])


def test_one_node_is_published_on_this_machine_alone() -> None:
    (port,) = nodes("compose.yaml")["qimem"]["ports"]
    assert port == "127.0.0.1:8080:8080"


def test_of_the_cluster_the_proxy_alone_is_published() -> None:
    services = whole("compose.cluster.yaml")["services"]
    assert [name for name, service in services.items() if "ports" in service] == ["proxy"]
    assert whole("compose.cluster.yaml")["networks"]["back"] == {"internal": True}
    assert {name for name, service in services.items() if "back" in names(service["networks"])} == {
        "qimem-a", "qimem-b", "database", "counts"
    }  # fmt: skip


def test_nodes_share_a_root_key_and_no_volume() -> None:
    first, second = nodes("compose.cluster.yaml").values()
    assert first["command"] == second["command"]
    assert "qimem-root-key" in first["secrets"]
    assert first["volumes"] != second["volumes"]
    assert int(first["environment"]["QIMEM_LIMITS__NODES"]) == len(nodes("compose.cluster.yaml"))


def test_a_slip_in_a_variable_is_found() -> None:
    service = nodes("compose.yaml")["qimem"]
    with pytest.raises(Misconfigured):
        loaded(service["command"], service["environment"] | {"QIMEM_SERVER__TRUSTED_PROXY": "172.31.250.1"})


def test_the_proxy_logs_where_its_image_lets_it() -> None:
    # Its file system is read-only; the one log that the image has under that name leads to its standard output.
    proxy = whole("compose.cluster.yaml")["services"]["proxy"]
    assert proxy["read_only"] is True
    text = (DEPLOY / "nginx/qimem.conf").read_text()
    assert re.findall(r"^\s*(?:access|error)_log (\S+)", text, re.MULTILINE) == ["/var/log/nginx/access.log"]


def test_the_proxy_knows_every_node() -> None:
    known = (DEPLOY / "nginx/nodes.cluster.conf").read_text()
    assert all(f"server {name}:8080 " in known for name in nodes("compose.cluster.yaml"))
