"""A rotation of the root key, cut off at every point: both databases are opened by what is there, and it goes on."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from qimem.bootstrap import backup, first, root_keys, root_rotation, serving
from qimem.bootstrap.database import location
from qimem.bootstrap.first import AdminChoice
from qimem.config.schema import DatabaseSettings, SealSettings, ServerSettings, Settings
from qimem.kernel.ids import SYSTEM_REALM
from qimem.kernel.refusal import Refused
from qimem.kernel.secret import SecretBytes, SecretText
from qimem.kms import root_rotation as engine
from qimem.kms.seal.keyfile import KeyFileSeal
from qimem.server import installation, root_key
from qimem.storage.schema import realm_kek
from qimem.storage.statement import sql
from tests.support.audit_log import logged

pytestmark = pytest.mark.anyio

NEXT = b"n" * 32
_WRAPPED = sql(sa.select(realm_kek.c.wrapped).where(realm_kek.c.realm_id == sa.bindparam("realm_id")))
_DAMAGE = sql(
    sa.update(realm_kek).where(realm_kek.c.realm_id == sa.bindparam("of")).values(wrapped=sa.bindparam("to"))
)


class Cut(Exception):
    """The process ends here."""


@pytest.fixture(params=["sqlite", "postgresql"])
def data(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    url = None if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    return Settings(
        server=ServerSettings(data_dir=tmp_path / "data"),
        database=DatabaseSettings(url=None if url is None else SecretText(url)),
    )


@pytest.fixture
async def made(data: Settings) -> Settings:
    """An installation with its root key in the file beside it."""
    data.server.data_dir.mkdir(mode=0o700)
    await first.initialise(data, key_file(data).create(), AdminChoice())
    return data


def key_file(data: Settings) -> KeyFileSeal:
    return KeyFileSeal(Path(f"{data.server.data_dir}.root.key"))


def given(data: Settings, key: bytes = NEXT) -> Path | None:
    """The new key as an operator hands it over, where one has to."""
    if data.database.url is None:
        return None
    file = data.server.data_dir.parent / "given.key"
    file.write_bytes(key)
    file.chmod(0o600)
    return file


async def rotate(data: Settings) -> root_key.Rotated:
    new = None if key_file(data).successor.exists() else given(data)
    return await root_key.rotate(data, {}, new)


async def generations(data: Settings) -> list[int]:
    return [each.number for each in (await root_keys.look_at(data))[1]]


@asynccontextmanager
async def started(data: Settings, key: bytes | None = None) -> AsyncIterator[Any]:
    """A server as it starts on what is there; it was given this key, if not the one in the file."""
    opened = await installation.open_or_initialise(data, AdminChoice(), {}, url="http://127.0.0.1:1")
    running = await serving.start(
        data, opened.root_key if key is None else SecretBytes(key), "http://127.0.0.1:1"
    )
    try:
        yield running
    finally:
        await running.close()


async def serves(data: Settings, key: bytes | None = None) -> None:
    async with started(data, key) as running:
        assert (await running._core.keyring.record_sealer(SYSTEM_REALM)).version == 1


async def test_everything_moves_and_the_old_key_is_refused(made: Settings) -> None:
    old = key_file(made).path.read_bytes()
    done = await rotate(made)
    assert (done.generation, done.rewrapped, done.root_key_file) == (2, 1, key_file(made).location)
    assert not key_file(made).successor.exists()
    assert key_file(made).path.read_bytes() != old
    await serves(made)
    key_file(made).path.write_bytes(old)
    with pytest.raises(Refused, match="not the one this database was made with"):
        await serves(made)


async def test_a_process_that_still_has_the_old_key_finds_the_new_one(made: Settings) -> None:
    """A worker takes its key from a supervisor that was started before."""
    old = key_file(made).path.read_bytes()
    await rotate(made)
    await serves(made, old)


async def test_it_can_be_done_again_and_again(made: Settings) -> None:
    seen = {key_file(made).path.read_bytes()}
    for number in (2, 3, 4):
        new = given(made, bytes([number]) * 32)
        assert (await root_key.rotate(made, {}, new)).generation == number
        seen.add(key_file(made).path.read_bytes())
        await serves(made)
    assert len(seen) == 4


async def test_its_beginning_and_its_end_are_recorded(made: Settings) -> None:
    await rotate(made)
    records = [(one.event, one.target, one.subject, one.outcome) for one in logged(made.server.data_dir)]
    assert records == [
        ("root-key.rotate", "generation 2", "installer", "ok"),
        ("root-key.retire", "generation 1", "installer", "ok"),
    ]


async def cut_after_files(data: Settings, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(root_rotation, "opened_alone", _cut)


async def cut_after_begin(data: Settings, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(root_rotation, "_finished", _cut)


async def cut_before_the_last_step(data: Settings, patch: pytest.MonkeyPatch) -> None:
    walk = engine.Rewrapping.walk

    async def walked(self: engine.Rewrapping) -> Any:
        await walk(self)
        raise Cut

    patch.setattr(engine.Rewrapping, "walk", walked)


async def cut_before_the_name(data: Settings, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(KeyFileSeal, "succeed", _cut)


def _cut(*_: object) -> Any:
    raise Cut


CUTS = {
    "the new key is there": (cut_after_files, [1], True),
    "it has begun": (cut_after_begin, [2, 1], True),
    "nothing is under the old key": (cut_before_the_last_step, [2, 1], True),
    "the old key is retired": (cut_before_the_name, [2], False),
}


@pytest.mark.parametrize("point", CUTS)
async def test_cut_off_servers_start_and_it_goes_on(
    made: Settings, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    cut, known, old_needed = CUTS[point]
    old = key_file(made).path.read_bytes()
    with monkeypatch.context() as patch:
        await cut(made, patch)
        with pytest.raises(Cut):
            await rotate(made)
    assert await generations(made) == known
    new = key_file(made).successor.path.read_bytes()
    await serves(made, old)
    await serves(made)
    # That start has given the new key its name, if nothing needs the old one.
    assert key_file(made).successor.exists() == old_needed
    if old_needed:
        assert (await rotate(made)).generation == 2
    assert await generations(made) == [2]
    assert key_file(made).path.read_bytes() == new
    assert not key_file(made).successor.exists()
    await serves(made, old)


async def test_the_command_ends_what_was_cut_off_before_the_name(
    made: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        await cut_before_the_name(made, patch)
        with pytest.raises(Cut):
            await rotate(made)
    done = await rotate(made)
    assert (done.generation, done.rewrapped) == (2, 0)
    assert await generations(made) == [2]
    assert not key_file(made).successor.exists()


@pytest.mark.parametrize("lost", ["old", "new"])
async def test_while_it_is_under_way_both_keys_are_needed(
    made: Settings, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    with monkeypatch.context() as patch:
        await cut_after_begin(made, patch)
        with pytest.raises(Cut):
            await rotate(made)
    here = key_file(made)
    if lost == "new":
        here.successor.path.unlink()
    else:
        here.successor.path.rename(here.path)
    said = "the new one is not at hand" if lost == "new" else "not the one this database was made with"
    with pytest.raises(Refused, match=said):
        await serves(made)
    with pytest.raises(Refused):
        await root_key.rotate(made, {}, None)
    assert await generations(made) == [2, 1]


async def test_another_key_does_not_end_the_rotation_of_one_that_is_under_way(
    made: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        await cut_after_begin(made, patch)
        with pytest.raises(Cut):
            await rotate(made)
    right = key_file(made).successor.path.read_bytes()
    other = made.server.data_dir.parent / "other.key"
    other.write_bytes(b"o" * 32)
    other.chmod(0o600)
    with pytest.raises(Refused, match="holds another key"):
        await root_key.rotate(made, {}, other)
    key_file(made).successor.path.unlink()
    with pytest.raises(Refused):
        await root_key.rotate(made, {}, other)
    assert await generations(made) == [2, 1]
    key_file(made).successor.path.write_bytes(right)
    assert (await rotate(made)).generation == 2


async def test_two_at_once_are_one_rotation(made: Settings) -> None:
    new = given(made)
    await asyncio.gather(*(asyncio.to_thread(asyncio.run, root_key.rotate(made, {}, new)) for _ in range(2)))
    assert await generations(made) in ([2], [3])
    assert not key_file(made).successor.exists()
    await serves(made)


async def test_a_damaged_key_keeps_the_old_root_key(made: Settings) -> None:
    async with _open(made) as database:
        sound = (await database.read(lambda tx: tx.one(_WRAPPED, realm_id="system")))[0]
        wrong = bytes(sound)[:-1] + bytes([bytes(sound)[-1] ^ 1])
    with pytest.MonkeyPatch.context() as patch:
        # It was whole when the rotation began: the audit log opens it.
        begun = root_rotation._begun

        async def damaging(host: Any, check: bytes) -> Any:
            await host.core.database.write(lambda tx: tx.run(_DAMAGE, of="system", to=wrong))
            return await begun(host, check)

        patch.setattr(root_rotation, "_begun", damaging)
        with pytest.raises(Refused, match="damaged, and the old root key has to stay: system"):
            await rotate(made)
    assert await generations(made) == [2, 1]
    async with _open(made) as database:
        assert bytes((await database.read(lambda tx: tx.one(_WRAPPED, realm_id="system")))[0]) == wrong
        await database.write(lambda tx: tx.run(_DAMAGE, of="system", to=bytes(sound)))
    assert (await rotate(made)).generation == 2
    await serves(made)


@asynccontextmanager
async def _open(data: Settings) -> AsyncIterator[Any]:
    database = location(data).open()
    try:
        yield database
    finally:
        await database.close()


async def test_the_key_in_force_is_no_new_one(made: Settings) -> None:
    same = made.server.data_dir.parent / "same.key"
    same.write_bytes(key_file(made).path.read_bytes())
    same.chmod(0o600)
    with pytest.raises(Refused, match="the one in force"):
        await root_key.rotate(made, {}, same)
    assert await generations(made) == [1]


@pytest.mark.parametrize(("content", "mode"), [(b"x" * 31, 0o600), (b"x" * 33, 0o600), (b"x" * 32, 0o644)])
async def test_a_new_key_that_is_not_fit_changes_nothing(made: Settings, content: bytes, mode: int) -> None:
    bad = made.server.data_dir.parent / "bad.key"
    bad.write_bytes(content)
    bad.chmod(mode)
    before = key_file(made).path.read_bytes()
    with pytest.raises(Refused):
        await root_key.rotate(made, {}, bad)
    assert await generations(made) == [1]
    assert key_file(made).path.read_bytes() == before
    assert not key_file(made).successor.exists()


@pytest.mark.parametrize("data", ["postgresql"], indirect=True)
async def test_nodes_of_one_database_are_given_the_new_key_before(made: Settings) -> None:
    """Made here, it would be on this node alone."""
    with pytest.raises(Refused, match="no new root key at"):
        await root_key.rotate(made, {}, None)
    assert await generations(made) == [1]


@pytest.mark.parametrize("data", ["postgresql"], indirect=True)
async def test_another_node_puts_the_key_in_its_place_when_it_starts(made: Settings, tmp_path: Path) -> None:
    # A node of its own: another data directory, the same database, the same root key.
    other = Settings(
        server=ServerSettings(data_dir=tmp_path / "other"),
        database=made.database,
        seal=SealSettings(root_key_file=tmp_path / "node.key"),
    )
    node = KeyFileSeal(tmp_path / "node.key")
    node.keep(key_file(made).load())
    node.successor.keep(SecretBytes(NEXT))
    await rotate(made)
    await serves(other)
    assert node.path.read_bytes() == NEXT
    assert not node.successor.exists()


async def test_a_service_with_credentials_finds_the_next_one(
    made: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir(mode=0o700)
    old = key_file(made).path.read_bytes()
    KeyFileSeal(credentials / "qimem-root-key").keep(SecretBytes(old))
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    # Mounted read-only, which not even root can write to.
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != credentials and access(path, mode))
    service = replace(made, seal=SealSettings(source="credential"))
    with pytest.raises(Refused, match="of which this process has a copy"):
        await root_key.rotate(service, os.environ, None)
    KeyFileSeal(credentials / "qimem-root-key.next").keep(SecretBytes(NEXT))
    rotated = await root_key.rotate(service, os.environ, None)
    assert (rotated.generation, rotated.root_key_file) == (2, str(credentials / "qimem-root-key.next"))
    assert (credentials / "qimem-root-key").read_bytes() == old
    with pytest.raises(Refused, match="is the one in force"):
        await root_key.rotate(service, os.environ, None)
    # Its copies are those of the start of the service.
    running = await serving.start(service, SecretBytes(old), "http://127.0.0.1:1")
    await running.close()


async def test_what_belongs_to_the_service_is_not_rotated_as_root(made: Settings) -> None:
    """Its record would stand in a file of root, and the service could not write its log at its next start."""
    os.chown(made.server.data_dir, 65534, 65534)
    with pytest.raises(Refused, match="another user"):
        await rotate(made)
    assert await generations(made) == [1]
    os.chown(made.server.data_dir, 0, 0)
    await rotate(made)
    assert await generations(made) == [2]


async def test_an_empty_database_is_refused(data: Settings) -> None:
    with pytest.raises(Refused):
        await root_key.rotate(data, {}, None)


async def test_what_was_rotated_away_tells_the_generation_to_a_process_that_holds_it(made: Settings) -> None:
    old = key_file(made).path.read_bytes()
    await rotate(made)
    async with _open(made) as database:
        with pytest.raises(Refused, match="it was rotated, generation 2 is needed"):
            await root_keys.own_root_keys(database, SecretBytes(old))


async def test_no_backup_is_taken_that_one_key_would_not_open(
    made: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        await cut_after_begin(made, patch)
        with pytest.raises(Cut):
            await rotate(made)
    file = tmp_path / "x.backup"
    with pytest.raises(Refused, match="the root key is being rotated"):
        backup.back_up_unrecorded(made, key_file(made).load(), file)
    assert not file.exists()
    await rotate(made)
    backup.back_up_unrecorded(made, key_file(made).load(), file)
    assert file.exists()
