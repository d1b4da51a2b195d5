"""An installation in this process: the services of production as several workers have them, on one database."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qimem.bootstrap import first
from qimem.bootstrap.core import Core
from qimem.bootstrap.database import location
from qimem.config.schema import DatabaseSettings, ServerSettings, Settings
from qimem.crypto.passwords import TESTING
from qimem.kernel.clock import ManualClock
from qimem.kernel.secret import SecretBytes, SecretText
from qimem.kms.root_keys import RootKeys
from qimem.storage.repositories.instance import InstanceRepository
from tests.support.audit import FakeIntents

URL = "https://id.example"
ADMIN_PASSWORD = "the first operator's phrase"


@dataclass
class Worker:
    """One worker of an installation."""

    database: Any
    core: Core
    services: Any

    @classmethod
    def of(cls, database: Any, root: RootKeys) -> Worker:
        core = Core(database, root, ManualClock(), URL, TESTING)
        unused: Any = None
        return cls(database, core, core.services(unused, FakeIntents(), unused, unused))


@dataclass
class Installation:
    """Workers on one database."""

    admin: first.Installed
    workers: list[Worker]

    @classmethod
    async def made(cls, directory: Path, url: str | None, workers: int = 2) -> Installation:
        server = ServerSettings(data_dir=directory, external_url=URL)
        database = DatabaseSettings(url=None if url is None else SecretText(url))
        chosen = replace(Settings(), server=server, database=database)
        secret = SecretBytes(bytes(range(32)))
        choice = first.AdminChoice(password=SecretText(ADMIN_PASSWORD))
        admin = await first.initialise(chosen, secret, choice)
        databases = [location(chosen).open() for _ in range(workers)]
        instance = await databases[0].read(InstanceRepository().find)
        assert instance is not None
        return cls(admin, [Worker.of(one, RootKeys(instance.instance_id, secret)) for one in databases])
