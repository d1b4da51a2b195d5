"""RFC 4226 appendix D and RFC 6238 appendix B, cut to six digits; and which steps are taken."""

from __future__ import annotations

import pytest

from qimem.crypto import totp
from qimem.crypto.totp import matching_step, one_time_password
from qimem.kernel.secret import SecretBytes

SECRET = SecretBytes(b"12345678901234567890")


@pytest.mark.parametrize(
    ("step", "password"),
    [
        *enumerate(
            [
                "755224",
                "287082",
                "359152",
                "969429",
                "338314",
                "254676",
                "287922",
                "162583",
                "399871",
                "520489",
            ]
        )
    ],
)
def test_the_passwords_of_rfc_4226(step: int, password: str) -> None:
    assert one_time_password(SECRET, step) == password


@pytest.mark.parametrize(
    ("now", "password"),
    [
        (59, "287082"), (1111111109, "081804"), (1111111111, "050471"), (1234567890, "005924"),
        (2000000000, "279037"), (20000000000, "353130"),
    ],
)  # fmt: skip
def test_the_times_of_rfc_6238(now: int, password: str) -> None:
    assert matching_step(SECRET, password, now) == now // 30


@pytest.mark.parametrize("drift", [-1, 0, 1])
def test_one_step_before_and_after_is_taken(drift: int) -> None:
    assert matching_step(SECRET, one_time_password(SECRET, 100 + drift), 100 * 30 + 15) == 100 + drift


@pytest.mark.parametrize("drift", [-100, -2, 2, 100])
def test_no_other_step_is(drift: int) -> None:
    assert matching_step(SECRET, one_time_password(SECRET, 1000 + drift), 1000 * 30) is None


@pytest.mark.parametrize("password", ["", "12345", "1234567", "abcdef", "\uff11" * 6, "755224 "])
def test_what_is_no_password_is_none(password: str) -> None:
    assert matching_step(SECRET, password, 0) is None


def test_there_is_no_step_before_time_began() -> None:
    assert matching_step(SECRET, "755224", 0) == 0


def test_of_two_steps_with_one_password_the_present_one_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(totp, "one_time_password", lambda secret, step: "000000")
    assert matching_step(SECRET, "000000", 100 * 30) == 100


def test_before_the_first_step_there_is_none() -> None:
    assert matching_step(SECRET, one_time_password(SECRET, 0), 0) == 0
