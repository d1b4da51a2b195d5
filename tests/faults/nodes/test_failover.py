"""The primary dies or falls silent, its standby takes over, and the server finds it by itself."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.nodes.conftest import KEYS, REVOKE, REVOKED
from tests.faults.postgres.conftest import BACK_SECONDS, faulty_answers, refused, standing_still
from tests.support.fault_load import ANSWER_SECONDS, Watch
from tests.support.load import Wire, a_world, tireless
from tests.support.postgres import Cluster
from tests.support.server import Server, ok
from tests.support.volume import volume

LOAD_SECONDS = 0.5


@dataclass(frozen=True)
class Two:
    """A server's primary and its synchronous standby."""

    primary: Cluster
    standby: Cluster

    def url(self, database: str) -> str:
        """Both of them, the primary first."""
        places = ",".join(f"{one.host}:{one.port}" for one in (self.primary, self.standby))
        return f"postgresql://postgres@{places}/{database}"


@contextlib.contextmanager
def two_servers() -> Iterator[tuple[Two, str]]:
    """With the URL of an empty database."""
    with contextlib.ExitStack() as stack:
        primary = Cluster()
        stack.callback(primary.stop)
        standby = Cluster(primary=primary)
        stack.callback(standby.stop)
        primary.wait_for("*")
        database = primary.create(migrated=False).rpartition("/")[2]
        yield Two(primary, standby), Two(primary, standby).url(database)


@contextlib.contextmanager
def dead(two: Two) -> Iterator[None]:
    two.primary.crash()
    yield


@contextlib.contextmanager
def silent(two: Two) -> Iterator[None]:
    """Connections are accepted, and nobody answers: the machine is away, or hangs."""
    with standing_still(two.primary):
        yield


HOW = {"dead": dead, "silent": silent}


def take_over(place: Path, how: str) -> list[str]:
    """Load, the end of the primary, the standby's promotion, and the time after it; what went wrong."""
    with (
        two_servers() as (two, url),
        a_world(Server(place, workers=volume(2, share=0.5), database_url=url)) as world,
        contextlib.closing(Wire(world.server.url)) as wire,
    ):
        person = tireless(world)
        wire.token = person.login()["access_token"]
        assert wire.get(KEYS).status == 200
        with Watch(world.server, person, wires=2) as watch:
            time.sleep(LOAD_SECONDS)
            ok(person.post(REVOKE, {"token": wire.token}))
            with HOW[how](two):
                with watch.during("fault"):
                    # Sooner, a standstill is a slow answer.
                    time.sleep(LOAD_SECONDS if how == "dead" else ANSWER_SECONDS + LOAD_SECONDS)
                    two.standby.promote()
                took = watch.recovers(BACK_SECONDS)
                print(f"{refused(watch, 'fault')} refused; serving {took:.2f} s after the promotion")
                let_in = [wire.get(KEYS).short for _ in range(4)]
        findings = faulty_answers(watch) + [f"revoked: {one}" for one in let_in if one != REVOKED]
        return findings if refused(watch, "fault") else [*findings, "nobody noticed the fault"]


@pytest.mark.acceptance
@pytest.mark.parametrize("how", ["silent", "dead"][: volume(2, share=0.5)])
def test_a_standby_takes_over_and_nothing_that_was_acknowledged_is_lost(tmp_path: Path, how: str) -> None:
    for number in range(volume(5, share=0.2)):
        place = tmp_path / str(number)
        place.mkdir()
        assert take_over(place, how) == []
