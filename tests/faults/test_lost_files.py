"""Files of the live database are taken away: refused at once, nothing acknowledged is lost, and it mends itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.conftest import Faulty, crash_and_start, judge, on_a_faulty_disk
from tests.faults.test_failing_disk import UNDONE, UNKNOWN
from tests.support.fault_load import RECOVERY_SECONDS, Watch
from tests.support.server import Server
from tests.support.volume import volume

HEALTH = frozenset({"health"})
AWAY_SECONDS = 0.4
MENDED = "the database files are back"


def log_of(server: Server) -> Path:
    return server.data / "qimem.db-wal"


def memory_of(server: Server) -> Path:
    return server.data / "qimem.db-shm"


def unlink_log(server: Server) -> None:
    log_of(server).unlink()


def replace_log(server: Server) -> None:
    new = log_of(server).with_suffix(".new")
    new.touch()
    new.replace(log_of(server))


def unlink_memory(server: Server) -> None:
    memory_of(server).unlink()


def unlink_both(server: Server) -> None:
    unlink_log(server)
    unlink_memory(server)


def move_database_away_and_back(server: Server) -> None:
    database = server.data / "qimem.db"
    elsewhere = database.rename(server.data / "elsewhere")
    time.sleep(AWAY_SECONDS)
    elsewhere.rename(database)


TAKEN = (unlink_log, replace_log, unlink_memory, unlink_both, move_database_away_and_back)


def lose(faulty: Faulty, take: Callable[[Server], None], seconds: float = RECOVERY_SECONDS) -> Watch:
    with Watch(faulty.server, faulty.person) as watch:
        time.sleep(0.3)
        with watch.during("lost"):
            take(faulty.server)
            time.sleep(0.1)
        watch.recovers(seconds)
    return watch


@pytest.mark.acceptance
@pytest.mark.parametrize("take", TAKEN, ids=lambda take: take.__name__)
def test_lost_files_are_taken_up_again(faulty: Faulty, take: Callable[[Server], None]) -> None:
    for _ in range(volume(20, share=0.05)):
        mended = faulty.server.log.read_text().count(MENDED)
        watch = lose(faulty, take)
        # One worker alone can be done before anybody asks.
        assert faulty.server.log.read_text().count(MENDED) >= mended + faulty.server.workers
        refused = {answer.code for answer in watch.answers if answer.status == 503}
        assert refused <= {UNDONE, UNKNOWN}
        judge(watch, unaffected=HEALTH)


def test_what_was_in_a_lost_log_survives_the_crash_after_it(faulty: Faulty) -> None:
    watch = lose(faulty, unlink_both)
    crash_and_start(faulty.server)
    assert watch.lost_or_half_done() == []


def test_a_server_that_gives_up_is_found_out(tmp_path: Path) -> None:
    with (
        on_a_faulty_disk(tmp_path, "gives_lost_files_up") as stubborn,
        pytest.raises(AssertionError, match="503"),
    ):
        lose(stubborn, unlink_log, 1.5)
