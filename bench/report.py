"""The result of a bench: kept as JSON, printed as tables.

python -m bench.report FILE
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench import machine
from bench.figures import Fact, Row, Spread, spread
from bench.gates import Judged

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Refusal:
    """A scenario that was not measured, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Report:
    """Everything about one bench."""

    format: int
    date: str
    product: str
    machine: dict[str, str | int | float]
    method: dict[str, str | int | float | bool]
    notes: list[str]
    rows: list[Row]
    facts: list[Fact]
    gates: list[Judged]
    refused: list[Refusal]

    def encode(self) -> bytes:
        """As JSON for people and programs."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


def decode(data: bytes) -> Report:
    """What `Report.encode` wrote.

    Raises:
        ValueError: it is something else.
    """
    report = msgspec.json.decode(data, type=Report)
    if report.format != FORMAT:
        raise ValueError(f"the result has format {report.format}, this program reads {FORMAT}")
    return report


def render(report: Report) -> str:
    """The tables."""
    described = ", ".join(f"{name} {value}" for name, value in report.machine.items())
    method = ", ".join(f"{name} {value}" for name, value in report.method.items())
    parts = [f"{report.product} on {report.date}", f"machine: {described}", f"method:  {method}"]
    parts += [f"note:    {note}" for note in report.notes]
    if report.rows:
        parts += ["", *_table(_ROW_HEAD, [_row(row) for row in report.rows])]
    if report.facts:
        parts += ["", *_table(_FACT_HEAD, [_fact(fact) for fact in report.facts])]
    if report.gates:
        parts += ["", *_table(_GATE_HEAD, [_gate(judged) for judged in report.gates])]
    parts += [f"\nNOT MEASURED {refusal.name}: {refusal.reason}" for refusal in report.refused]
    return "\n".join(parts)


def keep(result: Report, directory: Path, prefix: str = "") -> None:
    """Write it to a new file, named after the day and the kind of machine."""
    directory.mkdir(parents=True, exist_ok=True)
    name = f"{prefix}{result.date[:10]}-{machine.slug(result.machine)}"
    number, file = 1, directory / f"{name}.json"
    while file.exists():
        number += 1
        file = directory / f"{name}-{number}.json"
    draft = file.with_suffix(".tmp")
    draft.write_bytes(result.encode())
    draft.rename(file)
    print(f"\nkept {file}")


_ROW_HEAD = (
    "scenario", "A", "A /s", "A µs CPU", "B", "B /s", "B µs CPU", "B÷A", "min–max", "CPU B÷A",
    "B p50 ms", "B p99 ms",
)  # fmt: skip
_FACT_HEAD = ("figure", "median", "min–max", "unit", "times")
_GATE_HEAD = ("gate", "figure", "unit", "gate", "goal", "passed", "goal reached")


def _row(row: Row) -> list[str]:
    rates = row.ratio("rate")
    return [
        row.name,
        row.first,
        _cell(row.first_runs, "rate", 0),
        _cell(row.first_runs, "cpu_us", 1),
        row.second,
        _cell(row.second_runs, "rate", 0),
        _cell(row.second_runs, "cpu_us", 1),
        f"{rates.median:.2f}",
        _range(rates, 2),
        _cell(row.ratio, "cpu_us", 2),
        _cell(row.second_runs, "p50_us", 2, 1000),
        _cell(row.second_runs, "p99_us", 2, 1000),
    ]


def _cell(over: Callable[[str], Spread], field: str, digits: int, divisor: int = 1) -> str:
    try:
        return f"{over(field).median / divisor:,.{digits}f}"
    except KeyError:
        return "–"


def _fact(fact: Fact) -> list[str]:
    over = spread(fact.values)
    return [fact.name, f"{over.median:.2f}", _range(over, 2), fact.unit, str(len(fact.values))]


def _gate(judged: Judged) -> list[str]:
    sign = "≥" if judged.bound == "at least" else "≤"
    return [
        judged.name,
        f"{judged.figure:,.2f}",
        judged.unit,
        f"{sign} {judged.gate:,g}",
        f"{sign} {judged.goal:,g}",
        _word(judged.passed, "NO"),
        _word(judged.reached, "no"),
    ]


def _word(held: bool | None, no: str) -> str:
    return "not judged" if held is None else "yes" if held else no


def _range(over: Spread, digits: int) -> str:
    return f"{over.least:.{digits}f}–{over.most:.{digits}f}"


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Columns: words to the left, figures to the right."""
    return "\n".join(_table(head, body))


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, *body]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    # Words stand to the left, figures to the right.
    left = [any(cell[:1].isalpha() for cell in column) for column in zip(*body, strict=True)]
    rule = ["-" * width for width in widths]
    return [
        "  ".join(
            cell.ljust(width) if to_left else cell.rjust(width)
            for cell, width, to_left in zip(line, widths, left, strict=True)
        ).rstrip()
        for line in (head, rule, *body)
    ]


if __name__ == "__main__":
    print(render(decode(Path(sys.argv[1]).read_bytes())))
