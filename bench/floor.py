"""The floor: what an HTTP request costs when the application does nothing.

    python -m bench.floor FILE

Stock uvicorn (httptools, uvloop, its own headers) around a raw ASGI application that reads the body and
answers the bytes of FILE. Prints `ready http://…` once it listens.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import uvicorn

Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]


def constant(body: bytes) -> Callable[[Mapping[str, Any], Receive, Send], Awaitable[None]]:
    """An application that answers every request with these bytes."""
    start = {
        "type": "http.response.start",
        "status": 200,
        "headers": [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))],
    }
    end = {"type": "http.response.body", "body": body}

    async def app(scope: Mapping[str, Any], receive: Receive, send: Send) -> None:  # noqa: ARG001 - ASGI
        while (await receive()).get("more_body", False):
            pass
        await send(start)
        await send(end)

    return app


def main(file: str) -> None:
    """Serve until SIGTERM."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    config = uvicorn.Config(
        constant(Path(file).read_bytes()),
        http="httptools",
        loop="uvloop",
        lifespan="off",
        log_level="warning",
        access_log=False,
        # Left on it would wrap the application once more and lower the floor in our favor.
        proxy_headers=False,
    )
    print(f"ready http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main(sys.argv[1])
