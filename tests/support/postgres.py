"""A private PostgreSQL for the tests: one cluster per test process, one database per test.

The cluster lives in a directory of its own, listens on a free loopback port, and does not wait for
the disk (fsync off: what is tested here is our use of PostgreSQL, not its durability). Each test
gets a copy of a migrated template, which takes some 30 ms. A missing server package is a failure.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg

from qimem.storage.migrations.runner import migrate_postgres

START_SECONDS = 60.0
_TEMPLATE = "qimem_template"


class PostgresMissing(AssertionError):
    """The tests need the server programs and never skip without them."""


def programs() -> Path:
    """Directory of `initdb` and `postgres`, the newest version installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("initdb")
    if not found and on_path is None:
        raise PostgresMissing("PostgreSQL is needed: apt-get install postgresql")
    return found[-1].parent if found else Path(str(on_path)).parent


class Cluster:
    """A running server. Stopped by its process id.

    Args:
        place: Where its directory is made; everybody may pass through it. By default in memory.
        host: The address that it listens on.
        guests: Network, as CIDR, of other machines that it lets in.
        primary: The server whose standby it is, from a copy of its data on.
        settings: Those that differ.
    """

    def __init__(
        self,
        place: Path | None = None,
        host: str = "127.0.0.1",
        guests: str | None = None,
        primary: Cluster | None = None,
        **settings: str,
    ) -> None:
        self.host = host
        memory = Path("/dev/shm")
        place = place or (memory if memory.is_dir() else None)
        self.directory = Path(tempfile.mkdtemp(prefix="qimem-pg-", dir=place))
        self._settings = settings
        self._data = self.directory / "data"
        self._user: dict[str, str] = {}
        if os.geteuid() == 0:
            # The server refuses to run as root.
            self._user = {"user": "postgres", "group": "postgres"}
            shutil.chown(self.directory, "postgres", "postgres")
        self.port = _free_port()
        self._numbers = itertools.count(1)
        self._bin = programs()
        if primary is None:
            self._run("initdb", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync",
                      "--no-instructions")  # fmt: skip
        else:
            self._run("pg_basebackup", "-h", primary.host, "-p", str(primary.port), "-U", "postgres", "-R",
                      "-c", "fast", "--no-sync")  # fmt: skip
        if guests is not None:
            with (self._data / "pg_hba.conf").open("a") as rules:
                rules.writelines(f"host {what} all {guests} trust\n" for what in ("all", "replication"))
        self.process = self.start()
        if primary is None:
            self._admin(f"CREATE DATABASE {_TEMPLATE}")
            migrate_postgres(self.url(_TEMPLATE))

    def _run(self, program: str, *options: str) -> None:
        subprocess.run(
            [self._bin / program, "-D", self._data, *options], check=True, capture_output=True, cwd=self.directory,
            extra_groups=[] if self._user else None, **self._user,
        )  # fmt: skip

    def wait_for(self, standbys: str) -> None:
        """Have every commit wait for a standby, from now on."""
        self._admin(f"ALTER SYSTEM SET synchronous_standby_names = '{standbys}'")
        self._admin("SELECT pg_reload_conf()")

    def promote(self) -> None:
        """A standby takes over; when this returns it takes writes."""
        assert self.execute("SELECT pg_promote()") == [(True,)]

    def start(self) -> subprocess.Popen[bytes]:
        """Start the server on the same data and port."""
        settings = {"listen_addresses": self.host, "port": self.port, "unix_socket_directories": self.directory,
                    "fsync": "off", "full_page_writes": "off",
                    "max_connections": 200, "shared_buffers": "32MB", "autovacuum": "off"} | self._settings  # fmt: skip
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        log = (self.directory / "log").open("ab")
        self.process = subprocess.Popen(
            [self._bin / "postgres", "-D", self._data, *options], stdout=log, stderr=log, cwd=self.directory,
            extra_groups=[] if self._user else None, **self._user,
        )  # fmt: skip
        log.close()
        self._wait()
        return self.process

    def url(self, database: str) -> str:
        """Where one of its databases is."""
        return f"postgresql://postgres@{self.host}:{self.port}/{database}"

    def create(self, *, migrated: bool = True) -> str:
        """URL of a new database, empty or with the schema."""
        name = f"test_{next(self._numbers)}"
        self._admin(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE if migrated else 'template0'}")
        return self.url(name)

    def drop(self, url: str) -> None:
        """Remove a database and whoever is still connected to it."""
        self._admin(f"DROP DATABASE IF EXISTS {url.rpartition('/')[2]} WITH (FORCE)")

    def crash(self) -> None:
        """End every connection at once, as a server that dies."""
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(30)

    def stop(self) -> None:
        """Stop the server and remove its directory."""
        self.crash()
        shutil.rmtree(self.directory, ignore_errors=True)

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run one statement as an operator; its rows."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def _admin(self, statement: str) -> None:
        self.execute(statement)

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                said = (self.directory / "log").read_text()
                assert self.process.poll() is None, said
                assert time.monotonic() < deadline, said
                time.sleep(0.02)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
