from __future__ import annotations

import asyncio
import threading
import unicodedata
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qimem.crypto.passwords import TESTING
from qimem.errors import Invalid, Unavailable
from qimem.identity import passwords
from qimem.identity.common_passwords import COMMON_PASSWORDS
from qimem.identity.password_rules import PasswordRules, check_password
from qimem.identity.passwords import PasswordLane, normalize_password
from qimem.kernel.limits import PASSWORD_LANE_QUEUE_MAX, PASSWORD_LANE_WIDTH
from qimem.kernel.secret import SecretText
from tests.unit.oauth.fakes import ACME, OTHER, FakeKeys

pytestmark = pytest.mark.anyio

PHRASE = "a long enough phrase"


def checked(password: str) -> str:
    return check_password(SecretText(password), PasswordRules())


@pytest.mark.parametrize(
    ("password", "rule"),
    [
        ("", "at least 8 characters"), ("1234567", "at least 8 characters"), ("😀" * 7, "at least 8 characters"),
        ("e\u0301" * 7, "at least 8 characters"), ("\u1112\u1161\u11ab" * 7, "at least 8 characters"),
        ("x" * 257, "at most 256 characters"), ("ﷺ" * 15, "at most 256 characters"), ("x" * 10_000_000, "at most 256 characters"),
        ("password", "on the list of common passwords"), ("PASSWORD", "on the list of common passwords"),
        ("pAsSwOrD123", "on the list of common passwords"), ("ｐａｓｓｗｏｒｄ", "on the list of common passwords"),
        ("𝐩𝐚𝐬𝐬𝐰𝐨𝐫𝐝", "on the list of common passwords"), ("Correct Horse Battery Staple", "on the list of common passwords"),
    ],
    ids=lambda value: ascii(value[:10]),
)  # fmt: skip
def test_a_weak_password_is_refused_with_the_rule(password: str, rule: str) -> None:
    with pytest.raises(Invalid) as caught:
        checked(password)
    assert (caught.value.code, caught.value.message) == ("weak_password", f"password too weak: {rule}")


@pytest.mark.parametrize(
    "password", ["12345679x", "xk" * 4, "x" * 256, "😀" * 8, "ﷺ" * 14, "my password", "passwordpassword1x", "password ", " password"],
    ids=lambda value: ascii(value[:10]),
)  # fmt: skip
def test_a_password_within_the_rules_passes(password: str) -> None:
    assert checked(password) == unicodedata.normalize("NFKC", password)


def test_a_realm_may_ask_for_more_characters() -> None:
    rules = PasswordRules(12)
    assert check_password(SecretText("xyzxyzxyzxyz"), rules) == "xyzxyzxyzxyz"
    for password in ("xyzxyzxyzxy", "e\u0301" * 11):
        with pytest.raises(Invalid, match="at least 12 characters"):
            check_password(SecretText(password), rules)
    with pytest.raises(Invalid, match="common"):
        check_password(SecretText("Correct Horse Battery Staple"), rules)


@pytest.mark.parametrize(
    "password", ["AdaLovelace", "adalovelace", "ＡｄａＬｏｖｅｌａｃｅ", "Ada@Shop.example"]
)
def test_what_its_owner_is_called_is_no_password(password: str) -> None:
    names = ("adalovelace", None, "ada@shop.example")
    with pytest.raises(Invalid, match="not the name or address of its owner"):
        check_password(SecretText(password), PasswordRules(), *names)
    assert check_password(SecretText(password + "!"), PasswordRules(), *names)


def test_a_throw_away_server_takes_any_password() -> None:
    for password in ("x", "password", "ada"):
        assert check_password(SecretText(password), PasswordRules(1), "ada") == password
    with pytest.raises(Invalid, match="at least 1 characters"):
        check_password(SecretText(""), PasswordRules(1))


@pytest.mark.parametrize("entry", sorted(COMMON_PASSWORDS)[::7])
def test_every_entry_of_the_list_is_refused_in_any_case(entry: str) -> None:
    for spelled in (entry, entry.upper(), entry.title()):
        with pytest.raises(Invalid, match="common"):
            checked(spelled)


def test_the_list_holds_what_can_be_compared() -> None:
    assert len(COMMON_PASSWORDS) > 400
    for entry in COMMON_PASSWORDS:
        assert entry == unicodedata.normalize("NFKC", entry).casefold()
        assert len(entry) >= 8


def test_a_password_of_any_size_is_not_worked_on_before_it_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # One character may normalize to eighteen, and this runs on the event loop.
    worked_on: list[int] = []
    normalize = unicodedata.normalize

    class Watched:
        @staticmethod
        def normalize(form: Any, text: str) -> str:
            worked_on.append(len(text))
            return normalize(form, text)

    monkeypatch.setattr(passwords, "unicodedata", Watched)
    with pytest.raises(Invalid, match="at most 256 characters"):
        checked("ﷺ" * 100_000)
    assert max(worked_on, default=0) <= 4 * 256


@settings(deadline=None)
@given(st.text(min_size=1, max_size=40))
def test_normalizing_twice_changes_nothing(text: str) -> None:
    once = normalize_password(SecretText(text))
    assert normalize_password(SecretText(once)) == once
    assert normalize_password(SecretText(unicodedata.normalize("NFD", text))) == once


@pytest.fixture
async def lane() -> AsyncIterator[PasswordLane]:
    opened = PasswordLane(FakeKeys(ACME, OTHER), TESTING)
    yield opened
    opened.close()


