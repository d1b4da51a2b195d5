from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import pytest

from qimem.crypto.mac import digest
from qimem.errors import Unauthenticated, storage_unavailable
from qimem.kernel.clock import MICROSECONDS
from qimem.kernel.ids import RealmId
from qimem.kernel.secret import SecretText
from qimem.oauth.client_auth import ClientAuthenticator
from qimem.oauth.models import AuthMethod, ClientRecord
from tests.support.metering import FakeMeter
from tests.unit.oauth.fakes import ACME, APP, OTHER, SECRET, Setting, a_client, basic, readable

pytestmark = pytest.mark.anyio


@pytest.fixture
async def setting() -> Setting:
    made = Setting()
    made.clients.rows[ACME, "spa"] = a_client("spa", secret_digest=None, auth_method=AuthMethod.NONE)
    made.clients.rows[OTHER, "far"] = a_client("far", OTHER)
    return made


@pytest.fixture
async def door(setting: Setting) -> ClientAuthenticator:
    return ClientAuthenticator(
        setting.database, setting.caches, setting.clients, setting.standing, setting.clock
    )


async def enter(
    door: ClientAuthenticator, client_id: str = APP, secret: str | None = SECRET, realm: str | None = None
) -> ClientRecord:
    return await door.authenticate(
        client_id, None if secret is None else SecretText(secret), realm, FakeMeter()
    )


async def refused(door: ClientAuthenticator, *asked: Any) -> None:
    with pytest.raises(Unauthenticated) as caught:
        await enter(door, *asked)
    assert (caught.value.code, caught.value.message) == ("invalid_client", "invalid client credentials")
    assert caught.value.hint is None


@pytest.mark.parametrize("realm", [None, "acme"])
async def test_the_right_secret_enters(
    setting: Setting, door: ClientAuthenticator, realm: str | None
) -> None:
    for _ in range(2):
        assert await enter(door, realm=realm) == setting.clients.rows[ACME, APP]


@pytest.mark.parametrize(
    "secret",
    [None, "", SECRET[:-1], SECRET + "x", SECRET + " ", SECRET.upper(), "\0", "ä", "\ud800", "x" * 1_000_000],
)
async def test_any_other_secret_is_refused(door: ClientAuthenticator, secret: str | None) -> None:
    await refused(door, APP, secret)


async def test_the_digest_of_a_secret_is_not_the_secret(setting: Setting, door: ClientAuthenticator) -> None:
    stored = setting.clients.rows[ACME, APP].secret_digest
    assert stored is not None
    await refused(door, APP, stored.hex())
    await refused(door, APP, stored.decode("latin-1"))


@pytest.mark.parametrize(
    "client_id",
    [
        "",
        "unknown",
        "APP",
        "app ",
        "app\0",
        "x" * 128,
        "x" * 129,
        "x" * 1_000_000,
        "ä",
        "no client has this digest",
    ],
)
@pytest.mark.parametrize("secret", [SECRET, None, "no client has this digest"])
async def test_an_unknown_client_is_refused_alike(
    door: ClientAuthenticator, client_id: str, secret: str | None
) -> None:
    await refused(door, client_id, secret)


async def test_an_overlong_id_asks_nothing_of_the_database(
    setting: Setting, door: ClientAuthenticator
) -> None:
    await refused(door, "x" * 129, SECRET)
    await refused(door, "", SECRET)
    assert setting.database.reads == 0


@pytest.mark.parametrize("realm", ["other", "absent", "", "ACME", "acme ", "system"])
async def test_another_realm_is_refused(door: ClientAuthenticator, realm: str) -> None:
    await refused(door, APP, SECRET, realm)


async def test_a_client_of_another_realm_enters_there_alone(door: ClientAuthenticator) -> None:
    assert (await enter(door, "far", realm="other")).realm_id == OTHER
    await refused(door, "far", SECRET, "acme")


async def test_a_public_client_enters_without_a_secret_and_with_none(
    setting: Setting, door: ClientAuthenticator
) -> None:
    assert await enter(door, "spa", None) == setting.clients.rows[ACME, "spa"]
    for secret in ("", SECRET, "x"):
        await refused(door, "spa", secret)
    await refused(door, "spa", None, "other")


@pytest.mark.parametrize("client_id", [APP, "spa"])
async def test_a_disabled_client_is_out_at_once_and_comes_back(
    setting: Setting, door: ClientAuthenticator, client_id: str
) -> None:
    secret = SECRET if client_id == APP else None
    await enter(door, client_id, secret)
    setting.change(setting.clients, (ACME, client_id), enabled=False)
    await refused(door, client_id, secret)
    setting.change(setting.clients, (ACME, client_id), enabled=True)
    await enter(door, client_id, secret)


async def test_the_clients_of_a_disabled_realm_are_out_at_once(
    setting: Setting, door: ClientAuthenticator
) -> None:
    await enter(door)
    setting.change(setting.realms, ACME, enabled=False)
    await refused(door)
    setting.change(setting.realms, ACME, enabled=True)
    await enter(door)


