"""npm oidc-provider with tokens in memory: the fastest identity server of those that are in use."""

from __future__ import annotations

import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from bench.callers import answer
from bench.compare.openbao import free_port
from bench.figures import RunRefused
from bench.load import Request, form
from bench.servers import ROOT, Server

PLACE = ROOT / "build" / "oidc-provider"
_PROGRAM = ROOT / "bench" / "compare" / "oidc-provider" / "server.mjs"
_CLIENT = "load"


@dataclass(frozen=True, slots=True)
class PeerCaller:
    """Who sends the load: a client with its secret in the body."""

    secret: str

    def by_client(self, resource: str) -> Request:
        """A token by client credentials: `urn:signed` a JWT, `urn:stored` an opaque one."""
        return form("/token", self._known | {"grant_type": "client_credentials", "resource": resource})

    def introspect(self, token: str) -> Request:
        """What a token is good for."""
        return form("/token/introspection", self._known | {"token": token})

    @property
    def _known(self) -> dict[str, str]:
        return {"client_id": _CLIENT, "client_secret": self.secret}


def installed() -> bool:
    """Whether it is here, with what runs it."""
    return shutil.which("node") is not None and (PLACE / "node_modules" / "oidc-provider").is_dir()


def version() -> str:
    """As its package names it."""
    found = (PLACE / "node_modules" / "oidc-provider" / "package.json").read_text()
    return "oidc-provider " + found.partition('"version": "')[2].partition('"')[0]


def server(directory: Path, cores: tuple[int, int] | None) -> tuple[Server, PeerCaller]:
    """Not started yet.

    Args:
        directory: For its log; made here.
        cores: Its own, and that of its load.
    """
    directory.mkdir(mode=0o700)
    # Modules are looked for beside the program.
    program = PLACE / _PROGRAM.name
    program.write_bytes(_PROGRAM.read_bytes())
    secret = secrets.token_urlsafe(32)
    command = ["env", "NODE_ENV=production", "node", str(program), str(free_port()), secret]
    return Server("oidc-provider", command, directory, cores=cores), PeerCaller(secret)


def living_token(running: Server, caller: PeerCaller) -> str:
    """An opaque token that it says is active.

    Raises:
        RunRefused: it does not.
    """
    token = str(answer(running, caller.by_client("urn:stored"))["access_token"])
    if answer(running, caller.introspect(token))["active"] is not True:
        raise RunRefused("oidc-provider: a new token is not active")
    return token
