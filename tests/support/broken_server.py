"""Servers that break one promise each, so that the tests of these promises can be seen to fail.

    Server(directory, workers=2, environment=broken(directory, "trusts_cache"))

The faults are put in by a `sitecustomize` module, which Python imports at its start, in the
supervisor and in every worker. Nothing in the product knows of it.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

_TRUST_SECONDS = 1.0
_SLOW_SECONDS = 0.01
_LATE_SECONDS = 0.2
_LOOK_SECONDS = 0.00005


def broken(directory: Path, *faults: str, module: str = "broken_server") -> dict[str, str]:
    """The environment of a server with these faults, each a function of this module, or of another one here."""
    place = directory / "broken"
    place.mkdir()
    calls = "".join(f"{module}.{fault}()\n" for fault in faults)
    (place / "sitecustomize.py").write_text(f"from tests.support import {module}\n{calls}")
    path = [str(place), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(path)}


def trusts_cache() -> None:
    """Memory is believed for a second: what most servers do."""
    from qimem.kernel.epochs import RealmCaches

    ask = RealmCaches.fresh
    trusted: dict[str, tuple[float, Any]] = {}

    async def fresh(self: RealmCaches, realm_id: Any) -> Any:
        until, cache = trusted.get(realm_id, (0.0, None))
        if time.monotonic() < until:
            return cache
        cache = await ask(self, realm_id)
        trusted[realm_id] = (time.monotonic() + _TRUST_SECONDS, cache)
        return cache

    _replace(RealmCaches, "fresh", fresh)


def hurries_its_signing_keys() -> None:
    """Not a fault: what takes ten minutes takes three seconds, and what overlaps does so many times over."""
    from qimem.bootstrap import serving
    from qimem.kms import signing_keys

    _replace(signing_keys, "SIGNING_KEY_LEAD_SECONDS", 3)
    _replace(signing_keys, "SIGNING_KEYS_PUBLISHED_MAX", 64)
    _replace(serving, "SIGNING_KEYS_LOOK_SECONDS", 1)


def remembers_few_keys() -> None:
    """Not a fault: nearly every request unwraps the keys that it needs anew."""
    from qimem.kms import keyring

    _replace(keyring, "CACHED_REALMS_MAX", 4)
    _replace(keyring, "KEYRING_ENTRIES_MAX", 8)


def never_looks_for_another_root_key() -> None:
    """What a process was started with is all that it has."""
    from qimem.bootstrap import serving

    _replace(serving, "look_in_custody", lambda settings: tuple)


def lets_the_old_root_key_go_first() -> None:
    """The new root key takes the place of the old one as soon as the rotation has begun."""
    from qimem.bootstrap import root_keys, root_rotation

    begin = root_rotation._begun

    async def hastily(host: Any, check: bytes) -> Any:
        begun = await begin(host, check)
        settings = hastily.settings  # type: ignore[attr-defined]
        custody = root_keys.custody_of(settings, os.environ, explicit=False)
        if custody.successor.exists():  # type: ignore[attr-defined]
            custody.succeed()  # type: ignore[attr-defined]
        return begun

    opened = root_rotation.opened_alone

    def noting(settings: Any, key: Any) -> Any:
        hastily.settings = settings  # type: ignore[attr-defined]
        return opened(settings, key)

    _replace(root_rotation, "opened_alone", noting)
    _replace(root_rotation, "_begun", hastily)


def dies_in_the_rotation() -> None:
    """Killed when two root keys are in use, and nothing is under the new one yet."""
    from qimem.bootstrap import root_rotation

    def die(*_: Any) -> None:
        os.kill(os.getpid(), 9)

    _replace(root_rotation, "_finished", die)


def is_far_from_its_database() -> None:
    """Not a fault: the answer to each epoch query takes long, as from another building."""
    from qimem.storage.postgres_epochs import _Batch

    answer = _Batch.answer

    def later(self: _Batch, epochs: Any) -> None:
        asyncio.get_running_loop().call_later(_SLOW_SECONDS, answer, self, epochs)

    _replace(_Batch, "answer", later)


def joins_a_query_under_way() -> None:
    """A request takes the answer of an epoch query that began before the request came."""
    from qimem.storage.postgres_epochs import EpochReader

    is_far_from_its_database()
    ask = EpochReader.current
    under_way: dict[str, asyncio.Task[Any]] = {}

    async def current(self: EpochReader, realm_id: Any) -> Any:
        task = under_way.get(realm_id)
        if task is None or task.done():
            task = under_way[realm_id] = asyncio.create_task(ask(self, realm_id))
        return await asyncio.shield(task)

    _replace(EpochReader, "current", current)


def rotates_what_it_saw_before() -> None:
    """Whether the version is active is not asked again in the statement that ends it."""
    import sqlalchemy as sa

    from qimem.kms import keys
    from qimem.storage.repositories.kms_keys import KeyRepository
    from qimem.storage.schema import Identifier, kms_key, kms_version
    from qimem.storage.statement import sql

    of_lineage = (
        kms_version.c.realm_id == sa.bindparam("of_realm"),
        kms_version.c.lineage_id == sa.bindparam("of_lineage"),
    )
    activate = sql(
        sa.update(kms_key)
        .where(
            kms_key.c.realm_id == sa.bindparam("of_realm"), kms_key.c.lineage_id == sa.bindparam("of_lineage")
        )
        .values(active_key_id=sa.bindparam("new_key", type_=Identifier))
    )
    count = sql(sa.select(sa.func.count()).where(*of_lineage))

    def succeed(self: KeyRepository, tx: Any, old: Any, new: Any, material: Any) -> bool:
        from dataclasses import replace

        place = {"of_realm": old.realm_id, "of_lineage": old.lineage_id}
        tx.run(activate, **place, new_key=new.key_id)
        self.add_version(tx, replace(new, version=tx.one(count, **place)[0] + 1), material)
        return True

    _replace(KeyRepository, "succeed", succeed)
    _replace(keys, "check_can_rotate", lambda _version: None)


def spends_what_it_saw_unspent() -> None:
    """SELECT, then UPDATE: the generation is compared with what an earlier transaction read."""
    import sqlalchemy as sa

    from qimem.oauth.models import GrantRecord
    from qimem.storage.repositories.grants import GrantRepository
    from qimem.storage.schema import oauth_grant
    from qimem.storage.statement import sql

    update = sql(
        sa.update(oauth_grant)
        .where(
            oauth_grant.c.realm_id == sa.bindparam("of_realm"),
            oauth_grant.c.grant_id == sa.bindparam("of_grant"),
        )
        .values(
            generation=oauth_grant.c.generation + 1,
            rotated_us=sa.bindparam("now_us", type_=sa.BigInteger),
            rotated_by_client=sa.bindparam("by_client"),
        )
        .returning(*oauth_grant.c)
    )
    select = GrantRepository.find
    seen: dict[Any, int] = {}

    def find(self: GrantRepository, tx: Any, realm_id: Any, grant_id: Any) -> Any:
        grant = select(self, tx, realm_id, grant_id)
        if grant is not None:
            seen[grant_id] = grant.generation
        return grant

    def rotate(self: GrantRepository, tx: Any, realm_id: Any, grant_id: Any, **how: Any) -> Any:
        if seen.get(grant_id) != how.pop("presented"):
            return None
        return GrantRecord(*tx.one(update, of_realm=realm_id, of_grant=grant_id, **how))

    _replace(GrantRepository, "find", find)
    _replace(GrantRepository, "rotate", rotate)


def forgets_what_it_answered() -> None:
    """Idempotency keys work within one worker, as a dict would make them."""
    from qimem.storage.repositories.idempotency import IdempotencyRepository

    _replace(IdempotencyRepository, "find", lambda *_: None)
    _replace(IdempotencyRepository, "put", lambda *_: None)


def forgets_used_codes() -> None:
    """A code of a second factor is good as long as its time lasts."""
    from qimem.storage.repositories.second_factors import SecondFactorRepository

    _replace(SecondFactorRepository, "claim_step", lambda *_: True)


def hashes_cheaply() -> None:
    """Not a fault: what takes 23 ms takes none, so that races behind a password can be run by the hundred thousand."""
    from qimem.crypto import passwords

    _replace(passwords, "OWASP_MINIMUM", passwords.TESTING)


def leases_without_writing() -> None:
    """Message counts are granted and not counted."""
    from qimem.storage.repositories.kms_keys import KeyRepository

    def lease_messages(self: KeyRepository, tx: Any, realm_id: Any, key_id: Any, block: int) -> int:
        return block

    _replace(KeyRepository, "lease_messages", lease_messages)


def acknowledges_keys_before_commit() -> None:
    """The answer to a new key leaves when its rows are inserted, and the commit comes a moment later."""
    from qimem.kernel.audit_draft import AuditDraft
    from qimem.storage import sqlite_writer

    # Keys alone: a server that begins every answer too early does not even start.
    def makes_a_key(operation: Any) -> bool:
        held = (cell.cell_contents for cell in getattr(operation.work, "__closure__", None) or ())
        return any(isinstance(value, AuditDraft) and value.event == "keys.create" for value in held)

    end = sqlite_writer.SqliteWriter._end

    def late(self: sqlite_writer.SqliteWriter, group: Any, **how: Any) -> None:
        early = [operation for operation in group if makes_a_key(operation)]
        if early:
            sqlite_writer._deliver(early)
            time.sleep(_LATE_SECONDS)
        end(self, group, **how)

    _replace(sqlite_writer.SqliteWriter, "_end", late)


def dies_between_commit_and_log() -> None:
    """The worker ends when a new key is committed and its record stands in no log yet."""
    from qimem.audit.recorder import AuditRecorder

    record = AuditRecorder.record

    def die(self: AuditRecorder, draft: Any, *how: Any) -> None:
        if draft.intent is not None and draft.event == "keys.create":
            os._exit(9)
        record(self, draft, *how)

    _replace(AuditRecorder, "record", die)


def keeps_intents_to_itself() -> None:
    """Records of changes are not written beside them."""
    from qimem.storage.repositories.audit import IntentRepository

    _replace(IntentRepository, "put", lambda *_: None)
    dies_between_commit_and_log()


def has_a_slow_log() -> None:
    """Not a fault: each write of the log takes long, as on a busy disk."""
    from qimem.audit import segment_file

    write_all = segment_file.write_all

    def slowly(descriptor: int, data: bytes, offset: int) -> None:
        if data.strip(b"\0"):
            time.sleep(_LATE_SECONDS)
        write_all(descriptor, data, offset)

    _replace(segment_file, "write_all", slowly)


def waits_for_the_disk() -> None:
    """A write takes as long as its disk takes, as most servers have it."""
    from qimem.storage.sqlite_writer import _Operation

    _replace(_Operation, "expire", lambda _operation: None)


def gives_lost_files_up() -> None:
    """A worker whose database files were taken away answers 503 for ever."""
    from qimem.storage.sqlite_writer import SqliteWriter

    _replace(SqliteWriter, "revive", lambda _writer: None)


def replaces_no_worker() -> None:
    """A worker that died is buried and forgotten."""
    from qimem.server.supervisor import Supervisor

    bury = Supervisor._bury

    def forget(self: Supervisor, slot: Any, *how: Any) -> None:
        bury(self, slot, *how)
        slot.start_at = math.inf

    _replace(Supervisor, "_bury", forget)


def looks_at_every_connection() -> None:
    """Each request is paid for by the number of connections that are open, as with `select`."""
    from qimem.web.kit.protocol import GuardedProtocol

    complete = GuardedProtocol.on_headers_complete

    def slowly(self: GuardedProtocol) -> None:
        time.sleep(_LOOK_SECONDS * len(self.connections))
        complete(self)

    _replace(GuardedProtocol, "on_headers_complete", slowly)


def takes_everything_on() -> None:
    """No turn of the loop is too long, and no refusal makes anybody wait."""
    from qimem.web.kit.admission import Admission

    _replace(Admission, "admits", lambda _admission, _now: True)


def chokes_on_duplicate_keys() -> None:
    """A check raises what nobody expects."""
    from qimem.web.kit import json_guard

    def choke(_: object) -> None:
        raise RuntimeError("a duplicate key")

    _replace(json_guard, "invalid_json", choke)


def dies_of_deep_bodies() -> None:
    """As a stack that overflows: the process is gone."""
    from qimem.web.kit import json_guard

    _replace(json_guard, "_too_deep", lambda: os._exit(11))


def dawdles_over_long_names() -> None:
    """A fault in a long field is looked at for more than a second."""
    from qimem.web.kit import json_guard

    fault = json_guard._field_fault

    def slowly(text: str, *how: Any) -> Any:
        time.sleep(1.5 if len(text) > 200 else 0)
        return fault(text, *how)

    _replace(json_guard, "_field_fault", slowly)


def lets_everyone_in() -> None:
    """A caller who shows nothing is taken for the one before."""
    from qimem.errors import Unauthenticated
    from qimem.oauth.bearer import BearerAuthenticator

    authenticate = BearerAuthenticator.authenticate
    admitted: list[Any] = []

    async def careless(self: BearerAuthenticator, authorization: bytes | None) -> Any:
        try:
            admitted[:] = [await authenticate(self, authorization)]
        except Unauthenticated:
            if not admitted:
                raise
        return admitted[0]

    _replace(BearerAuthenticator, "authenticate", careless)


def forgets_a_field_of_its_answers() -> None:
    """A field that is promised does not come."""
    from qimem.web.kit import errors

    encode = errors.encode
    _replace(errors, "encode", lambda body: encode(body).replace(b'"created_at"', b'"made_at"'))


def refuses_with_a_status_of_its_own() -> None:
    """What exists already is answered with 418."""
    from qimem.errors import Kind
    from qimem.web.kit.errors import STATUS

    assert Kind.CONFLICT in STATUS
    STATUS[Kind.CONFLICT] = 418


def takes_names_of_any_length() -> None:
    """Limits that the document states are not kept."""
    from qimem.web.kit import json_guard
    from qimem.wire.security import CreateKeyRequest

    decode = json_guard.decode

    def lenient(body: bytes, shape: Any) -> Any:
        if shape is not CreateKeyRequest:
            return decode(body, shape)
        try:
            return decode(body, shape)
        except Exception:
            return CreateKeyRequest()

    _replace(json_guard, "decode", lenient)


def _replace(owner: Any, name: str, by: Callable[..., Any]) -> None:
    # A name that is no longer there would make a server that is not broken, and a test that proves nothing.
    assert hasattr(owner, name), f"{owner} has no {name}"
    setattr(owner, name, by)