async def test_a_new_secret_counts_at_once(setting: Setting, door: ClientAuthenticator) -> None:
    await enter(door)
    setting.change(
        setting.clients, (ACME, APP), secret_digest=a_client(secret_digest=b"\1" * 32).secret_digest
    )
    await refused(door)


async def test_a_client_that_is_gone_is_refused(setting: Setting, door: ClientAuthenticator) -> None:
    await enter(door)
    del setting.clients.rows[ACME, APP]
    setting.epochs.bump(None, ACME)  # type: ignore[arg-type]  # it needs no transaction
    await refused(door)


async def test_a_client_that_was_unknown_is_found_once_it_is_there(
    setting: Setting, door: ClientAuthenticator
) -> None:
    await refused(door, "late", SECRET)
    setting.clients.rows[ACME, "late"] = a_client("late")
    assert (await enter(door, "late")).client_id == "late"


async def test_a_known_client_costs_no_read(setting: Setting, door: ClientAuthenticator) -> None:
    await enter(door)
    before = setting.database.reads
    await enter(door)
    assert setting.database.reads == before


async def test_nobody_is_let_in_on_memory_alone(setting: Setting, door: ClientAuthenticator) -> None:
    await enter(door)
    setting.epochs.failure = storage_unavailable()
    with pytest.raises(type(storage_unavailable())):
        await enter(door)


async def test_a_realm_that_vanished_takes_its_clients_along(
    setting: Setting, door: ClientAuthenticator
) -> None:
    await enter(door)
    del setting.epochs.now[RealmId("acme")]
    await refused(door)


async def test_the_secret_before_is_good_until_its_time_is_over(
    setting: Setting, door: ClientAuthenticator
) -> None:
    until_us = setting.clock.now_us() + 10 * MICROSECONDS
    client = a_client("two", previous_digest=digest(b"before"), previous_until_us=until_us)
    setting.clients.rows[ACME, "two"] = client
    shown = replace(client, secret_digest=digest(b"before"), previous_digest=None, previous_until_us=None)
    assert await enter(door, "two", "before") == shown
    assert await enter(door, "two") == client
    await refused(door, "two", "another")
    setting.clock.advance(9)
    assert await enter(door, "two", "before") == shown
    setting.clock.advance(1)
    await refused(door, "two", "before")
    assert await enter(door, "two") == client


@pytest.mark.parametrize("until_us", [None, 0])
async def test_a_secret_that_is_merely_remembered_opens_nothing(
    setting: Setting, door: ClientAuthenticator, until_us: int | None
) -> None:
    setting.clients.rows[ACME, "two"] = a_client(
        "two", previous_digest=digest(b"before"), previous_until_us=until_us
    )
    await refused(door, "two", "before")


async def test_a_public_client_has_no_secret_before(setting: Setting, door: ClientAuthenticator) -> None:
    until_us = setting.clock.now_us() + 10 * MICROSECONDS
    setting.clients.rows[ACME, "spa"] = a_client(
        "spa",
        secret_digest=None,
        auth_method=AuthMethod.NONE,
        previous_digest=digest(b"before"),
        previous_until_us=until_us,
    )
    await refused(door, "spa", "before")


def spelled(pair: str | bytes) -> bytes:
    """A header of exactly this pair."""
    return b"Basic " + base64.b64encode(pair.encode() if isinstance(pair, str) else pair)


async def refused_header(door: ClientAuthenticator, header: bytes) -> None:
    with pytest.raises(Unauthenticated) as caught:
        await door.with_basic(header, FakeMeter())
    assert (caught.value.code, caught.value.message) == ("invalid_client", "invalid client credentials")
    assert caught.value.hint is None


@pytest.mark.parametrize(
    "template", [b"Basic %s", b"basic %s", b"Basic   %s", b"Basic %s  ", b"Basic \t%s\t"], ids=readable
)
async def test_a_header_with_the_right_secret_enters(
    setting: Setting, door: ClientAuthenticator, template: bytes
) -> None:
    header = template.replace(b"%s", basic(APP, SECRET).removeprefix(b"Basic "))
    assert await door.with_basic(header, FakeMeter()) == setting.clients.rows[ACME, APP]


async def test_a_header_tells_clients_of_every_realm_apart(
    setting: Setting, door: ClientAuthenticator
) -> None:
    setting.clients.rows[OTHER, "far"] = a_client("far", OTHER, secret_digest=digest(b"distant"))
    assert (await door.with_basic(basic("far", "distant"), FakeMeter())).realm_id == OTHER
    assert (await door.with_basic(basic(APP, SECRET), FakeMeter())).realm_id == ACME
    await refused_header(door, basic("far", SECRET))
    await refused_header(door, basic(APP, "distant"))


@pytest.mark.parametrize(
    ("client_id", "secret"),
    [("a:b", "c"), ("a", "b:c"), ("a b", "c d"), ("a+b", "c+d"), ("a%20b", "c%3Ad"), ("ä", "ß€"), (":", ":"), ("a", ":"), ("=&", "?#/")],
    ids=readable,
)  # fmt: skip
async def test_id_and_secret_are_form_encoded_in_a_header(
    setting: Setting, door: ClientAuthenticator, client_id: str, secret: str
) -> None:
    client = a_client(client_id, secret_digest=digest(secret.encode()))
    setting.clients.rows[ACME, client_id] = client
    assert await door.with_basic(basic(client_id, secret), FakeMeter()) == client


