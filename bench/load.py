"""The load: wrk with a script that sends bytes made here, and a result that is refused when anything failed.

One thread keeps a number of connections busy, each with one request at a time. The same bytes go to
both sides of a pair.
"""

from __future__ import annotations

import http.client
import json
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import urlencode

from bench.figures import Run, RunRefused
from bench.servers import Server, on_core

CONNECTIONS = 32
TIMEOUT_SECONDS = 10
_MARK = "bench: "
_ERRORS = ("connect", "read", "write", "timeout", "status")

_DONE = (
    """
done = function(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '"""
    + _MARK
    + """{"requests":%d,"duration_us":%d,"p50_us":%d,"p99_us":%d,'
      .. '"connect":%d,"read":%d,"write":%d,"timeout":%d,"status":%d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.connect, errors.read, errors.write, errors.timeout, errors.status))
end
"""
)


@dataclass(frozen=True, slots=True)
class Request:
    """A POST, or a GET where there is no body, as bytes that do not depend on who receives it."""

    path: str
    body: bytes | None
    token: str | None = None
    media_type: str = "application/json"

    @property
    def method(self) -> str:
        """As it stands in the request line."""
        return "GET" if self.body is None else "POST"

    def head(self) -> bytes:
        """Everything before the value of Content-Length; of a GET, everything before the end of its head."""
        lines = [f"{self.method} {self.path} HTTP/1.1", "Host: 127.0.0.1"]
        if self.token is not None:
            lines.append(f"Authorization: Bearer {self.token}")
        if self.body is not None:
            lines += [f"Content-Type: {self.media_type}", "Content-Length: "]
        return "\r\n".join(lines).encode()

    def raw(self) -> bytes:
        """The whole request."""
        if self.body is None:
            return self.head() + b"\r\n\r\n"
        return self.head() + b"%d\r\n\r\n" % len(self.body) + self.body


def post(path: str, body: object, token: str | None = None) -> Request:
    """The request that posts this object."""
    return Request(path, json.dumps(body, separators=(",", ":")).encode(), token)


def get(path: str, token: str | None = None) -> Request:
    """The request that reads this path."""
    return Request(path, None, token)


def form(path: str, fields: Mapping[str, str]) -> Request:
    """The request that posts these fields as HTML forms are."""
    return Request(path, urlencode(fields).encode(), media_type="application/x-www-form-urlencoded")


def cycle(requests: Sequence[Request]) -> str:
    """A script that sends these requests in turn, over all connections together."""
    raw = [lua_text(request.raw()) for request in requests]
    if len(raw) == 1:
        # Formatted once, so that no Lua runs while the load does.
        return f"init = function() wrk.format = function() return {raw[0]} end end\n{_DONE}"
    listed = ",\n".join(raw)
    return f"""
local requests, at = {{{listed}}}, 0
request = function()
  at = at % #requests + 1
  return requests[at]
end
{_DONE}"""


def refresh_chain(path: str, tokens: Sequence[str]) -> str:
    """A script that spends each refresh token once and goes on with the one from the answer.

    A thread of wrk has one script for all its connections and does not say which one it is asked
    for. So the live tokens are a pool: a request takes one out, its answer puts the successor in.
    There are as many tokens as connections, and no token is ever in two requests.
    """
    head = lua_text(Request(path, b"").head())
    pool = ",".join(lua_text(token.encode()) for token in tokens)
    return f"""
local pool, checked = {{{pool}}}, false
local head = {head}
local function spend(token)
  local body = '{{"refresh_token":"' .. token .. '"}}'
  return head .. #body .. '\\r\\n\\r\\n' .. body
end
request = function()
  -- wrk asks once more than it sends: it parses the first request to see that it is one.
  if not checked then
    checked = true
    return spend('checked-and-never-sent')
  end
  -- An empty pool sends a token that nobody has, so that the run is refused.
  return spend(table.remove(pool) or 'none-left')
end
response = function(status, headers, body)
  pool[#pool + 1] = body:match('"refresh_token":"([^"]+)"')
end
{_DONE}"""


