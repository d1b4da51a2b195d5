"""Reads the vector files of `tests/vectors`."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

_VECTORS = Path(__file__).parents[2] / "vectors"


@cache
def envelope_vectors() -> dict[str, Any]:
    return json.loads((_VECTORS / "envelope_vectors.json").read_text("utf-8"))


@cache
def wycheproof_cases(name: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """(group, case) pairs of one file."""
    document = json.loads((_VECTORS / "wycheproof" / f"{name}_test.json").read_text("utf-8"))
    pairs = [(group, case) for group in document["testGroups"] for case in group["tests"]]
    assert len(pairs) == document["numberOfTests"]
    return pairs