async def test_the_right_password_matches_and_no_other(lane: PasswordLane) -> None:
    phc = await lane.hash(ACME, PHRASE)
    assert await lane.verify(ACME, SecretText(PHRASE), phc)
    for wrong in (
        "",
        PHRASE[:-1],
        PHRASE + " ",
        PHRASE.upper(),
        PHRASE + "\0",
        "x" * 256,
        "x" * 257,
        "x" * 100_000,
        "\ud800" * 9,
    ):
        assert not await lane.verify(ACME, SecretText(wrong), phc)


@pytest.mark.parametrize(
    "password", ["e\u0301" * 200, "\u1112\u1161\u11ab" * 256, "ᾂ" * 256, "x" * 256, "ﷺ" * 14]
)
async def test_whatever_may_be_chosen_can_be_typed_again(lane: PasswordLane, password: str) -> None:
    phc = await lane.hash(ACME, checked(password))
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        assert await lane.verify(ACME, SecretText(unicodedata.normalize(form, password)), phc)


async def test_a_hash_is_of_its_realm(lane: PasswordLane) -> None:
    phc = await lane.hash(ACME, PHRASE)
    assert not await lane.verify(OTHER, SecretText(PHRASE), phc)


async def test_two_hashes_of_one_password_differ(lane: PasswordLane) -> None:
    assert await lane.hash(ACME, PHRASE) != await lane.hash(ACME, PHRASE)


async def test_without_a_hash_nothing_matches_and_the_same_work_is_done(
    lane: PasswordLane, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified: list[str] = []
    verify = passwords.verify_password

    def watched(phc: str, *rest: Any) -> None:
        verified.append(phc)
        verify(phc, *rest)

    monkeypatch.setattr(passwords, "verify_password", watched)
    phc = await lane.hash(ACME, PHRASE)
    assert not await lane.verify(ACME, SecretText(PHRASE), None)
    assert not await lane.verify(ACME, SecretText("x" * 5000), None)
    assert not await lane.verify(ACME, SecretText("x" * 5000), phc)
    assert [text.rpartition("$")[0].rpartition("$")[0] for text in verified] == [
        phc.rpartition("$")[0].rpartition("$")[0]
    ] * 3


async def test_without_a_hash_not_even_a_match_counts(
    lane: PasswordLane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passwords, "verify_password", lambda *_: None)
    assert await lane.verify(ACME, SecretText(PHRASE), "a hash")
    assert not await lane.verify(ACME, SecretText(PHRASE), None)


@pytest.mark.parametrize(
    "phc", ["", "x", "$argon2id$", "$2b$12$abcdefghijklmnopqrstuv", "$argon2id$v=19$m=64,t=1,p=1$AAAA$AAAA"]
)
async def test_a_hash_that_cannot_be_read_matches_nothing(lane: PasswordLane, phc: str) -> None:
    assert not await lane.verify(ACME, SecretText(PHRASE), phc)


async def test_a_full_lane_refuses_at_once_and_recovers(
    lane: PasswordLane, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    monkeypatch.setattr(passwords, "hash_password", lambda *_: str(release.wait(10)))
    waiting = [asyncio.create_task(lane.hash(ACME, PHRASE)) for _ in range(PASSWORD_LANE_QUEUE_MAX)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    with pytest.raises(Unavailable) as caught:
        await lane.hash(ACME, PHRASE)
    assert (caught.value.code, caught.value.message) == ("overloaded", "too many logins at once")
    with pytest.raises(Unavailable):
        await lane.verify(ACME, SecretText(PHRASE), None)
    release.set()
    assert await asyncio.gather(*waiting) == ["True"] * PASSWORD_LANE_QUEUE_MAX
    assert await lane.hash(ACME, PHRASE) == "True"


async def test_whoever_waits_too_long_is_refused(lane: PasswordLane, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(passwords, "PASSWORD_LANE_WAIT_SECONDS", 0.05)
    monkeypatch.setattr(passwords, "hash_password", lambda *_: str(release.wait(10)))
    asked = [lane.hash(ACME, PHRASE) for _ in range(PASSWORD_LANE_WIDTH + 1)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    release.set()
    assert [type(answer) for answer in answers] == [Unavailable] * len(asked)
    assert await lane.hash(ACME, PHRASE) == "True"


async def test_passwords_are_hashed_on_threads_of_their_own(
    lane: PasswordLane, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: set[str] = set()
    monkeypatch.setattr(
        passwords, "hash_password", lambda *_: names.add(threading.current_thread().name) or ""
    )
    await asyncio.gather(*(lane.hash(ACME, PHRASE) for _ in range(20)))
    assert 1 <= len(names) <= PASSWORD_LANE_WIDTH
    assert all(name.startswith("password") for name in names)


async def test_a_place_is_kept_before_there_is_work_and_given_back(lane: PasswordLane) -> None:
    with ExitStack() as places:
        for _ in range(PASSWORD_LANE_QUEUE_MAX):
            places.enter_context(lane.place())
        with pytest.raises(Unavailable) as caught, lane.place():
            pytest.fail("a place too many")
        assert caught.value.code == "overloaded"
    with lane.place():
        assert not await lane.verify(ACME, SecretText(PHRASE), None)


async def test_a_place_is_given_back_by_whoever_fails(lane: PasswordLane) -> None:
    for _ in range(PASSWORD_LANE_QUEUE_MAX + 1):
        with pytest.raises(KeyError), lane.place():
            raise KeyError


async def test_there_is_no_place_behind_a_full_lane(
    lane: PasswordLane, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    monkeypatch.setattr(passwords, "hash_password", lambda *_: str(release.wait(10)))
    waiting = [asyncio.create_task(lane.hash(ACME, PHRASE)) for _ in range(PASSWORD_LANE_QUEUE_MAX)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    with pytest.raises(Unavailable), lane.place():
        pytest.fail("a place too many")
    release.set()
    await asyncio.gather(*waiting)