def lua_text(data: bytes) -> str:
    """A Lua string literal of any bytes."""
    plain = (chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:03d}" for byte in data)
    return '"' + "".join(plain) + '"'


def measure(server: Server, script: str, seconds: int, connections: int = CONNECTIONS) -> Run:
    """Load a server.

    Args:
        server: Who is loaded, and whose CPU time is counted.
        script: From `cycle` or `refresh_chain`.
        seconds: For how long.
        connections: How many requests are under way at once.

    Raises:
        RunRefused: a request failed, or a process of the server came or went.
    """
    before = server.cpu()
    with Load(server, script, seconds, connections) as load:
        output = load.finish()
    after = server.cpu()
    if before.keys() != after.keys():
        raise RunRefused(f"{server.name}: a process was replaced during the run")
    return parse(output, sum(after.values()) - sum(before.values()))


class Load:
    """A running wrk."""

    def __init__(self, server: Server, script: str, seconds: int, connections: int) -> None:
        self._url = server.url
        self._core = server.cores and server.cores[1]
        self._script = script
        self._seconds = seconds
        self._connections = connections

    def __enter__(self) -> Self:
        # The script holds credentials; the directory is private and gone with the run.
        self._directory = tempfile.TemporaryDirectory(prefix="qimem-bench-load-")
        file = Path(self._directory.name) / "load.lua"
        file.write_text(self._script)
        command = [
            *on_core(self._core), wrk(), "-t1", f"-c{self._connections}", f"-d{self._seconds}s",
            "--timeout", f"{TIMEOUT_SECONDS}s", "-s", str(file), self._url,
        ]  # fmt: skip
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()
        self._directory.cleanup()

    def running(self) -> bool:
        """Whether it still loads."""
        return self._process.poll() is None

    def finish(self) -> str:
        """What it printed, when it has ended.

        Raises:
            RunRefused: it failed or hangs.
        """
        try:
            output, _ = self._process.communicate(timeout=self._seconds + 2 * TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise RunRefused("wrk does not end") from error
        if self._process.returncode != 0:
            raise RunRefused(f"wrk ended with {self._process.returncode}: {output.strip()[-500:]}")
        return output


def parse(output: str, cpu_seconds: float | None) -> Run:
    """The result that the script printed.

    Args:
        output: All that wrk printed.
        cpu_seconds: What the server used meanwhile; None where that is not known.

    Raises:
        RunRefused: none was printed, nothing was answered, or anything failed.
    """
    line = next((line for line in output.splitlines() if line.startswith(_MARK)), None)
    if line is None:
        raise RunRefused(f"wrk printed no result: {output.strip()[-500:]}")
    result: dict[str, int] = json.loads(line.removeprefix(_MARK))
    failed = {kind: result[kind] for kind in _ERRORS if result[kind]}
    if failed:
        told = ", ".join(f"{kind} {count}" for kind, count in failed.items())
        raise RunRefused(f"errors among {result['requests']} requests: {told}")
    if not result["requests"]:
        raise RunRefused("nothing was answered")
    return Run(
        requests=result["requests"],
        seconds=result["duration_us"] / 1e6,
        cpu_seconds=cpu_seconds,
        p50_us=result["p50_us"],
        p99_us=result["p99_us"],
    )


def ask(server: Server, request: Request) -> bytes:
    """The body of the answer to exactly the bytes that the load will send.

    Raises:
        RunRefused: it is not 200.
    """
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(request.raw())
        answer = http.client.HTTPResponse(connection, method=request.method)
        answer.begin()
        body = answer.read()
    if answer.status != 200:
        raise RunRefused(
            f"{server.name}: {request.path} answers {answer.status} {body[:300]!r}: {server.last_words()}"
        )
    return body


def wrk() -> str:
    """Where wrk is.

    Raises:
        RunRefused: nowhere.
    """
    found = shutil.which("wrk")
    if found is None:
        raise RunRefused("wrk is missing; tools/prepare dev wrk installs it")
    return found


def wrk_version() -> str:
    """As it names itself."""
    said = subprocess.run([wrk(), "-v"], capture_output=True, text=True, check=False).stdout
    found = re.match(r"wrk (\S+)", said)
    return found[1] if found else "unknown"
