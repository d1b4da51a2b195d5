"""Logs: one line a message, allowed fields only, and nothing that could be a secret."""

from __future__ import annotations

import json
import logging

import pytest
import structlog

from qimem.errors import Invalid
from qimem.kernel.secret import SecretBytes, SecretText
from qimem.observability.logging import (
    FIELDS,
    configure,
    describe,
    logger,
    report_failed_job,
    report_unexpected,
)

CANARY = "hunter2-canary"


@pytest.fixture(autouse=True)
def restored():
    handlers, level = logging.getLogger().handlers, logging.getLogger().level
    yield
    structlog.reset_defaults()
    logging.getLogger().handlers, _ = handlers, logging.getLogger().setLevel(level)


@pytest.fixture
def lines(capfd):
    configure(level="info", format="json")
    return lambda: [json.loads(line) for line in capfd.readouterr().err.splitlines()]


def test_a_line_is_one_json_object(lines) -> None:
    logger().warning("worker\nreplaced", worker=1, reason="a\nb")
    (line,) = lines()
    assert line.pop("ts").endswith("Z")
    assert line == {"level": "warning", "event": "worker\nreplaced", "worker": 1, "reason": "a\nb"}


def test_a_field_off_the_list_is_dropped_by_name(lines) -> None:
    logger().error("x", password=CANARY, body={"input": CANARY}, status=400)
    (line,) = lines()
    assert line["dropped"] == "body,password"
    assert line["status"] == 400
    assert CANARY not in json.dumps(line)


@pytest.mark.parametrize(
    "value",
    [SecretText(CANARY), SecretBytes(CANARY.encode()), {"k": CANARY}, [CANARY], CANARY.encode(), (CANARY,)],
)
def test_a_value_that_is_not_plain_is_never_formatted(lines, value: object) -> None:
    logger().error("x", reason=value)
    (line,) = lines()
    assert line["reason"] == f"<{type(value).__name__}>"


def test_an_exception_is_logged_by_type_and_place_not_by_text(lines) -> None:
    try:
        try:
            raise KeyError(CANARY)
        except KeyError as cause:
            raise ValueError(f"bad {CANARY}") from cause
    except ValueError as error:
        report_unexpected("r-1", error)
        report_failed_job("sweep", error)
    first, second = lines()
    assert first["request_id"] == "r-1"
    assert second["job"] == "sweep"
    for line in (first, second):
        assert "ValueError [" in line["exception"]
        assert "caused by KeyError [" in line["exception"]
        assert "test_logging.py:" in line["exception"]
        assert CANARY not in json.dumps(line)


def test_our_own_errors_keep_their_text() -> None:
    assert describe(Invalid("key is inactive: x")).startswith("Invalid: key is inactive: x [")
    assert describe(FileNotFoundError(2, "No such file", CANARY)).startswith(
        "FileNotFoundError: No such file ["
    )


def test_our_own_modules_say_what_they_have_to_say(lines) -> None:
    logging.getLogger("qimem.audit.trail").error("audit log cannot be written: %s", "No space left")
    logging.getLogger("qimemx").error("bad thing %s", CANARY)
    assert [line["event"] for line in lines()] == [
        "audit log cannot be written: No space left",
        "bad thing %s",
    ]


def test_libraries_are_routed_without_their_arguments(lines) -> None:
    logging.getLogger("uvicorn.error").warning("bad thing %s", CANARY)
    logging.getLogger("some.library").error("worse %r", CANARY)
    logging.getLogger("uvicorn.error").info("Started server process [%d]", 1)
    logging.getLogger("uvicorn.access").error("GET /?token=%s", CANARY)
    first, second = lines()
    assert (first["logger"], first["level"], first["event"]) == ("uvicorn.error", "warning", "bad thing %s")
    assert (second["logger"], second["level"]) == ("some.library", "error")


def test_less_than_the_level_is_not_logged(lines) -> None:
    logger().debug("x")
    assert lines() == []


def test_a_long_text_is_cut(lines) -> None:
    logger().info("x", reason="y" * 100_000)
    assert len(lines()[0]["reason"]) == 2_000


def test_the_request_id_of_the_context_is_on_every_line(lines) -> None:
    with structlog.contextvars.bound_contextvars(request_id="r-2"):
        logger().info("x")
    assert lines()[0]["request_id"] == "r-2"


def test_a_value_cannot_forge_a_line_of_text(capfd) -> None:
    configure(level="info", format="text")
    logger().info("hello\nworld", reason="a\n2026 error forged")
    assert len(capfd.readouterr().err.splitlines()) == 1


def test_a_closed_stderr_does_not_stop_the_server(monkeypatch) -> None:
    class Closed:
        def write(self, _: str) -> None:
            raise BrokenPipeError

    configure(level="info", format="json")
    monkeypatch.setattr("sys.stderr", Closed())
    logger().error("x")


def test_the_fields_are_named_after_the_glossary() -> None:
    assert all(name.replace("_", "").isalpha() for name in FIELDS)
