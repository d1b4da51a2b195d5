"""A node's audit log as tests read it: its files, and what the commands say of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from qimem.audit.events import Wanted, records
from qimem.audit.log import DIRECTORY, PUBLIC_KEY, StreamReport, read_public_key, verify_log
from qimem.audit.segment_file import segment_numbers, stream_paths
from qimem.wire.audit import AuditRecord


def logged(data: Path) -> list[AuditRecord]:
    """Every acknowledged record of every stream."""
    return [
        record
        for stream in stream_paths(data / DIRECTORY)
        for number in segment_numbers(stream)
        for record in records(stream, number, Wanted())
    ]


def of_request(data: Path, request_id: str) -> list[dict[str, Any]]:
    """The records of one request, as JSON has them."""
    return [
        msgspec.to_builtins(record, str_keys=True)
        for record in logged(data)
        if record.request_id == request_id
    ]


def verified(data: Path) -> list[StreamReport]:
    """The log read with the key beside it."""
    log = data / DIRECTORY
    return verify_log(log, read_public_key(log / PUBLIC_KEY), {})


def faults(data: Path) -> list[str]:
    return [report.fault for report in verified(data) if report.fault is not None]
