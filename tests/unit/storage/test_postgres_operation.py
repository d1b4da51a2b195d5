"""What a caller is told who leaves while a thread works for it."""

from __future__ import annotations

import time

import pytest

from qimem.errors import Unavailable
from qimem.storage.postgres_operation import Operation


def test_who_leaves_before_the_commit_is_told_that_nothing_changed() -> None:
    operation = Operation(5.0)
    assert operation.abandon().code == "storage_unavailable"
    with pytest.raises(Unavailable):
        operation.begin_commit()


def test_who_leaves_after_the_commit_was_sent_is_told_that_nobody_knows() -> None:
    operation = Operation(5.0)
    operation.begin_commit()
    assert operation.abandon().code == "outcome_unknown"


def test_a_commit_that_the_database_refused_changed_nothing() -> None:
    operation = Operation(5.0)
    operation.begin_commit()
    operation.end_commit()
    assert operation.abandon().code == "storage_unavailable"


def test_nothing_is_committed_when_the_time_is_over_and_that_is_certain() -> None:
    operation = Operation(0.01)
    time.sleep(0.02)
    with pytest.raises(Unavailable):
        operation.begin_commit()
    assert operation.abandon().code == "storage_unavailable"
