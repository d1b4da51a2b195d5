"""No text of the project names a machine, a registry or a way of its own making; lock files carry hashes alone."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.architecture.sources import ROOT

# Spelled in pieces, so that this file passes its own test.
MACHINE_PATH = re.compile(r"/(?:root|home/\w+|Users/\w+|wo" r"rk|mnt|opt/(?:wheels|pypi\S*))/[\w.-]+")
REGISTRY = re.compile(
    r"(?:py" r"pi\.org|pythonhosted\.org|registry\.npm" r"js\.org|index-" r"url|find-" r"links)"
)
BANNED = re.compile(r"\b(?:white" r"list|black" r"list|mas" r"ter key|san" r"ity)", re.IGNORECASE)
REMOTE = re.compile(r"(?:https?|git\+|ssh|file)://?")

GLIB = re.compile(r"\b(?:simply|just|easy|easily|obviously)\b", re.IGNORECASE)

LOCKS = ("requirements/base.txt", "requirements/dev.txt", "requirements/run.txt")
PLACES_THAT_NAME_OPTIONS = {"Makefile"}
FOREIGN = ("tests/vectors/", "LICENSE")


def texts() -> dict[str, str]:
    """Every text file that is, or is about to be, under version control."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = {}
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        if path.is_file() and not path.is_symlink() and not name.startswith(FOREIGN):
            content = path.read_bytes()
            if b"\0" not in content:
                found[name] = content.decode()
    return found


def findings(pattern: re.Pattern[str], named: dict[str, str]) -> list[str]:
    return [
        f"{name}:{number}: {line.strip()[:120]}"
        for name, text in named.items()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]


def test_no_file_names_a_path_of_some_machine() -> None:
    assert not findings(MACHINE_PATH, texts())


def test_no_file_names_a_package_registry() -> None:
    named = {name: text for name, text in texts().items() if name not in PLACES_THAT_NAME_OPTIONS}
    assert not findings(REGISTRY, named)


def test_no_file_uses_a_banned_word() -> None:
    # The page of the house rules is where the banned words are listed.
    named = {name: text for name, text in texts().items() if name != "docs/development/HOUSE.md"}
    assert not findings(BANNED, named)


def test_no_page_calls_anything_easy() -> None:
    named = {
        name: text for name, text in texts().items() if name.endswith(".md") and not name.endswith("HOUSE.md")
    }
    assert not findings(GLIB, named)


@pytest.mark.parametrize(
    ("pattern", "line"),
    [
        (GLIB, "Just run it"),
        (MACHINE_PATH, "/home/" + "ada/qimem/src"),
        (MACHINE_PATH, "cd /wo" + "rk/main"),
        (REGISTRY, "--index-" + "url x"),
        (REGISTRY, "from py" + "pi.org"),
        (BANNED, "a white" + "list of mas" + "ter keys"),
        (REMOTE, "alembic @ https://host/alembic.whl"),
        (REMOTE, "-e git+ssh://host/x"),
    ],
)
def test_a_planted_word_is_found(pattern: re.Pattern[str], line: str) -> None:
    assert findings(pattern, {"planted": line})


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_file_names_no_place(lock: str) -> None:
    text = {lock: (ROOT / lock).read_text()}
    assert not findings(REMOTE, text)
    assert not findings(re.compile(r"^-"), text)


def pins(lock: str) -> dict[str, str]:
    """Package → version; every requirement must carry at least one hash."""
    text = re.sub(r"\\\n", " ", (ROOT / lock).read_text())
    found = {}
    for line in text.splitlines():
        if line and not line.lstrip().startswith("#"):
            pin = re.fullmatch(r"([a-z0-9-]+)==(\S+)((?:\s+--hash=sha256:[0-9a-f]{64})+)\s*", line)
            assert pin, line
            found[pin[1]] = pin[2]
    return found


def test_development_uses_the_versions_that_are_shipped() -> None:
    shipped, used, run = (pins(lock) for lock in LOCKS)
    assert run.items() <= shipped.items() <= used.items()
    assert shipped.keys() - run.keys() >= {"hatchling"}


def test_every_declared_dependency_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for lock, wanted in (
        (LOCKS[0], project["project"]["dependencies"] + project["build-system"]["requires"]),
        (LOCKS[1], project["project"]["optional-dependencies"]["dev"]),
        (LOCKS[2], project["project"]["dependencies"]),
    ):
        names = {re.split(r"[\[=><]", requirement)[0].lower() for requirement in wanted}
        assert names <= pins(lock).keys()


def test_every_declared_dependency_has_its_line_in_the_decision_record() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    told = re.findall(
        r"^\| ([a-z][a-z0-9-]*) \|", (ROOT / "docs/adr/0006-dependencies.md").read_text(), re.MULTILINE
    )
    names = {re.split(r"[\[=><]", requirement)[0].lower() for requirement in project["dependencies"]}
    assert names == set(told) - {"package"}


def test_the_locked_build_backend_is_the_declared_one() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["build-system"]["requires"] == [f"hatchling=={pins(LOCKS[0])['hatchling']}"]


def test_what_may_be_run_is_executable() -> None:
    for name in (".ci/run", "tools/prepare", "deploy/install", "deploy/make-secrets"):
        assert Path(ROOT / name).stat().st_mode & 0o111 == 0o111, name
