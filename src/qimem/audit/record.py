"""One line of the log: who did what to which key of which realm, when, from where, and how it ended."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from uuid import UUID

import msgspec

from qimem.kernel.audit_draft import AuditDraft
from qimem.kernel.clock import rfc3339
from qimem.wire.audit import AuditRecord, KeyUse

_encode: Final = msgspec.json.Encoder().encode
_decoder: Final = msgspec.json.Decoder(AuditRecord)
_ID: Final = re.compile(rb'"id":"([^"]*)"')


def line_of(draft: AuditDraft, record_id: str, now_us: int, outcome: str) -> bytes:
    """The record of a request as a line.

    Args:
        draft: What is known of it.
        record_id: A new unique id.
        now_us: Wall time.
        outcome: How it ended.
    """
    record = AuditRecord(
        at=rfc3339(now_us),
        event=draft.event,
        outcome=outcome,
        id=record_id,
        realm=draft.realm_id,
        subject=draft.subject,
        client=draft.client_id,
        token=draft.token_id,
        key=draft.key_id,
        version=draft.version,
        target=draft.target,
        items=draft.items,
        failed=draft.failed,
        used=_uses(draft.uses) if draft.uses else [],
        request_id=draft.request_id,
        address=draft.address,
    )
    return _encode(record) + b"\n"


def encoded(record: AuditRecord) -> bytes:
    """A record as a line."""
    return _encode(record) + b"\n"


def decoded(line: bytes) -> AuditRecord:
    """The record of a line.

    Raises:
        msgspec.MsgspecError: it is none.
    """
    return _decoder.decode(line)


def ids_in(lines: bytes) -> set[str]:
    """The ids of records, without reading the rest of them: no text in a record holds a bare quote."""
    return {found.decode() for found in _ID.findall(lines)}


def recovered(line: bytes) -> bytes:
    """The line of a record whose answer may never have been given."""
    return encoded(msgspec.structs.replace(decoded(line), recovered=True))


def _uses(uses: Mapping[tuple[UUID, int], int]) -> list[KeyUse]:
    return [KeyUse(key=key, version=version, count=count) for (key, version), count in uses.items()]
