"""What a realm is."""

from __future__ import annotations

from dataclasses import dataclass

from qimem.kernel.ids import RealmId


@dataclass(frozen=True, slots=True)
class RealmRecord:
    """One tenant. `created_us` is wall time in microseconds."""

    realm_id: RealmId
    name: str
    enabled: bool
    created_us: int
