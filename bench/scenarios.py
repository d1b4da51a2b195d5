"""What is measured, each by its name. Two sides of a pair run one directly after the other: A B A B …"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from bench import callers, load
from bench.callers import Caller
from bench.figures import Fact, Pair, Row, Run, RunRefused
from bench.load import CONNECTIONS, Request
from bench.servers import ROOT, Installation, Server, floor, run

KEYS_PER_REALM = 10
_HEAD_START_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured.

    Args:
        pairs: Pairs per scenario.
        seconds: Of each run.
        warm_up_seconds: Of a run on each side before the first pair; 0 for none.
        realms: In the small and in the large database.
        cycled: Of how many realms of the large one the load uses the tokens, keys and users.
        idle_seconds: How long a server rests before its memory is read.
    """

    pairs: int
    seconds: int
    warm_up_seconds: int
    realms: tuple[int, int]
    cycled: int
    idle_seconds: float


FULL = Effort(pairs=3, seconds=2, warm_up_seconds=1, realms=(10, 10_000), cycled=200, idle_seconds=1.0)
"""What a result is made from."""

SMOKE = Effort(pairs=1, seconds=1, warm_up_seconds=0, realms=(5, 50), cycled=10, idle_seconds=0.2)
"""Shows that everything works. Its figures mean nothing."""


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a pair: a name, and how to load it for some seconds."""

    name: str
    run: Callable[[int], Run]


class Stage:
    """The servers of one bench, started when a scenario first asks for them.

    Args:
        directory: Empty; gone after the bench.
    """

    def __init__(self, directory: Path, effort: Effort) -> None:
        self.directory = directory
        self.effort = effort
        self._stack = ExitStack()
        self._products: dict[bool, tuple[Server, Caller]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def product(self, *, audited: bool = True) -> tuple[Server, Caller]:
        """The product with one worker on data of its own, and who calls it."""
        if audited not in self._products:
            installation = Installation(self.directory / ("one-worker" if audited else "unaudited"))
            server = self._stack.enter_context(installation.server(audited=audited))
            self._products[audited] = server, callers.settle_in(installation, server)
        return self._products[audited]

    def compare(self, name: str, first: Side, second: Side, connections: int = CONNECTIONS) -> Row:
        """Warm up, then the pairs."""
        if self.effort.warm_up_seconds:
            first.run(self.effort.warm_up_seconds)
            second.run(self.effort.warm_up_seconds)
        seconds = self.effort.seconds
        pairs = [Pair(first.run(seconds), second.run(seconds)) for _ in range(self.effort.pairs)]
        return Row(name, first.name, second.name, connections, pairs)

    def beside_floor(
        self,
        name: str,
        request: Request,
        *,
        script: Callable[[Server], str] | None = None,
        connections: int = CONNECTIONS,
        audited: bool = True,
    ) -> Row:
        """The product beside the floor that gives the same answer to the same bytes."""
        server, _ = self.product(audited=audited)
        answer = load.ask(server, request)
        make = script or (lambda _: load.cycle([request]))
        with floor(self.directory, answer) as base:
            if load.ask(base, request) != answer:
                raise RunRefused("the floor gives another answer than it was told")
            return self.compare(
                name,
                loaded("floor", base, make, connections),
                loaded("qimem", server, make, connections),
                connections,
            )


def loaded(
    name: str, server: Server, script: Callable[[Server], str], connections: int = CONNECTIONS
) -> Side:
    """A side that loads a server; whatever a load leaves behind is done before anyone goes on."""

    def measured(seconds: int) -> Run:
        made = script(server)
        server.settle()
        result = load.measure(server, made, seconds, connections)
        server.settle()
        return result

    return Side(name, measured)


def start(stage: Stage) -> list[Row | Fact]:
    """From the command to `ready`, and what an idle worker weighs."""
    installation = Installation(stage.directory / "start")
    with installation.server(name="first-start") as server:
        first = server.start_seconds
    later, memory = [], []
    for _ in range(stage.effort.pairs):
        with installation.server(name="start") as server:
            later.append(server.start_seconds)
            time.sleep(stage.effort.idle_seconds)
            memory += server.worker_memory()
    with installation.server(workers=2, name="two-workers") as server:
        time.sleep(stage.effort.idle_seconds)
        of_two = server.worker_memory()
    if len(of_two) != 2:
        raise RunRefused(f"{len(of_two)} processes serve, not 2")
    return [
        Fact("first start to ready", "s", [first]),
        Fact("start to ready", "s", later),
        Fact("memory idle, 1 worker", "MB", memory),
        Fact("memory idle, each of 2 workers", "MB", of_two),
    ]


def encrypt(stage: Stage) -> list[Row | Fact]:
    """64 bytes; once more without the audit log."""
    rows: list[Row | Fact] = []
    for name, audited in (("encrypt", True), ("encrypt, no audit", False)):
        server, caller = stage.product(audited=audited)
        token = caller.token(server)
        callers.check_envelope(server, caller, token)
        rows.append(stage.beside_floor(name, caller.encrypt(token), audited=audited))
    return rows


def decrypt(stage: Stage) -> list[Row | Fact]:
    """64 bytes; once more without the audit log."""
    rows: list[Row | Fact] = []
    for name, audited in (("decrypt", True), ("decrypt, no audit", False)):
        server, caller = stage.product(audited=audited)
        token = caller.token(server)
        envelope = callers.check_envelope(server, caller, token)
        rows.append(stage.beside_floor(name, callers.decrypt(envelope, token), audited=audited))
    return rows


def client(stage: Stage) -> list[Row | Fact]:
    """A token by client credentials."""
    _, caller = stage.product()
    return [stage.beside_floor("client", caller.by_client())]


def introspect(stage: Stage) -> list[Row | Fact]:
    """What a user's access token is good for, asked by a service."""
    server, caller = stage.product()
    users = str(callers.answer(server, caller.by_password())["access_token"])
    request = replace(caller.introspect(users), token=caller.token(server))
    if callers.answer(server, request)["active"] is not True:
        raise RunRefused("a living token is not active")
    return [stage.beside_floor("introspect", request)]