async def test_the_first_colon_of_a_header_ends_the_id(setting: Setting, door: ClientAuthenticator) -> None:
    client = a_client("a", secret_digest=digest(b"b:c"))
    setting.clients.rows[ACME, "a"] = client
    setting.clients.rows[ACME, "a:b"] = a_client("a:b", secret_digest=digest(b"c"))
    assert await door.with_basic(spelled("a:b:c"), FakeMeter()) == client


async def test_a_header_is_decoded_once(setting: Setting, door: ClientAuthenticator) -> None:
    setting.clients.rows[ACME, "a b"] = a_client("a b")
    setting.clients.rows[ACME, "a"] = a_client("a", secret_digest=digest(b"c d"))
    await refused_header(door, spelled(f"a%2520b:{SECRET}"))
    await refused_header(door, spelled(f"a%2Bb:{SECRET}"))
    await refused_header(door, spelled("a:c%2520d"))
    await refused_header(door, spelled("a:c%2Bd"))


PAIR = base64.b64encode(f"{APP}:{SECRET}".encode())


@pytest.mark.parametrize(
    "header",
    [
        b"", b"Basic", b"Basic ", b"Basic !!!", b"Basic =", b"Basic \xff", b"Basic \0", b"Basic " + PAIR[:-1], b"Basic " + PAIR + b"=",
        b"Basic " + PAIR + b"!", b"Basic !" + PAIR, b"Basic " + PAIR[:4] + b" " + PAIR[4:], b"Basic " + PAIR[:4] + b"\n" + PAIR[4:],
        b"Basic " + PAIR[:4] + b"-" + PAIR[4:], b"Basic " + PAIR + b"," + PAIR, b"Basic Basic " + PAIR, PAIR, b"Basic" + PAIR,
    ],
    ids=readable,
)  # fmt: skip
async def test_a_header_that_is_no_base64_is_refused(door: ClientAuthenticator, header: bytes) -> None:
    await refused_header(door, header)


@pytest.mark.parametrize(
    "pair",
    [
        "", ":", APP, f"{APP}:", f":{SECRET}", f"{APP};{SECRET}", f"{APP}%3A{SECRET}", f"{APP}::{SECRET}", f" {APP}:{SECRET}", f"{APP}:{SECRET} ",
        f"{APP} :{SECRET}", f"{APP}: {SECRET}", f"{APP}:{SECRET}\n", f"{APP}:{SECRET}\0", f"{SECRET}:{APP}", f"APP:{SECRET}", f"{APP}:{SECRET.upper()}",
        f"{APP}:{SECRET[:-1]}", f"unknown:{SECRET}", f"{APP}:%ff", f"%ff:{SECRET}", f"{APP}%00:{SECRET}", f"{'x' * 129}:{SECRET}",
        "unknown:no client has this digest", f"{APP}:{SECRET}".encode("utf-16"), f"{APP}:{SECRET}\xff".encode("latin-1"), b"\xff" + PAIR,
    ],
    ids=readable,
)  # fmt: skip
async def test_another_pair_in_a_header_is_refused(door: ClientAuthenticator, pair: str | bytes) -> None:
    await refused_header(door, spelled(pair))


async def test_an_id_alone_is_not_an_id_with_an_empty_secret(
    setting: Setting, door: ClientAuthenticator
) -> None:
    client = a_client("open", secret_digest=digest(b""))
    setting.clients.rows[ACME, "open"] = client
    assert await door.with_basic(spelled("open:"), FakeMeter()) == client
    await refused_header(door, spelled("open"))


async def test_a_public_client_does_not_enter_by_a_header(door: ClientAuthenticator) -> None:
    assert await enter(door, "spa", None)
    for pair in ("spa:", "spa", f"spa:{SECRET}", "spa:None"):
        await refused_header(door, spelled(pair))


@pytest.mark.parametrize("what", ["client", "realm"])
async def test_a_header_of_the_disabled_is_refused_at_once(
    setting: Setting, door: ClientAuthenticator, what: str
) -> None:
    await door.with_basic(basic(APP, SECRET), FakeMeter())
    table, key = (setting.clients, (ACME, APP)) if what == "client" else (setting.realms, ACME)
    setting.change(table, key, enabled=False)
    await refused_header(door, basic(APP, SECRET))
    setting.change(table, key, enabled=True)
    await door.with_basic(basic(APP, SECRET), FakeMeter())


async def test_a_state_that_cannot_be_read_is_not_taken_for_a_wrong_header(
    setting: Setting, door: ClientAuthenticator
) -> None:
    setting.epochs.failure = storage_unavailable()
    with pytest.raises(type(storage_unavailable())):
        await door.with_basic(basic(APP, SECRET), FakeMeter())
