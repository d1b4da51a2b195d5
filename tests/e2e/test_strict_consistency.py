"""What one worker acknowledged, every worker knows at the next request. Seen from outside, on real processes.

Each scenario returns what it found wrong. It must find nothing on the product, and something on a
server that is broken on purpose, else it proves nothing.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.support.api import Person, World
from tests.support.load import (
    PLACES,
    Reply,
    Seen,
    Wire,
    a_world,
    at_once,
    burst,
    get,
    new_server,
    of_each_worker,
    operator_of,
    out_of_order,
    post,
    shared_server,
    spread,
    stopped,
    tireless,
)
from tests.support.server import ok
from tests.support.volume import volume

STOPPED_SECONDS = 3.0
ENCRYPT, DECRYPT, ROTATE = (f"/v1/security/{verb}" for verb in ("encrypt", "decrypt", "rotate"))
KEYS, REVOKE, REFRESH = "/v1/security/keys", "/v1/auth/token/revoke", "/v1/auth/token/refresh"


@dataclass
class Scene:
    """A person with a key, connected to every worker.

    Args:
        findings: What went wrong so far.
    """

    person: Person
    wires: Sequence[Wire]
    findings: list[str] = field(default_factory=list)
    key: dict[str, Any] = field(default_factory=dict)

    def expect(self, replies: Sequence[Reply], status: int, code: str | None, what: str) -> None:
        """Note every answer that is another one."""
        wrong = [reply.short for reply in replies if reply.short != (status, code)]
        if wrong:
            self.findings.append(f"{what}: {wrong} among {len(replies)} instead of {status} {code}")

    def expect_versions(self, replies: Sequence[Reply], version: int, what: str) -> None:
        """Note every answer under another version."""
        self.expect(replies, 200, None, what)
        told = [reply.body["version"] for reply in replies if reply.status == 200]
        if told != [version] * len(told):
            self.findings.append(f"{what}: versions {told} instead of {version}")

    def encrypt_by(self, field_: str) -> list[Reply]:
        return burst(self.wires, post(ENCRYPT, {field_: self.key[field_], "input": "x"}))

    def every_use(self, envelope: str) -> Iterator[tuple[str, list[Reply]]]:
        """All ways to use the current version, on all connections."""
        for name in ("key_id", "lineage_id", "name"):
            yield f"encrypt by {name}", self.encrypt_by(name)
        yield "decrypt", burst(self.wires, post(DECRYPT, {"input": envelope}))


def on_stage(world: World, play: Callable[[Scene, int], None], count: int) -> list[str]:
    """Set the scene for a person of their own, play, and tell what went wrong."""
    person = tireless(world)
    with spread(world.server, person.access_token) as wires:
        scene = Scene(person, wires)
        scene.key = wires[0].done(KEYS, {"name": "orders"})
        play(scene, count)
    return scene.findings


def rotate_and_use(scene: Scene, count: int) -> None:
    """After each rotation, `count` encryptions in all, by lineage and name; and one burst by the old id."""
    for number in range(-(-count // (2 * len(scene.wires)))):
        old = scene.key
        scene.expect_versions(scene.encrypt_by("key_id"), old["version"], "by id, while active")
        scene.key = scene.wires[number % len(scene.wires)].done(ROTATE, {"key_id": old["key_id"]})
        scene.expect_versions(
            scene.encrypt_by("lineage_id"), old["version"] + 1, "by lineage, after rotation"
        )
        by_old_id = burst(scene.wires, post(ENCRYPT, {"key_id": old["key_id"], "input": "x"}))
        scene.expect(by_old_id, 400, "key_inactive", "by the old id, after rotation")
        scene.expect_versions(scene.encrypt_by("name"), old["version"] + 1, "by name, after rotation")


def disable_and_enable(scene: Scene, count: int) -> None:
    """Disabled, nothing is encrypted or decrypted; enabled, everything is, both from the next request on."""
    envelope = scene.wires[0].done(ENCRYPT, {"name": "orders", "input": "x"})["envelope"]
    switch = itertools.cycle(scene.wires)
    for number in range(count):
        scope = ("version", "lineage")[number % 2]
        for what, replies in scene.every_use(envelope):
            scene.expect_versions(replies, 1, f"{what}, enabled")
        next(switch).done(f"{KEYS}/{scene.key['key_id']}/disable", {"scope": scope})
        for what, replies in scene.every_use(envelope):
            scene.expect(replies, 400, "key_disabled", f"{what}, disabled by {scope}")
        next(switch).done(f"{KEYS}/{scene.key['key_id']}/enable", {"scope": scope})


def revoke_an_access_token(scene: Scene, count: int) -> None:
    """`count` requests with tokens whose revocation was acknowledged before."""
    refresh_token = scene.person.refresh_token
    for number in range(-(-count // len(scene.wires))):
        pair = ok(scene.person.post(REFRESH, {"refresh_token": refresh_token}))
        refresh_token = pair["refresh_token"]
        _refused_after(
            scene, pair["access_token"], scene.wires[number % len(scene.wires)], pair["access_token"]
        )


def revoke_a_grant(scene: Scene, count: int) -> None:
    """`count` requests with access tokens whose refresh token's revocation was acknowledged before."""
    for number in range(-(-count // len(scene.wires))):
        pair = scene.person.login()
        _refused_after(
            scene, pair["access_token"], scene.wires[number % len(scene.wires)], pair["refresh_token"]
        )


def revoke_amid_traffic(scene: Scene, count: int) -> None:
    """As `revoke_an_access_token`, while other tokens of the realm keep every worker asking for its epoch."""
    busy, scene.wires = scene.wires[:4], scene.wires[4:]
    over = threading.Event()

    def go_on(wire: Wire) -> None:
        while not over.is_set():
            scene.expect([wire.get(KEYS)], 200, None, "a live token meanwhile")

    def revoke() -> None:
        try:
            revoke_an_access_token(scene, count)
        finally:
            over.set()

    at_once([revoke, *(lambda w=wire: go_on(w) for wire in busy)])


def _refused_after(scene: Scene, access_token: str, through: Wire, revoked: str) -> None:
    for wire in scene.wires:
        wire.token = access_token
    scene.expect(burst(scene.wires, get(KEYS)), 200, None, "before the revocation")
    through.done(REVOKE, {"token": revoked})
    scene.expect(burst(scene.wires, get(KEYS)), 401, "invalid_token", "after the revocation")


def write_history(scene: Scene, count: int) -> None:
    """Two connections rotate, one on each worker, while six encrypt; then the whole history is judged."""
    made, used = [], []
    enough = itertools.count()

    def go_on(wire: Wire, request: tuple[str, dict[str, str]], into: list[Seen]) -> None:
        while next(enough) < count:
            reply = wire.post(*request)
            if reply.status == 200:
                into.append(Seen(reply.sent, reply.received, reply.body["version"]))
            else:
                scene.findings.append(f"{request[0]}: {reply.short}")

    named = {"name": "orders"}
    made.append(Seen(0, 0, scene.key["version"]))
    at_once(
        [lambda w=wire: go_on(w, (ROTATE, named), made) for wire in scene.wires[:2]]
        + [lambda w=wire: go_on(w, (ENCRYPT, named | {"input": "x"}), used) for wire in scene.wires[2:]]
    )
    scene.findings += out_of_order(made, used)
    if len(made) < 3 or len(used) < count // 4:
        scene.findings.append(f"too little to judge: {len(made)} rotations, {len(used)} encryptions")


def stop_a_worker(scene: Scene, seconds: int) -> None:
    """One worker stands still while a token and a key version die on the other; then it wakes."""
    (sleeper, asleep), *others = of_each_worker(scene.wires).items()
    awake, half = [wire for _, wires in others for wire in wires], len(asleep) // 2
    dying = scene.person.login()["access_token"]
    live = scene.person.access_token
    scene.expect_versions(scene.encrypt_by("name"), 1, "before")
    for wire in asleep[:half]:
        wire.token = dying
    scene.expect(burst(asleep[:half], get(KEYS)), 200, None, "before the revocation")
    with stopped(sleeper):
        until = time.monotonic() + seconds
        awake[0].done(REVOKE, {"token": dying})
        awake[1].done(ROTATE, {"key_id": scene.key["key_id"]})
        for wire in asleep[:half]:
            wire.send(*get(KEYS))
        for wire in asleep[half:]:
            wire.send(*post(ENCRYPT, {"name": "orders", "input": "x"}))
        while True:
            # The others go on all the time, which is what fills the pause.
            scene.expect_versions(
                burst(awake, post(ENCRYPT, {"name": "orders", "input": "x"})), 2, "while one is stopped"
            )
            if time.monotonic() > until:
                break
    scene.expect([wire.receive() for wire in asleep[:half]], 401, "invalid_token", "revoked while stopped")
    scene.expect_versions([wire.receive() for wire in asleep[half:]], 2, "rotated while stopped")
    for wire in asleep:
        wire.token = live
    scene.expect_versions(scene.encrypt_by("name"), 2, "after")


@pytest.fixture(scope="module", params=PLACES)
def two_workers(request: pytest.FixtureRequest) -> Iterator[World]:
    """The operator of a sound server."""
    with operator_of(shared_server(request, request.param)) as world:
        yield world


@pytest.mark.acceptance
def test_after_a_rotation_no_worker_encrypts_under_the_old_version(two_workers: World) -> None:
    assert on_stage(two_workers, rotate_and_use, volume(10_000, share=0.03)) == []


@pytest.mark.acceptance
def test_a_disabled_key_does_nothing_and_an_enabled_one_everything_at_once(two_workers: World) -> None:
    assert on_stage(two_workers, disable_and_enable, volume(2_000, share=0.005)) == []


@pytest.mark.acceptance
def test_versions_never_go_backwards_in_real_time(two_workers: World) -> None:
    assert on_stage(two_workers, write_history, volume(20_000, share=0.05)) == []


@pytest.mark.acceptance
def test_a_revoked_access_token_opens_nothing_on_any_worker(two_workers: World) -> None:
    assert on_stage(two_workers, revoke_an_access_token, volume(10_000)) == []


@pytest.mark.acceptance
def test_a_revoked_access_token_opens_nothing_amid_traffic(two_workers: World) -> None:
    assert on_stage(two_workers, revoke_amid_traffic, volume(5_000, share=0.01)) == []


@pytest.mark.acceptance
def test_a_revoked_refresh_token_takes_its_access_tokens_along_on_every_worker(two_workers: World) -> None:
    assert on_stage(two_workers, revoke_a_grant, volume(10_000)) == []


def test_a_worker_that_was_stopped_wakes_up_to_the_present(two_workers: World) -> None:
    assert on_stage(two_workers, stop_a_worker, int(STOPPED_SECONDS)) == []


# Negative controls: the same scenarios on broken servers.


@pytest.fixture(scope="module")
def trusting(request: pytest.FixtureRequest) -> Iterator[World]:
    """The operator of a server whose workers trust their memory for a second."""
    with operator_of(shared_server(request, "sqlite", "trusts_cache")) as world:
        yield world


def tells_of(findings: Sequence[str], *words: str) -> bool:
    """Whether something was found, and it is what the fault does."""
    print(*findings, sep="\n")
    return any(word in finding for word in words for finding in findings)


@pytest.mark.parametrize(
    ("play", "count", "word"),
    [
        (rotate_and_use, 48, "after rotation"),
        (disable_and_enable, 2, "disabled by"),
        (revoke_an_access_token, 24, "after the revocation"),
        (revoke_a_grant, 24, "after the revocation"),
        (write_history, 1_000, "was told before it began"),
    ],
)
def test_a_memory_that_is_trusted_for_a_second_is_found_out(
    trusting: World, play, count: int, word: str
) -> None:
    assert tells_of(on_stage(trusting, play, count), word)


def test_a_memory_that_is_trusted_through_a_stop_is_found_out(trusting: World) -> None:
    # Its second may pass before the stopped worker wakes; then nothing is wrong, and the next try tells.
    tries = (on_stage(trusting, stop_a_worker, 0) for _ in range(10))
    assert any(tells_of(findings, "revoked while stopped", "rotated while stopped") for findings in tries)


@pytest.mark.acceptance
def test_a_slow_epoch_query_is_not_shared_with_those_who_came_after_it(request, tmp_path) -> None:
    with a_world(new_server(request, tmp_path, "postgresql", "is_far_from_its_database")) as world:
        assert on_stage(world, revoke_amid_traffic, volume(1_000, share=0.03)) == []


def test_a_query_shared_with_those_who_came_after_it_is_found_out(request, tmp_path) -> None:
    with a_world(new_server(request, tmp_path, "postgresql", "joins_a_query_under_way")) as world:
        assert tells_of(on_stage(world, revoke_amid_traffic, 40), "after the revocation")


# The judge of histories, on histories made up for it.

MADE = [Seen(0, 0, 1), Seen(10, 20, 2), Seen(30, 40, 3)]


@pytest.mark.parametrize(
    "used",
    [
        [Seen(1, 2, 1), Seen(21, 22, 2), Seen(41, 42, 3)],
        [Seen(11, 19, 1), Seen(11, 19, 2)],
        [Seen(15, 50, 1), Seen(15, 50, 3)],
        [Seen(11, 12, 1), Seen(13, 14, 2), Seen(15, 25, 2)],
    ],
)
def test_a_history_that_one_place_could_have_answered_is_accepted(used: list[Seen]) -> None:
    assert out_of_order(MADE, used) == []


@pytest.mark.parametrize(
    ("made", "used"),
    [
        (MADE, [Seen(21, 22, 1)]),
        (MADE, [Seen(41, 42, 2)]),
        (MADE, [Seen(11, 12, 2), Seen(13, 14, 1)]),
        (MADE, [Seen(1, 2, 2)]),
        (MADE, [Seen(50, 51, 4), Seen(52, 53, 3)]),
        ([*MADE, Seen(50, 60, 3)], []),
        ([Seen(0, 0, 1), Seen(10, 20, 3)], []),
        ([Seen(0, 0, 1), Seen(30, 40, 2), Seen(10, 20, 3)], []),
    ],
    ids=["old after the next", "old after all", "back again", "too early", "back from nowhere", "twice", "a hole",
         "made backwards"],
)  # fmt: skip
def test_a_history_that_no_one_place_could_have_answered_is_refused(made, used) -> None:
    assert out_of_order(made, used)
