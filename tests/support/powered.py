"""A server on a disk whose power can be cut, alone or together with its PostgreSQL. Needs root: it mounts the disk."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.broken_durability import MODULE
from tests.support.broken_server import broken
from tests.support.crash_cycles import Mishap
from tests.support.load import rows
from tests.support.mounts import Ext4, ext4_disk, run
from tests.support.postgres import Cluster
from tests.support.processes import kill_tree
from tests.support.server import Server

MEBIBYTES = 256
DURABLE = {"fsync": "on", "full_page_writes": "on"}
MOMENT = (0.3, 2.0)


@dataclass(frozen=True)
class Powered:
    """What loses its power at once. Data directory, root key, credentials and cluster are all on the disk."""

    disk: Ext4
    server: Server
    cluster: Cluster | None = None

    def cut(self, starting: threading.Thread | None = None) -> None:
        """The disk first: what the processes do in their last moments does not reach it.

        Args:
            starting: Waits for the server to be ready, if it is not: it hears that there is none.
        """
        self.disk.cut_power()
        if self.server.process is not None:
            kill_tree(self.server.process.pid)
            if starting is not None:
                starting.join()
            self.server.kill()
        if self.cluster is not None:
            end_at_once(self.cluster)

    def restore(self) -> None:
        """Power, and the database server; not yet the server."""
        self.disk.restore_power()
        if self.cluster is not None:
            _let_everybody_pass(self.disk)
            self.cluster.start()

    def mishap(self) -> Mishap:
        """A power cut under load."""

        def strike(_: random.Random) -> None:
            self.cut()

        return Mishap(strike, MOMENT, _says_that_it_cannot, self.restore, self.damage)

    def damage(self) -> list[str]:
        """What the database itself finds wrong."""
        if self.cluster is not None:
            return []
        return [f"integrity: {row}" for row in rows(self.server, "PRAGMA integrity_check") if row != ("ok",)]


def _says_that_it_cannot(refusal: str) -> bool:
    return refusal.startswith("refused: (503,")


def end_at_once(cluster: Cluster) -> None:
    """As `pg_ctl stop -m immediate`, which would look for the process id on the disk; else kill -9."""
    cluster.process.send_signal(signal.SIGQUIT)
    try:
        cluster.process.wait(5)
    except subprocess.TimeoutExpired:
        kill_tree(cluster.process.pid)
        cluster.process.wait(5)


@contextlib.contextmanager
def embedded(*faults: str, workers: int = 2) -> Iterator[Powered]:
    """A server that was never started, and its disk; with faults, one that does not wait for its disk."""
    with _a_disk() as disk:
        home = disk.place.parent
        environment = broken(home, *faults, module=MODULE) if faults else {}
        server = Server(disk.place, workers, environment=environment, log_file=home / "log.txt")
        powered = Powered(disk, server)
        try:
            yield powered
        finally:
            _end(powered)


@contextlib.contextmanager
def with_postgres(**settings: str) -> Iterator[Powered]:
    """The same, and the PostgreSQL that it works with."""
    with _a_disk() as disk:
        _let_everybody_pass(disk)
        cluster = Cluster(disk.place, **DURABLE | settings)
        url = cluster.create(migrated=False)
        # Clusters are made in haste. What is tested begins now.
        run("sync", "-f", disk.place)
        log = disk.place.parent / "log.txt"
        powered = Powered(disk, Server(disk.place, 2, database_url=url, log_file=log), cluster)
        try:
            yield powered
        finally:
            _end(powered)


@contextlib.contextmanager
def _a_disk() -> Iterator[Ext4]:
    # Not below the directory of the test: PostgreSQL runs as a user who may not pass through that.
    home = Path(tempfile.mkdtemp(prefix="qimem-power-"))
    home.chmod(0o711)
    try:
        with ext4_disk(home / "disk", MEBIBYTES) as disk:
            yield disk
    finally:
        shutil.rmtree(home)


def _let_everybody_pass(disk: Ext4) -> None:
    disk.place.chmod(0o711)


def _end(powered: Powered) -> None:
    if powered.server.process is not None:
        kill_tree(powered.server.process.pid)
    powered.server.stop()
    if powered.cluster is not None:
        end_at_once(powered.cluster)
