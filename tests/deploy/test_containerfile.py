"""The Containerfile: what it copies is there, who runs is nobody, and its commands are ours."""

from __future__ import annotations

import re
import tomllib
from fnmatch import fnmatch
from pathlib import PurePosixPath

import click
import pytest

from tests.architecture.sources import ROOT
from tests.deploy.files import DEPLOY, containerfile, loaded, only, parsed


def copied() -> list[str]:
    """What is copied from the tree."""
    found = []
    for instruction in containerfile():
        if instruction.name == "COPY" and "--from=" not in instruction.text:
            found += instruction.text.split()[:-1]
    return found


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps it out; the last line that matches decides."""
    verdict = False
    parents = [path, *map(str, PurePosixPath(path).parents)]
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        if line and not line.startswith("#") and any(fnmatch(each, pattern) for each in parents):
            verdict = not line.startswith("!")
    return verdict


def test_what_is_copied_exists_and_is_sent() -> None:
    assert copied()
    for path in copied():
        assert (ROOT / path).exists(), path
        assert not ignored(path.rstrip("/")), path


def test_all_that_the_installation_needs_is_copied() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {
        "pyproject.toml",
        "src/",
        "requirements/",
        "deploy/install",
        project["readme"],
        *project["license-files"],
    }
    assert needed == set(copied())


@pytest.mark.parametrize(
    "path", ["data", "data.root.key", ".git", ".venv", "docs", "deploy/compose.yaml", "qimem.toml"]
)
def test_data_keys_and_history_are_not_sent(path: str) -> None:
    assert ignored(path)


def test_every_image_is_named_without_a_place_and_with_a_version() -> None:
    bases = [instruction.text.split()[0] for instruction in containerfile() if instruction.name == "FROM"]
    assert set(bases) == {"python:3.13-slim"}


def test_the_user_is_nobody_in_particular_and_stays_the_same() -> None:
    assert only("USER").text == "10001:10001"
    names = [instruction.name for instruction in containerfile()]
    # What comes after it runs with its rights alone.
    assert "RUN" not in names[names.index("USER") :]
    assert "10001" in (DEPLOY / "make-secrets").read_text()


def test_nothing_that_runs_asks_for_a_shell() -> None:
    for name in ("ENTRYPOINT", "CMD", "HEALTHCHECK"):
        assert only(name).words, name
    assert only("ENTRYPOINT").words == ["qimem"]


def test_the_command_is_one_of_ours() -> None:
    given = parsed(only("CMD").words)
    assert given["data_dir"] == "/var/lib/qimem/data"
    assert only("VOLUME").text == "/var/lib/qimem"
    settings = loaded(only("CMD").words, {"QIMEM_SERVER__TRUSTED_PROXIES": "172.31.250.1"}).settings
    assert only("EXPOSE").text == str(settings.server.bind.port)
    assert f"127.0.0.1:{settings.server.bind.port}/health" in only("HEALTHCHECK").words[-1]


def test_a_command_that_is_not_ours_is_found() -> None:
    with pytest.raises(click.UsageError):
        parsed(["serve", "--data-directory", "/var/lib/qimem/data"])


def test_the_signal_is_the_one_that_drains() -> None:
    assert only("STOPSIGNAL").text == "SIGTERM"


def test_no_package_comes_without_its_hash() -> None:
    script = (DEPLOY / "install").read_text()
    installs = re.findall(r"^pip (?:--python \S+ )?install (.*)$", script, flags=re.MULTILINE)
    assert len(installs) == 3
    assert all("--require-hashes" in line or "--no-index" in line for line in installs)
    assert all("--no-deps" in line for line in installs)
