"""What one check of `qimem doctor` found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's outcome. `advice` says what to do when it is not ok."""

    check: str
    state: State
    detail: str
    advice: str = ""

    def row(self) -> dict[str, object]:
        """For printing."""
        return {"check": self.check, "state": self.state, "detail": self.detail, "advice": self.advice}
