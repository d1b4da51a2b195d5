"""A worker around the smallest application: tells who answers and what key it was given."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time

from qimem.kernel.refusal import Refused
from qimem.server.worker import main


class Tiny:
    def __init__(self, settings, root_key, address) -> None:
        digest = hashlib.sha256(bytes(root_key.reveal())).hexdigest()
        passed_on = [name for name, value in os.environ.items() if "hunter2" in value or name == "QIMEM_X"]
        self.told = {"pid": os.getpid(), "key": digest, "address": address, "environment": passed_on}

    async def app(self, scope, receive, send) -> None:
        if scope["path"] == "/hang":
            time.sleep(60)
        body = json.dumps(self.told).encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    admin_app = app

    def drain(self) -> None:
        print("drains", os.getpid(), file=sys.stderr, flush=True)

    async def close(self) -> None:
        print("closed", os.getpid(), file=sys.stderr, flush=True)


async def start(settings, root_key, address, *, shared):
    if "refuse" in settings.web.cors_origins[0]:
        raise Refused("not like this")
    return Tiny(settings, root_key, address)


def work(descriptors: list[str]) -> int:
    return main(descriptors, start)


if __name__ == "__main__":
    sys.exit(work(sys.argv[1:]))
