"""The fixtures of a throw-away server: fixed names and secrets, so that other people's tests can know them.

    [realm]
    id = "acme"                  # "system" for the realm that exists already
    name = "Acme"
    [roles]                      # made in that realm
    cipher = ["keys:encrypt", "keys:decrypt"]
    [client]
    id = "shop"
    secret = "qcs_for-tests-only"
    tier = "unlimited"
    roles = []
    redirect_uris = []
    [user]
    username = "ada"
    password = "a long enough phrase"
    roles = ["realm-admin"]

Secrets may stand here because nothing in such a server is worth protecting; `serve` never reads it.
"""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from qimem.config.refusal import Misconfigured, Mistake
from qimem.kernel.ids import is_realm_id
from qimem.kernel.limits import CLIENT_ID_CHARS_MAX
from qimem.kernel.secret import SecretText


@dataclass(frozen=True, slots=True)
class RealmFixture:
    """The realm to work in."""

    id: str
    name: str = "Development"


@dataclass(frozen=True, slots=True)
class ClientFixture:
    """A client with a known id and secret."""

    id: str
    secret: SecretText
    tier: str = "unlimited"
    roles: tuple[str, ...] = ()
    redirect_uris: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class UserFixture:
    """A user with a known password."""

    username: str
    password: SecretText
    roles: tuple[str, ...] = ("realm-admin",)


@dataclass(frozen=True, slots=True)
class Fixtures:
    """Everything a file says."""

    realm: RealmFixture
    client: ClientFixture
    user: UserFixture
    roles: dict[str, list[str]]


_TABLES: dict[str, type[Any]] = {"realm": RealmFixture, "client": ClientFixture, "user": UserFixture}
_SECRETS = frozenset({"secret", "password"})
_LISTS = frozenset({"roles", "redirect_uris"})


def read_fixtures(path: Path) -> Fixtures:
    """Read the file.

    Raises:
        Misconfigured: with every mistake found.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Misconfigured([Mistake(str(path), "--fixtures", error.strerror or "unreadable")]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Misconfigured([Mistake(str(path), "--fixtures", f"not TOML: {error}")]) from error
    reading = _Reading(str(path))
    for name in content:
        reading.known(name, [*_TABLES, "roles"], "")
    parts = {name: reading.table(name, content.get(name, {})) for name in _TABLES}
    roles = reading.roles(content.get("roles", {}))
    if "id" in parts["realm"] and not is_realm_id(parts["realm"]["id"]):
        reading.fault("realm.id", "must match [a-z0-9][a-z0-9-]{0,62}")
    if len(parts["client"].get("id", "")) > CLIENT_ID_CHARS_MAX:
        reading.fault("client.id", f"at most {CLIENT_ID_CHARS_MAX} characters")
    if reading.mistakes:
        raise Misconfigured(reading.mistakes)
    return Fixtures(roles=roles, **{name: kind(**parts[name]) for name, kind in _TABLES.items()})


class _Reading:
    """One file being read, and its mistakes so far."""

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self.mistakes: list[Mistake] = []

    def fault(self, option: str, reason: str) -> None:
        self.mistakes.append(Mistake(self._origin, option, reason))

    def known(self, name: str, names: list[str], prefix: str) -> bool:
        if name in names:
            return True
        close = difflib.get_close_matches(name, names, n=1)
        self.fault(prefix + name, "no such entry" + (f"; did you mean {prefix}{close[0]}?" if close else ""))
        return False

    def table(self, section: str, given: object) -> dict[str, Any]:
        if not isinstance(given, dict):
            self.fault(section, "expected a table")
            return {}
        entries = {entry.name: entry for entry in fields(_TABLES[section])}
        required = [name for name in entries if name in {"id", "secret", "username", "password"}]
        for name in required:
            if name not in given:
                self.fault(f"{section}.{name}", "is missing")
        read: dict[str, Any] = {}
        for name, value in given.items():
            if not self.known(name, list(entries), f"{section}."):
                continue
            if name in _LISTS and _texts(value):
                read[name] = tuple(value)
            elif name not in _LISTS and isinstance(value, str) and value:
                read[name] = SecretText(value) if name in _SECRETS else value
            else:
                self.fault(
                    f"{section}.{name}", "expected a list of texts" if name in _LISTS else "expected text"
                )
        return read

    def roles(self, given: object) -> dict[str, list[str]]:
        if isinstance(given, dict) and all(_texts(permissions) for permissions in given.values()):
            return given
        self.fault("roles", "expected lists of permissions by role name")
        return {}


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
