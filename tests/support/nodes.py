"""Two nodes of one installation on machines of their own, and their PostgreSQL on a third."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.support.namespaces import Network
from tests.support.postgres import Cluster
from tests.support.server import Server

A, B, DB = "a", "b", "db"


@dataclass(frozen=True)
class Machines:
    """A network with PostgreSQL on one of its machines."""

    network: Network
    cluster: Cluster

    @classmethod
    @contextlib.contextmanager
    def made(cls) -> Iterator[Machines]:
        """Until the end of the block."""
        with Network(A, B, DB) as network:
            with network.inside(DB):
                cluster = Cluster(host=network.address(DB), guests=network.subnet)
            try:
                yield cls(network, cluster)
            finally:
                cluster.stop()

    def nodes(self, directory: Path, environment: Mapping[str, str]) -> Server:
        """A node of two workers on `a`, with another one on `b` as its peer, on an empty database."""
        url = self.cluster.create(migrated=False)
        first = self.node(A, directory / A, url, **environment)
        first.peers.append(self.node(B, directory / B, url, **environment))
        return first

    def node(
        self, machine: str, directory: Path, url: str, *, workers: int = 2, **environment: str
    ) -> Server:
        """One node of an installation."""
        directory.mkdir()
        return Server(
            directory,
            workers=workers,
            database_url=url,
            environment=environment,
            machine=partial(self.network.inside, machine),
            address=self.network.address(machine),
        )
