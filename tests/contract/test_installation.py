"""How a database becomes an installation and is opened again, the same on both databases."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from qimem.bootstrap import database, first, serving
from qimem.bootstrap.database import location
from qimem.bootstrap.first import AdminChoice, AlreadyInitialised, Installed
from qimem.bootstrap.serving import Running
from qimem.config.schema import DatabaseSettings, ServerSettings, Settings
from qimem.errors import Invalid, Unavailable, storage_unavailable
from qimem.kernel.ids import SYSTEM_REALM
from qimem.kernel.refusal import Refused
from qimem.kernel.secret import SecretBytes, SecretText
from qimem.storage.schema import METADATA
from qimem.storage.statement import sql

pytestmark = pytest.mark.anyio

KEY, OTHER_KEY = bytes(range(32)), bytes(range(1, 33))
ADDRESS, OTHER_ADDRESS = "http://127.0.0.1:8080", "http://127.0.0.1:9090"
OPERATOR = AdminChoice("ada", SecretText("a long enough phrase"))


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str | None:
    """Of an empty database; None for the embedded one."""
    return None if request.param == "sqlite" else request.getfixturevalue("postgres_url")


@pytest.fixture
def data(tmp_path: Path, database_url: str | None) -> Settings:
    """Settings of a server that was never started."""
    return settings(tmp_path, database_url)


def settings(directory: Path, url: str | None, external_url: str | None = None) -> Settings:
    return Settings(
        server=ServerSettings(data_dir=directory, external_url=external_url),
        database=DatabaseSettings(url=None if url is None else SecretText(url)),
    )


def with_external_url(data: Settings, external_url: str) -> Settings:
    url = data.database.url
    return settings(data.server.data_dir, None if url is None else url.reveal(), external_url)


async def initialise(data: Settings, key: bytes = KEY, admin: AdminChoice = OPERATOR) -> Installed:
    return await first.initialise(data, SecretBytes(key), admin)


@asynccontextmanager
async def started(data: Settings, address: str = ADDRESS, key: bytes = KEY) -> AsyncIterator[Running]:
    # A copy: what was started wipes its key when it ends.
    running = await serving.start(data, SecretBytes(key), address)
    try:
        yield running
    finally:
        await running.close()


def issuer(running: Running) -> str:
    return running._core.issuers.of(SYSTEM_REALM)


async def everything(data: Settings) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table."""
    database = location(data).open()
    try:
        tables = {table.name: sql(sa.select(*table.c)) for table in METADATA.sorted_tables}
        rows = {
            name: await database.read(lambda tx, all_of=each: tx.all(all_of)) for name, each in tables.items()
        }
    finally:
        await database.close()
    return {name: sorted(map(tuple, found), key=repr) for name, found in rows.items()}


async def test_an_installation_has_one_realm_one_operator_and_one_client(data: Settings) -> None:
    installed = await initialise(data)
    rows = await everything(data)
    counts = {
        name: len(rows[name]) for name in ("instance", "realm", "epoch", "realm_kek", "app_user", "client")
    }
    assert counts == dict.fromkeys(counts, 1)
    assert (installed.realm_id, installed.username, installed.password) == ("system", "ada", None)
    assert await database.is_initialised(data)


async def test_without_a_password_one_is_generated_and_told_once(data: Settings) -> None:
    installed = await initialise(data, admin=AdminChoice())
    assert installed.password is not None
    assert len(installed.password) >= 32
    assert installed.password.reveal() not in repr(await everything(data))


async def test_what_is_handed_out_stands_nowhere_in_the_database(data: Settings) -> None:
    installed = await initialise(data)
    told = repr(await everything(data))
    assert installed.client_secret.reveal() not in told
    assert OPERATOR.password is not None
    assert OPERATOR.password.reveal() not in told
    assert repr(KEY)[2:-1] not in told


@pytest.mark.parametrize(
    ("key", "admin"), [(KEY, OPERATOR), (OTHER_KEY, AdminChoice("bob"))], ids=["as before", "all other"]
)
async def test_a_second_initialisation_is_refused_and_changes_nothing(
    data: Settings, key: bytes, admin: AdminChoice
) -> None:
    await initialise(data)
    before = await everything(data)
    with pytest.raises(AlreadyInitialised):
        await initialise(with_external_url(data, "https://elsewhere.example"), key, admin)
    assert await everything(data) == before


async def test_an_operator_that_cannot_be_leaves_an_empty_database(data: Settings) -> None:
    assert OPERATOR.password is not None
    for username, password in (("ada", "short"), ("ada", "password123"), ("two words", None), ("", None)):
        with pytest.raises(Invalid):
            await initialise(
                data, admin=AdminChoice(username, SecretText(password) if password else OPERATOR.password)
            )
    assert not await database.is_initialised(data)
    assert not any((await everything(data)).values())
    await initialise(data)


async def test_looking_for_an_installation_makes_nothing(data: Settings) -> None:
    assert not await database.is_initialised(data)
    assert not list(data.server.data_dir.iterdir())
    database.migrate(data)
    assert not await database.is_initialised(data)


async def test_a_database_without_an_installation_is_not_started(data: Settings) -> None:
    database.migrate(data)
    with pytest.raises(Refused, match="no installation"):
        await serving.start(data, SecretBytes(KEY), ADDRESS)
    assert not any((await everything(data)).values())


async def test_another_root_key_is_refused_and_changes_nothing(data: Settings) -> None:
    await initialise(data)
    before = await everything(data)
    for key in (OTHER_KEY, bytes(32), KEY[::-1], KEY[:-1] + b"\x1e"):
        with pytest.raises(Refused, match="not the one this database was made with"):
            await serving.start(data, SecretBytes(key), ADDRESS)
    assert await everything(data) == before
    async with started(data):
        pass


