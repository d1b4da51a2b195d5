"""Reads the configuration: flag > variable > file > default, all mistakes at once.

The file is `--config F`, else `qimem.toml` in the working directory if there is one. A variable is
named `QIMEM_<SECTION>__<FIELD>`; `QIMEM_BIND`, `QIMEM_MODE` and `DATABASE_URL` are read as well.
Secrets come from files and credentials, never from the configuration file: `<option>_file` names one.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from qimem.config.refusal import Misconfigured, Mistake
from qimem.config.schema import SECTIONS, Settings, TlsSettings, build, options
from qimem.config.secret_file import read_line
from qimem.config.values import Address
from qimem.kernel.secret import SecretText
from qimem.outbound.target import parse_target

DEFAULT_FILE = Path("qimem.toml")
ALIASES = {"QIMEM_BIND": "server.bind", "QIMEM_MODE": "database.mode", "DATABASE_URL": "database.url"}
_SECRET_NAME = re.compile(r"password|secret|token|root_?key$|private_?key|passphrase")
_MAY_HOLD_PASSWORD = ("database.url", "limits.valkey_url")
_SECRET_HINT = "keep secrets in a file of mode 0600 or a systemd credential, and name the file"  # noqa: S105


class Given(NamedTuple):
    """A value as written, and where."""

    raw: object
    origin: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """The configuration in force.

    Args:
        settings: The typed values.
        origins: Option name → where its value was written; `default` where nowhere.
    """

    settings: Settings
    origins: Mapping[str, str]


def load(flags: Mapping[str, object], environ: Mapping[str, str], *, file: Path | None = None) -> Loaded:
    """Read everything.

    Args:
        flags: Option name → raw value of each flag that was given.
        environ: The environment.
        file: The file named by `--config`; None for the default one.

    Raises:
        Misconfigured: with every mistake found.
    """
    mistakes: list[Mistake] = []
    known = dict(options())
    given: dict[str, Given] = {}
    given |= _from_file(file, mistakes)
    given |= _from_environment(environ, mistakes)
    given |= {option: Given(raw, _flag(option)) for option, raw in flags.items() if raw is not None}
    given |= _from_named_files(given, mistakes)
    chosen: dict[str, object] = {}
    for option, (raw, origin) in given.items():
        try:
            chosen[option] = known[option].metadata["read"](raw)
        except ValueError as error:
            mistakes.append(Mistake(origin, option, str(error)))
    origins = {option: given[option].origin if option in given else "default" for option in known}
    settings = build(chosen)
    mistakes += contradictions(settings, origins)
    if mistakes:
        raise Misconfigured(mistakes)
    return Loaded(settings, origins)


def contradictions(settings: Settings, origins: Mapping[str, str]) -> list[Mistake]:
    """Values that are fine alone and wrong together."""
    server = settings.server

    def wrong(option: str, *reason_and_hint: str) -> Mistake:
        return Mistake(origins[option], option, *reason_and_hint)

    found = _of_tls(settings.tls, wrong) + _addresses(settings, wrong)
    if settings.database.mode == "stateless" and server.workers > 1:
        found.append(wrong("server.workers", "a server in memory has one worker"))
    if settings.consistency.mode == "bounded" and (
        settings.database.url is None or settings.database.mode == "stateless"
    ):
        found.append(
            wrong(
                "consistency.mode",
                "bounded is for PostgreSQL: on the embedded database strict costs nothing",
                "remove the option, or set DATABASE_URL",
            )
        )
    if settings.seal.source == "credential" and settings.seal.root_key_file is not None:
        found.append(wrong("seal.root_key_file", "contradicts seal.source = credential"))
    audit = settings.audit
    if audit.checkpoint_secret_file is not None and audit.checkpoint_url is None:
        found.append(wrong("audit.checkpoint_secret_file", "there is no audit.checkpoint_url to use it for"))
    if (
        audit.checkpoint_url is not None
        and _is_plain(audit.checkpoint_url)
        and not settings.outbound.allow_plain_http
    ):
        found.append(wrong("audit.checkpoint_url", "expected https"))
    return found


def _addresses(settings: Settings, wrong: Callable[..., Mistake]) -> list[Mistake]:
    server, found = settings.server, []
    secured = settings.tls.cert is not None
    if not (server.bind.loopback or server.trusted_proxies or server.allow_plain_http or secured):
        found.append(
            wrong(
                "server.bind",
                f"{server.bind} is reachable from other machines, and this server speaks plain HTTP",
                "give --tls-cert and --tls-key, set server.trusted_proxies to the proxy that speaks TLS, or "
                "pass --allow-plain-http",
            )
        )
    admin = server.admin_bind
    known = secured and settings.tls.client_ca is not None and settings.tls.client_certificates == "required"
    if admin is not None and not (admin.loopback or server.allow_plain_http or known):
        found.append(
            wrong(
                "server.admin_bind",
                f"{admin} is reachable from other machines, and asks nobody who they are",
                "bind it to 127.0.0.1, require client certificates, or pass --allow-plain-http where the network keeps "
                "others away",
            )
        )
    if admin is not None and _collide(admin, server.bind):
        found.append(wrong("server.admin_bind", f"{admin} is where the server itself listens"))
    return found


def _of_tls(tls: TlsSettings, wrong: Callable[..., Mistake]) -> list[Mistake]:
    found = []
    if (tls.cert is None) != (tls.key is None):
        here, missing = ("tls.cert", "tls.key") if tls.key is None else ("tls.key", "tls.cert")
        found.append(wrong(here, f"needs {missing}", "give both --tls-cert and --tls-key"))
    elif tls.client_ca is not None and tls.cert is None:
        found.append(wrong("tls.client_ca", "needs tls.cert: there are no client certificates without TLS"))
    if tls.client_certificates == "required" and tls.client_ca is None:
        found.append(
            wrong("tls.client_certificates", "needs tls.client_ca: nobody's certificate would be taken")
        )
    return found


def _is_plain(url: SecretText) -> bool:
    return parse_target(url.reveal()).scheme != "https"


def _collide(one: Address, other: Address) -> bool:
    everywhere = {"0.0.0.0", "::"}  # noqa: S104 - compared, not bound
    same = one.host == other.host or bool({one.host, other.host} & everywhere)
    return one.port == other.port != 0 and same


def loopback_only(bind: Address) -> list[Mistake]:
    """What a throw-away server with printed secrets has against an address."""
    if bind.loopback:
        return []
    return [Mistake("--bind", "server.bind", "a throw-away server listens on loopback only")]


def _flag(option: str) -> str:
    if option.startswith(("database.", "tls.")):
        return "--" + option.replace(".", "-").replace("_", "-")
    return "--" + option.partition(".")[2].replace("_", "-")


def _from_environment(environ: Mapping[str, str], mistakes: list[Mistake]) -> dict[str, Given]:
    by_name = {"QIMEM_" + option.replace(".", "__").upper(): option for option, _ in options()}
    found: dict[str, Given] = {}
    for name, option in ALIASES.items():
        if environ.get(name):
            found[option] = Given(environ[name], name)
    slips = _slips()
    for name, raw in environ.items():
        if name in slips and raw:
            mistakes.append(Mistake(name, name, f"no such option; did you mean {slips[name]}?"))
        # Others may be anyone's: Kubernetes makes QIMEM_PORT of a service called qimem.
        if not name.startswith("QIMEM_") or "__" not in name:
            continue
        if name not in by_name:
            mistakes.append(Mistake(name, name, "no such option" + _nearest(name, by_name)))
            continue
        option = by_name[name]
        if option in found and found[option].raw != raw:
            mistakes.append(Mistake(name, option, f"contradicts {found[option].origin}"))
        found[option] = Given(raw, name)
    return found


def _slips() -> dict[str, str]:
    """Variables that only look like options, such as QIMEM_WORKERS, and those that were meant."""
    found: dict[str, str] = {}
    for option, _ in options():
        meant = "QIMEM_" + option.replace(".", "__").upper()
        as_flag = _flag(option).removeprefix("--").replace("-", "_").upper()
        for name in ("QIMEM_" + as_flag, meant.replace("__", "_")):
            if name not in ALIASES:
                found[name] = meant
    return found


def _from_file(file: Path | None, mistakes: list[Mistake]) -> dict[str, Given]:
    path = file or DEFAULT_FILE
    try:
        content = path.read_text(encoding="utf-8")
        tables = tomllib.loads(content)
    except FileNotFoundError:
        if file is not None:
            mistakes.append(Mistake(str(path), "--config", "no such file"))
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = error.strerror or "unreadable" if isinstance(error, OSError) else f"not TOML: {error}"
        mistakes.append(Mistake(str(path), "file", reason))
        return {}
    found: dict[str, Given] = {}
    for section, table in tables.items():
        if section not in SECTIONS or not isinstance(table, dict):
            origin = f"{path}:{_line(content, section, None)}"
            mistakes.append(_unknown(origin, section, dict.fromkeys(SECTIONS)))
            continue
        for name, raw in table.items():
            origin = f"{path}:{_line(content, section, name)}"
            found |= _one(origin, f"{section}.{name}", raw, mistakes)
    return found


def _from_named_files(given: Mapping[str, Given], mistakes: list[Mistake]) -> dict[str, Given]:
    found: dict[str, Given] = {}
    for option in _MAY_HOLD_PASSWORD:
        named = given.get(f"{option}_file")
        # What is no path is told of like any other value that cannot be read.
        if named is None or not isinstance(named.raw, str) or not named.raw:
            continue
        if option in given:
            mistakes.append(Mistake(named.origin, f"{option}_file", f"contradicts {given[option].origin}"))
            continue
        try:
            found[option] = Given(read_line(Path(named.raw)), named.raw)
        except ValueError as error:
            mistakes.append(Mistake(named.origin, f"{option}_file", str(error)))
    return found


def _one(origin: str, option: str, raw: object, mistakes: list[Mistake]) -> dict[str, Given]:
    names = dict(options())
    if option not in names:
        mistakes.append(_unknown(origin, option, names))
        return {}
    if option in _MAY_HOLD_PASSWORD and isinstance(raw, str) and _holds_password(raw):
        hint = f"write the URL into a file of mode 0600, and name that with {option}_file"
        mistakes.append(Mistake(origin, option, "holds a password", hint))
        return {}
    return {option: Given(raw, origin)}


def _holds_password(url: str) -> bool:
    try:
        return urlsplit(url).password is not None
    except ValueError:
        # What is wrong with it is told by who reads it.
        return False


def _unknown(origin: str, option: str, names: Mapping[str, object]) -> Mistake:
    if _SECRET_NAME.search(option):
        return Mistake(origin, option, "a secret has no place in this file", _SECRET_HINT)
    return Mistake(origin, option, "no such option" + _nearest(option, names))


def _nearest(name: str, names: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def _line(content: str, section: str, name: str | None) -> int:
    """Where a section or a field of it is written; 1 when written in a way this does not see."""
    header = re.compile(rf"\s*\[\s*{re.escape(section)}\s*\]")
    entry = None if name is None else re.compile(rf"\s*[\"']?{re.escape(name)}[\"']?\s*=")
    inside = False
    for number, line in enumerate(content.splitlines(), start=1):
        if line.lstrip().startswith("["):
            inside = header.match(line) is not None
            if inside and entry is None:
                return number
        elif (inside and entry and entry.match(line)) or re.match(rf"\s*{re.escape(section)}\s*[.=]", line):
            return number
    return 1
