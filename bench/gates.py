"""The speed goals as data. Gates are the least that is accepted; goals are what is aimed at."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from bench.figures import Fact, Row


@dataclass(frozen=True, slots=True)
class Gate:
    """One bound.

    Args:
        subject: Name of the row or fact.
        figure: Which of its figures.
        bound: Whether `gate` and `goal` are the least or the most.
        durable: Judged only where the data lies on a disk.
    """

    name: str
    subject: str
    figure: str
    bound: Literal["at least", "at most"]
    gate: float
    goal: float
    unit: str
    durable: bool = False


GATES = (
    Gate("encrypt ÷ floor, strict audit", "encrypt", "rate ratio", "at least", 0.40, 0.5, "×", durable=True),
    Gate("decrypt ÷ floor, strict audit", "decrypt", "rate ratio", "at least", 0.40, 0.5, "×", durable=True),
    Gate("encrypt ÷ floor, no audit", "encrypt, no audit", "rate ratio", "at least", 0.55, 0.75, "×"),
    Gate("decrypt ÷ floor, no audit", "decrypt, no audit", "rate ratio", "at least", 0.55, 0.75, "×"),
    Gate("refresh, durable rotations", "refresh", "rate", "at least", 1500, 3000, "/s", durable=True),
    Gate("introspect ÷ floor", "introspect", "rate ratio", "at least", 0.5, 0.65, "×"),
    Gate("password login ÷ bare Argon2id lane", "password", "rate ratio", "at least", 0.9, 0.97, "×"),
    Gate("encrypt p99 during logins ÷ idle", "busy", "p99 ratio", "at most", 3, 2, "×"),
    Gate("introspect p99 during logins ÷ idle", "busy introspect", "p99 ratio", "at most", 3, 2, "×"),
    Gate("one client at a time, p50", "single", "p50 ms", "at most", 1, 0.5, "ms"),
    Gate("CPU per request, 2 workers ÷ 1", "workers", "cpu ratio", "at most", 1.25, 1.1, "×"),
    Gate("start to ready", "start to ready", "median", "at most", 1, 0.5, "s"),
    Gate("memory idle per worker", "memory idle, 1 worker", "most", "at most", 120, 90, "MB"),
    Gate("memory idle per worker of 2", "memory idle, each of 2 workers", "most", "at most", 120, 90, "MB"),
    Gate("time, many realms ÷ few: encrypt", "realms encrypt", "time ratio", "at most", 1.2, 1.05, "×"),
    Gate("time, many realms ÷ few: login", "realms login", "time ratio", "at most", 1.2, 1.05, "×"),
    Gate("time, many realms ÷ few: introspect", "realms introspect", "time ratio", "at most", 1.2, 1.05, "×"),
    Gate("time, many realms ÷ few: list of users", "realms list users", "time ratio", "at most", 1.2, 1.05, "×"),
    Gate("time, many realms ÷ few: list of keys", "realms list keys", "time ratio", "at most", 1.2, 1.05, "×"),
    Gate("time, many realms ÷ few: list of realms", "realms list realms", "time ratio", "at most", 1.2, 1.05, "×"),
    Gate(
        "time, many realms ÷ few: key creation", "realms key", "time ratio", "at most", 1.2, 1.05, "×",
        durable=True,
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Judged:
    """A gate and the figure it met. `passed` is None where the figure must not be judged."""

    name: str
    figure: float
    unit: str
    bound: Literal["at least", "at most"]
    gate: float
    goal: float
    passed: bool | None
    reached: bool | None


def judge(
    subjects: Iterable[Row | Fact], *, quick: bool, on_disk: bool, gates: Iterable[Gate] = GATES
) -> list[Judged]:
    """The gates whose subject was measured.

    Args:
        subjects: What was measured.
        quick: A smoke run: its figures are shown and not judged.
        on_disk: Whether a commit reached a disk.
    """
    known = {subject.name: subject for subject in subjects}
    judged = []
    for gate in gates:
        if gate.subject not in known:
            continue
        figure = known[gate.subject].figure(gate.figure)
        counts = not quick and (on_disk or not gate.durable)
        judged.append(
            Judged(
                gate.name,
                figure,
                gate.unit,
                gate.bound,
                gate.gate,
                gate.goal,
                _holds(figure, gate.bound, gate.gate) if counts else None,
                _holds(figure, gate.bound, gate.goal) if counts else None,
            )
        )
    return judged


def _holds(figure: float, bound: str, limit: float) -> bool:
    return figure >= limit if bound == "at least" else figure <= limit
