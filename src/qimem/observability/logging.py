"""Structured logs on stderr: one JSON object a line, built from a list of allowed fields.

    log = logger()
    log.warning("worker replaced", worker=1, reason="missed heartbeats")

A field that is not on the list is dropped and its name kept under `dropped`; a value that is not
plain text or a number is replaced by the name of its type, so a secret type, a request body or a
row can never be formatted into a line. Exceptions are logged as their types and places: the text
of a driver's error repeats the values it was given.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Callable, MutableMapping
from typing import Any

import structlog

from qimem.errors import QimemError
from qimem.kernel.clock import SystemClock, rfc3339
from qimem.kernel.refusal import Refused
from qimem.observability.lines import LINES

FIELDS = frozenset({
    "ts", "level", "event", "request_id", "realm", "actor", "method", "route", "status", "code", "address",
    "duration_seconds", "reason", "exception", "worker", "workers", "pid", "exit_code", "signal", "version",
    "path", "count", "job", "logger", "dropped",
})  # fmt: skip
"""Every field that a log line may have."""

TEXT_CHARS_MAX = 2_000
_FRAMES_MAX = 12
_Event = MutableMapping[str, Any]


def configure(*, level: str, format: str) -> None:
    """Set the process's logging up; also routes what libraries log.

    Args:
        level: `debug`, `info`, `warning` or `error`.
        format: `json`, or `text` for people.
    """
    least = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            _stamp,
            _exception,
            _allowed,
            _render_json if format == "json" else _render_text,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=lambda *_: _Stderr(),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers = [_Bridge()]
    # Libraries speak up from warnings on; uvicorn's "started" and "finished" lines repeat ours.
    root.setLevel(max(least, logging.WARNING))
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
        library = logging.getLogger(name)
        library.handlers, library.propagate = [], name != "uvicorn.access"


def configure_guest() -> None:
    """Say errors alone, on stderr, in a process that is not ours; nothing where that process configured its own."""
    if not structlog.is_configured():
        structlog.configure(
            processors=[_stamp, _exception, _allowed, _render_text],
            wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
            logger_factory=lambda *_: _Stderr(),
        )


def logger() -> Any:
    """The logger of this process. Its methods take an event and fields of `FIELDS`."""
    return structlog.get_logger()


def report_unexpected(request_id: str, error: BaseException) -> None:
    """A request ended in `internal error`; its caller was told nothing but the request id."""
    logger().error("unexpected error", request_id=request_id, exc_info=error)


def report_failed_job(job: str, error: BaseException) -> None:
    """A background task failed; its next turn comes all the same."""
    logger().error("background task failed", job=job, exc_info=error)


class _Stderr:
    """Writes whole lines."""

    def msg(self, message: str) -> None:
        LINES.put(message)

    log = debug = info = warn = warning = fatal = failure = err = error = critical = exception = msg


class _Bridge(logging.Handler):
    """Passes on what libraries log with the standard module."""

    def emit(self, record: logging.LogRecord) -> None:
        level = "error" if record.levelno >= logging.ERROR else "warning"
        write: Callable[..., None] = getattr(logger(), level)
        error = record.exc_info[1] if record.exc_info else None
        # The arguments of a library stay out: they may be anything that it was handling.
        text = record.getMessage() if record.name.startswith("qimem.") else str(record.msg)
        write(text, logger=record.name, exc_info=error)


def _stamp(_: object, method: str, event: _Event) -> _Event:
    event["ts"] = rfc3339(SystemClock().now_us())
    event["level"] = {"warn": "warning", "exception": "error"}.get(method, method)
    return event


def _exception(_: object, __: str, event: _Event) -> _Event:
    error = event.pop("exc_info", None)
    if error is True:
        error = sys.exc_info()[1]
    if isinstance(error, BaseException):
        event["exception"] = describe(error)
    return event


def describe(error: BaseException) -> str:
    """An exception and its causes as types and places; its text only where we wrote it ourselves."""
    parts: list[str] = []
    seen: BaseException | None = error
    while seen is not None and len(parts) < 5:
        own = seen.message if isinstance(seen, QimemError | Refused) else ""
        text = (seen.strerror or "") if isinstance(seen, OSError) else own
        frames = traceback.extract_tb(seen.__traceback__)[-_FRAMES_MAX:]
        places = " > ".join(
            f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames
        )
        parts.append(f"{type(seen).__name__}{': ' + text if text else ''} [{places}]")
        seen = seen.__cause__ or seen.__context__
    return " caused by ".join(parts)


def _allowed(_: object, __: str, event: _Event) -> _Event:
    kept = {name: _plain(value) for name, value in event.items() if name in FIELDS}
    dropped = sorted(name for name in event if name not in FIELDS)
    if dropped:
        kept["dropped"] = ",".join(dropped)[:TEXT_CHARS_MAX]
    return kept


def _plain(value: object) -> object:
    if isinstance(value, str):
        return str(value)[:TEXT_CHARS_MAX]
    if value is None or type(value) in (int, float, bool):
        return value
    return f"<{type(value).__name__}>"


def _render_json(_: object, __: str, event: _Event) -> str:
    ordered = {name: event.pop(name) for name in ("ts", "level", "event") if name in event}
    return json.dumps(ordered | dict(event), ensure_ascii=True)


def _render_text(_: object, __: str, event: _Event) -> str:
    head = f"{event.pop('ts')} {event.pop('level'):7} {event.pop('event')}"
    # Quoted like JSON: a line break in a value must not begin a forged line.
    tail = " ".join(f"{name}={json.dumps(value)}" for name, value in event.items())
    return f"{json.dumps(head)[1:-1]} {tail}".rstrip()
