"""Two nodes of one installation on machines of their own, and their PostgreSQL on a third."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
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

    def nodes(self, directory: Path, *, workers: int = 2, **environment: str) -> Server:
        """A node on `a`, with one on `b` as its peer, on an empty database."""
        url = self.cluster.create(migrated=False)
        first, second = (
            Server(
                directory / machine,
                workers=workers,
                database_url=url,
                environment=environment,
                machine=partial(self.network.inside, machine),
                address=self.network.address(machine),
            )
            for machine in (A, B)
        )
        for node in (first, second):
            node.directory.mkdir()
        first.peers.append(second)
        return first
