"""How long a request may wait for storage."""

from __future__ import annotations

import contextvars
import time

import pytest

from qimem.kernel import patience
from qimem.kernel.limits import BACKGROUND_ANSWER_SECONDS, STORAGE_ANSWER_SECONDS


def test_background_work_has_a_measure_for_each_question() -> None:
    def work() -> None:
        patience.spend(3.0)
        assert patience.seconds() == BACKGROUND_ANSWER_SECONDS

    contextvars.Context().run(work)


def test_the_questions_of_a_request_share_one_measure() -> None:
    def work() -> None:
        patience.begin()
        for _ in range(20):
            patience.spend(0.03)
        assert patience.seconds() == pytest.approx(STORAGE_ANSWER_SECONDS - 0.6)
        patience.spend(5.0)
        assert patience.seconds() == 0.0

    contextvars.Context().run(work)


def test_each_item_of_a_batch_has_its_own() -> None:
    def work() -> None:
        patience.begin()
        ends = patience.begin_items()
        for _ in range(100):
            patience.begin_item(ends)
            assert patience.seconds() == STORAGE_ANSWER_SECONDS
            patience.spend(0.5)

    contextvars.Context().run(work)


def test_when_one_item_used_all_of_its_own_the_others_do_not_wait_for_the_same() -> None:
    def work() -> None:
        patience.begin()
        ends = patience.begin_items()
        patience.begin_item(ends)
        patience.spend(STORAGE_ANSWER_SECONDS)
        patience.begin_item(ends)
        assert patience.seconds() == 0.0

    contextvars.Context().run(work)


def test_a_batch_ends() -> None:
    def work() -> None:
        patience.begin()
        patience.begin_item(time.monotonic() - 0.001)
        assert patience.seconds() == 0.0

    contextvars.Context().run(work)
