"""What each part of an encrypt costs, in one process and without sockets.

    python -m bench.parts [--rounds 30]

Kernel and network are left out: this tells where the product's own time goes, and whether a change moved it.
Sixteen connections send at once, so that records share batches as they do under load; the audit log's writing
process is replaced by one that answers at once. Figures are processor microseconds, the least of all rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from bench import report
from bench.callers import TEXT
from bench.load import post
from qimem.audit.recorder import AuditRecorder
from qimem.audit.steps import encoded
from qimem.bootstrap import first, serving
from qimem.bootstrap.first import AdminChoice
from qimem.config.schema import ServerSettings, Settings
from qimem.kernel.audit_draft import AuditDraft
from qimem.kernel.context import RequestContext
from qimem.kernel.secret import SecretText
from qimem.kms.hierarchy import random_key
from qimem.kms.models import KeyRef
from qimem.web.kit import errors, json_guard
from qimem.web.kit.protocol import GuardedProtocol
from qimem.wire.security import Encrypted, EncryptRequest

CONNECTIONS = 16
_CALLS = 3_000
_GROUPS = 200
_ANSWER_SECONDS = 1.0
_CONSTANT = [(b"content-type", b"application/json"), (b"content-length", b"180")]


class _Wire(asyncio.Transport):
    """Takes an answer and tells that it came."""

    def __init__(self, written: Callable[[], None]) -> None:
        super().__init__()
        self.first = b""
        self._written = written

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)}.get(name, default)

    def write(self, data: Any) -> None:
        if data.startswith(b"HTTP"):
            self.first = bytes(data)
        self._written()

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        raise AssertionError(f"a connection was closed: {self.first!r}")

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...


class _Connections:
    """Some connections that all send the same request and wait for all answers."""

    def __init__(self, protocol: Any, app: Any, count: int = CONNECTIONS) -> None:
        self._left = 0
        self._writes = 0
        self._all: asyncio.Future[None] | None = None
        self._pairs = [self._connect(protocol, app) for _ in range(count)]

    async def send(self, request: bytes) -> bytes:
        """One of the answers, all of which are 200."""
        if not self._writes:
            await self._count_writes(request)
        self._left = len(self._pairs) * self._writes
        self._all = asyncio.get_running_loop().create_future()
        for protocol, _ in self._pairs:
            protocol.data_received(request)
        await self._all
        answer = self._pairs[0][1].first
        assert answer.startswith(b"HTTP/1.1 200"), answer
        return answer.partition(b"\r\n\r\n")[2]

    async def _count_writes(self, request: bytes) -> None:
        """How many writes an answer takes: the stock protocol writes head and body one after the other."""
        self._all = None
        for protocol, _ in self._pairs:
            protocol.data_received(request)
        await asyncio.sleep(_ANSWER_SECONDS)
        self._writes = -self._left // len(self._pairs)

    def _connect(self, protocol: Any, app: Any) -> tuple[Any, _Wire]:
        config = uvicorn.Config(
            app, http=protocol, ws="none", loop="uvloop", lifespan="off", log_config=None, access_log=False,
            server_header=False, proxy_headers=False, interface="asgi3", timeout_keep_alive=3600,
        )  # fmt: skip
        config.load()
        state = ServerState()
        state.default_headers = [(b"date", b"Thu, 01 Jan 2026 00:00:00 GMT")]
        made = protocol(config, state, {}, _loop=asyncio.get_running_loop())
        wire = _Wire(self._one)
        made.connection_made(wire)
        return made, wire

    def _one(self) -> None:
        self._left -= 1
        if not self._left and self._all is not None:
            self._all.set_result(None)


async def _constant(_scope: Any, receive: Any, send: Any) -> None:
    more = True
    while more:
        more = (await receive()).get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": _CONSTANT})
    await send({"type": "http.response.body", "body": b"x" * 180})


@dataclass(frozen=True, slots=True)
class _Part:
    """Something that is timed: `call`, so often, each time for so many requests."""

    call: Callable[[], Awaitable[object]]
    times: int = _CALLS
    share: int = 1

    async def microseconds(self) -> float:
        """Processor time of one request."""
        started = time.process_time()
        for _ in range(self.times):
            await self.call()
        return (time.process_time() - started) / self.times / self.share * 1e6


async def _least(parts: dict[str, _Part], rounds: int) -> dict[str, float]:
    # Round about, so that a slow minute of the machine meets all of them.
    found = dict.fromkeys(parts, float("inf"))
    for _ in range(rounds):
        for name, part in parts.items():
            found[name] = min(found[name], await part.microseconds())
    return found


async def measure(directory: Path, rounds: int) -> dict[str, float]:
    """Microseconds of each part and of the whole."""
    settings = Settings(server=ServerSettings(data_dir=directory / "data"))
    settings.server.data_dir.mkdir(mode=0o700)
    root_key = random_key()
    installed = await first.initialise(settings, root_key, AdminChoice())
    running = await serving.start(settings, root_key, "http://127.0.0.1:1")
    ours = _Connections(GuardedProtocol, running.app)
    alone = _Connections(GuardedProtocol, running.app, 1)

    async def ask(path: str, body: object, token: str | None = None) -> Any:
        return json.loads(await alone.send(post(path, body, token).raw()))

    token = (await ask("/v1/auth/token", _login(installed)))["access_token"]
    key = (await ask("/v1/security/keys", {}, token))["key_id"]
    request = post("/v1/security/encrypt", {"key_id": key, "input": TEXT}, token)
    loop = asyncio.get_running_loop()
    running._log._trail._writer.write = lambda steps, done: (encoded(steps), loop.call_soon(done, None))
    gc.collect()
    gc.freeze()

    def whole(connections: _Connections) -> _Part:
        return _Part(lambda: connections.send(request.raw()), _GROUPS, CONNECTIONS)

    async def unaudited() -> None:
        record = AuditRecorder.record
        AuditRecorder.record = lambda *given: given[-1](None)  # type: ignore[method-assign]
        try:
            await ours.send(request.raw())
        finally:
            AuditRecorder.record = record  # type: ignore[method-assign]

    parts = {
        "floor: stock protocol, constant answer": whole(_Connections(HttpToolsProtocol, _constant)),
        "guarded protocol, constant answer": whole(_Connections(GuardedProtocol, _constant)),
        **await _inner(running, token, uuid.UUID(key), request.body),
        "encrypt, no audit": _Part(unaudited, _GROUPS, CONNECTIONS),
        "encrypt, audited": whole(ours),
    }
    found = await _least(parts, rounds)
    nothing = found.pop("nothing")
    found = {name: figure - nothing * name.startswith(" ") for name, figure in found.items()}
    found["  audit: record, batch, chain"] = found["encrypt, audited"] - found["encrypt, no audit"]
    return found


def _login(installed: first.Installed) -> dict[str, str | None]:
    return {
        "realm_id": installed.realm_id,
        "client_id": installed.client_id,
        "client_secret": installed.client_secret.reveal(),
        "username": installed.username,
        "password": (installed.password or SecretText("")).reveal(),
    }


async def _inner(running: Any, token: str, key: uuid.UUID, body: bytes) -> dict[str, _Part]:
    gate, cipher = running.app._gate, running.app._services.cipher
    header, plaintext = b"Bearer " + token.encode(), TEXT.encode()
    actor, state = await gate.authenticate(header)
    context = RequestContext(
        "request", actor, state, AuditDraft("keys.encrypt", "request", "127.0.0.1"), None
    )
    sealed = await cipher.encrypt(context, KeyRef(key_id=key), plaintext)

    async def nothing() -> None: ...

    async def read() -> None:
        json_guard.decode(body, EncryptRequest)

    async def write() -> None:
        errors.encode(Encrypted(envelope=sealed.envelope, key_id=sealed.version.key_id, version=1))

    return {
        "nothing": _Part(nothing),
        "  epoch: has anything changed": _Part(lambda: gate._caches.fresh(actor.realm_id)),
        "  authentication with it": _Part(lambda: gate.authenticate(header)),
        "  request: JSON read and checked": _Part(read),
        "  cipher: find, permit, count, seal": _Part(
            lambda: cipher.encrypt(context, KeyRef(key_id=key), plaintext)
        ),
        "  answer: JSON written": _Part(write),
    }


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.parts", description="What each part costs.")
    parser.add_argument("--rounds", type=int, default=30)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="qimem-bench-") as directory:
        found = uvloop.run(measure(Path(directory), given.rounds))
    print(report.table(("part", "µs CPU"), [(name, f"{figure:.1f}") for name, figure in found.items()]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