def password(stage: Stage) -> list[Row | Fact]:
    """A token pair by password, beside the bare hash."""
    server, caller = stage.product()
    request = caller.by_password()
    load.ask(server, request)
    second = loaded("qimem", server, lambda _: load.cycle([request]))
    return [stage.compare("password", Side("Argon2id lane", _lane), second)]


def refresh(stage: Stage) -> list[Row | Fact]:
    """Rotations: every connection goes on with the token of an answer, and each token is spent once."""
    server, caller = stage.product()

    def script(loaded_server: Server) -> str:
        # The floor takes any token; it always gives the same one back.
        real = loaded_server is server
        tokens = [caller.refresh_token(server) if real else sample for _ in range(CONNECTIONS)]
        return load.refresh_chain(callers.REFRESH_PATH, tokens)

    sample = caller.refresh_token(server)
    return [stage.beside_floor("refresh", callers.refresh(sample), script=script)]


def single(stage: Stage) -> list[Row | Fact]:
    """Encrypt 64 bytes, one client, one request at a time."""
    server, caller = stage.product()
    request = caller.encrypt(caller.token(server))
    return [stage.beside_floor("single", request, connections=1)]


def busy(stage: Stage) -> list[Row | Fact]:
    """Encrypt 64 bytes and introspection, one client at a time, first alone and then while 32 others log in."""
    server, caller = stage.product()
    token = caller.token(server)
    return [
        _beside_logins(stage, "busy", caller.encrypt(token)),
        _beside_logins(stage, "busy introspect", caller.introspect(token)),
    ]


