"""Each node keeps the records of what it did; those of all nodes together tell of every change once."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from tests.faults.nodes.conftest import KEYS, Pair
from tests.support.cli import qimem
from tests.support.load import Wire, worker_pids
from tests.support.server import Server
from tests.support.volume import volume

SECONDS = volume(10, share=0.1)


def exported(server: Server, realm_id: str) -> list[dict[str, str]]:
    """What `qimem audit export` prints of a realm on this node."""
    done = qimem("audit", "export", "--data-dir", server.data, "--realm", realm_id)
    assert done.code == 0, done.err
    return [json.loads(line) for line in done.out.splitlines()]


def changes(pair: Pair, server: Server, name: str, over: threading.Event) -> dict[str, str]:
    """Keys made on a node until then: request id → key id of each that was acknowledged."""
    made, number, wire = {}, 0, None
    while not over.is_set():
        number += 1
        request_id = f"{name}-{number}"
        try:
            wire = wire or Wire(server.url, pair.person.access_token)
            reply = wire.post(KEYS, {}, x_request_id=request_id)
        except OSError:
            # Its worker was killed; whether this one was done is for the log to tell.
            if wire is not None:
                wire.close()
            wire = None
            continue
        if reply.status == 200:
            made[request_id] = reply.body["key_id"]
    if wire is not None:
        wire.close()
    return made


def test_the_logs_of_two_nodes_tell_of_every_change_once(strict: Pair) -> None:
    strict.sign_in()
    over, nodes = threading.Event(), {"a": strict.a, "b": strict.b}
    names = [f"{node}{number}" for node in nodes for number in range(4)]
    with ThreadPoolExecutor(len(names)) as threads:
        begun = [threads.submit(changes, strict, nodes[name[0]], name, over) for name in names]
        time.sleep(SECONDS)
        # Between the commit and the log of something: what follows it must not tell of it twice.
        os.kill(worker_pids(strict.b)[0], signal.SIGKILL)
        time.sleep(SECONDS)
        over.set()
    made = {request_id: key for one in begun for request_id, key in one.result().items()}
    records = {name: exported(server, strict.person.realm_id) for name, server in nodes.items()}
    told = Counter(
        (record["request_id"], record["key"])
        for found in records.values()
        for record in found
        if record["event"] == "keys.create" and record["outcome"] == "ok"
    )
    print(f"{len(made)} acknowledged, {sum(told.values())} told")
    assert {change: told[change] for change in made.items()} == dict.fromkeys(made.items(), 1)
    assert set(told.values()) == {1}
    for name, found in records.items():
        others = [record["request_id"] for record in found if record["request_id"][0] in set(nodes) - {name}]
        assert others == []
        assert qimem("audit", "verify", "--data-dir", nodes[name].data).code == 0