async def test_the_first_start_stores_its_address_and_later_ones_keep_it(data: Settings) -> None:
    await initialise(data)
    for address in (ADDRESS, OTHER_ADDRESS, ADDRESS):
        async with started(data, address) as running:
            assert issuer(running) == f"{ADDRESS}/realms/system"


async def test_a_configured_address_is_stored_when_the_installation_is_made(data: Settings) -> None:
    await initialise(with_external_url(data, "https://id.example"))
    async with started(data) as running:
        assert issuer(running) == "https://id.example/realms/system"


async def test_a_configured_address_is_stored_at_the_first_start(data: Settings) -> None:
    await initialise(data)
    async with started(with_external_url(data, "https://id.example")) as running:
        assert issuer(running) == "https://id.example/realms/system"
    async with started(data, OTHER_ADDRESS) as running:
        assert issuer(running) == "https://id.example/realms/system"


async def test_another_configured_address_than_the_stored_one_is_refused_and_changes_nothing(
    data: Settings,
) -> None:
    await initialise(data)
    async with started(data):
        pass
    before = await everything(data)
    for other in ("https://id.example", f"{ADDRESS}0", OTHER_ADDRESS):
        with pytest.raises(Refused, match=rf"external_url is {ADDRESS}:") as caught:
            await serving.start(with_external_url(data, other), SecretBytes(KEY), ADDRESS)
        assert caught.value.hint
    assert await everything(data) == before
    async with started(with_external_url(data, ADDRESS), OTHER_ADDRESS):
        pass


async def test_of_several_first_starts_at_once_one_stores_its_address_for_all(data: Settings) -> None:
    await initialise(data)
    addresses = [f"http://127.0.0.1:{8080 + number}" for number in range(4)]
    running = await asyncio.gather(*(serving.start(data, SecretBytes(KEY), address) for address in addresses))
    issuers = {issuer(each) for each in running}
    for each in running:
        await each.close()
    assert len(issuers) == 1
    assert issuers <= {f"{address}/realms/system" for address in addresses}


async def test_a_drain_that_cannot_give_back_its_leases_still_closes_and_wipes(
    data: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail() -> None:
        raise storage_unavailable()

    await initialise(data)
    key = SecretBytes(KEY)
    running = await serving.start(data, key, ADDRESS)
    with monkeypatch.context() as patch:
        patch.setattr(running._cipher, "give_back_leases", fail)
        try:
            with contextlib.suppress(Unavailable):
                await running.close()
            assert key.equals(bytes(32))
            with pytest.raises(Unavailable):
                await running._core.database.write(lambda tx: None)
        finally:
            patch.undo()
            if not key.equals(bytes(32)):
                await running.close()


async def assert_one_installation(data: Settings, keys: list[bytes], won: list[bool]) -> None:
    """The winner's is there whole, and nothing of the others."""
    assert won.count(True) == 1
    rows = await everything(data)
    counts = {name: len(rows[name]) for name in ("instance", "realm", "realm_kek", "app_user", "client")}
    assert counts == dict.fromkeys(counts, 1)
    for key, is_winner in zip(keys, won, strict=True):
        if is_winner:
            async with started(data, key=key):
                pass
        else:
            with pytest.raises(Refused, match="not the one"):
                await serving.start(data, SecretBytes(key), ADDRESS)


async def test_of_installers_at_once_one_wins_and_the_others_are_told(data: Settings) -> None:
    keys = [bytes([number]) * 32 for number in range(4)]
    database.migrate(data)
    results = await asyncio.gather(
        *(initialise(data, key, AdminChoice(f"operator-{key[0]}")) for key in keys), return_exceptions=True
    )
    assert {type(result) for result in results} == {Installed, AlreadyInitialised}
    await assert_one_installation(data, keys, [isinstance(result, Installed) for result in results])


_NODE = """
import asyncio, sys
from pathlib import Path
from qimem.bootstrap import database, first, serving
from qimem.config.schema import DatabaseSettings, ServerSettings, Settings
from qimem.kernel.secret import SecretBytes, SecretText
directory, url, key = sys.argv[1:]
settings = Settings(
    server=ServerSettings(data_dir=Path(directory)), database=DatabaseSettings(url=SecretText(url))
)
print("ready", flush=True)
sys.stdin.readline()
try:
    asyncio.run(first.initialise(settings, SecretBytes(bytes.fromhex(key)), first.AdminChoice()))
except Exception as error:
    print(type(error).__name__, error)
else:
    print("installed")
"""


async def test_of_nodes_that_make_schema_and_installation_at_once_one_wins(
    tmp_path: Path, postgres_url: str
) -> None:
    data = settings(tmp_path, postgres_url)
    keys = [bytes([number]) * 32 for number in range(3)]
    nodes = [
        subprocess.Popen(
            [sys.executable, "-c", _NODE, str(tmp_path), postgres_url, key.hex()],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for key in keys
    ]  # fmt: skip
    try:
        for node in nodes:
            assert node.stdout is not None
            assert node.stdout.readline() == "ready\n"
        for node in nodes:
            assert node.stdin is not None
            node.stdin.write("go\n")
            node.stdin.flush()
        said = [node.communicate(timeout=60)[0].split("\n")[0].strip() for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert set(said) == {"installed", "AlreadyInitialised"}
    await assert_one_installation(data, keys, [text == "installed" for text in said])