def _beside_logins(stage: Stage, name: str, request: Request) -> Row:
    server, caller = stage.product()
    requests = load.cycle([request])
    logins = load.cycle([caller.by_password()])
    alone = loaded("idle", server, lambda _: requests, 1)

    def during_logins(seconds: int) -> Run:
        with load.Load(server, logins, seconds + 1, CONNECTIONS) as around:
            time.sleep(_HEAD_START_SECONDS)
            measured = load.measure(server, requests, seconds, 1)
            if not around.running():
                raise RunRefused("the logins ended before the measurement did")
            load.parse(around.finish(), None)
        server.settle()
        # What the logins cost is in it too.
        return replace(measured, cpu_seconds=None)

    return stage.compare(name, alone, Side("during logins", during_logins), 1)


def workers(stage: Stage) -> list[Row | Fact]:
    """Encrypt 64 bytes with one worker and with two."""
    one, caller = stage.product()
    installation = Installation(stage.directory / "two-workers")
    with installation.server(workers=2) as two:
        other = callers.settle_in(installation, two)
        requests = {
            one: caller.encrypt(caller.token(one)),
            two: other.encrypt(other.token(two)),
        }

        def script(server: Server) -> str:
            return load.cycle([requests[server]])

        return [stage.compare("workers", loaded("1 worker", one, script), loaded("2 workers", two, script))]


def realms(stage: Stage) -> list[Row | Fact]:
    """Encrypt, login, introspection, key creation and lists with few and with many realms, and users."""
    few, many = stage.effort.realms
    small, large = Installation(stage.directory / "few"), Installation(stage.directory / "many")
    known = {"few": fill(small, few, few), "many": fill(large, many, min(many, stage.effort.cycled))}
    rows: list[Row | Fact] = []
    with small.server(name="few") as few_server, large.server(name="many") as many_server:
        tokens = {
            server.name: [caller.token(server) for caller in known[server.name]]
            for server in (few_server, many_server)
        }
        kinds: dict[str, Callable[[Caller, str], Request]] = {
            "realms encrypt": Caller.encrypt,
            "realms login": lambda caller, _: caller.by_password(),
            "realms introspect": Caller.introspect,
            "realms list users": Caller.list_users,
            "realms list keys": Caller.list_keys,
            # Last of these: afterwards there are other numbers of keys.
            "realms key": Caller.create_key,
        }
        for name, request in kinds.items():

            def script(server: Server, request: Callable[[Caller, str], Request] = request) -> str:
                pairs = zip(known[server.name], tokens[server.name], strict=True)
                return load.cycle([request(caller, token) for caller, token in pairs])

            first = loaded(f"{few:,} realms", few_server, script)
            rows.append(stage.compare(name, first, loaded(f"{many:,} realms", many_server, script)))
        rows.append(
            stage.compare(
                "realms list realms",
                loaded(f"{few:,} realms", few_server, _all_realms(small)),
                loaded(f"{many:,} realms", many_server, _all_realms(large)),
            )
        )
    return rows


def _all_realms(installation: Installation) -> Callable[[Server], str]:
    def script(server: Server) -> str:
        return load.cycle([callers.list_realms(callers.operator_token(installation, server))])

    return script


def fill(installation: Installation, count: int, cycled: int) -> list[Caller]:
    """A new installation with so many realms; callers of some of them."""
    installation.initialise()
    command = [sys.executable, "-m", "bench.many_realms", str(installation.data)]
    command += [str(number) for number in (count, KEYS_PER_REALM, cycled)]
    return [Caller(**caller) for caller in json.loads(run(command, installation.directory))]


def _lane(seconds: int) -> Run:
    command = [sys.executable, "-m", "bench.argon2_lane", str(seconds)]
    return Run(**json.loads(run(command, ROOT)))


SCENARIOS: dict[str, Callable[[Stage], list[Row | Fact]]] = {
    scenario.__name__: scenario
    for scenario in (
        start,
        encrypt,
        decrypt,
        client,
        introspect,
        password,
        refresh,
        single,
        busy,
        workers,
        realms,
    )
}
"""By name, in the order they run."""
