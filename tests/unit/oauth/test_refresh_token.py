from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qimem.errors import storage_unavailable
from qimem.kernel.ids import ClientId, RealmId
from qimem.oauth.refresh_token import RefreshTokens, is_genuine, make_refresh_token, parse_refresh_token
from tests.support.oauth import b64, unb64
from tests.unit.oauth.fakes import ACME, APP, OTHER, FakeKeys, Setting, a_grant

pytestmark = pytest.mark.anyio

GRANT = UUID("0d3f6f2c-9a64-4d0e-8a52-6f0d3c1b2a19")


@pytest.fixture(scope="module")
def keys() -> FakeKeys:
    return FakeKeys(ACME, OTHER)


async def test_a_token_says_what_it_was_made_of(keys: FakeKeys) -> None:
    token = await make_refresh_token(keys, ACME, GRANT, 7, APP)
    assert token.startswith("qrt_")
    parsed = parse_refresh_token(token)
    assert parsed is not None
    assert (parsed.realm_id, parsed.grant_id, parsed.generation, len(parsed.tag)) == (ACME, GRANT, 7, 32)
    assert await is_genuine(keys, parsed, APP)


async def test_the_tag_covers_a_purpose_and_every_part_with_its_length() -> None:
    # Tokens that are out were tagged over exactly these bytes.
    realm, client = RealmId("a" * 63), ClientId("c" * 128)
    seen: list[bytes] = []

    class Spy(FakeKeys):
        async def tag(self, realm_id: RealmId, data: bytes) -> bytes:
            seen.append(data)
            return await super().tag(realm_id, data)

    await make_refresh_token(Spy(realm), realm, GRANT, 7, client)
    lengths = len(realm).to_bytes(2, "big"), len(client).to_bytes(2, "big")
    parts = b"qimem refresh token v1\0", lengths[0], realm.encode(), lengths[1], client.encode(), GRANT.bytes
    assert seen == [b"".join(parts) + (7).to_bytes(4, "big")]


async def test_the_same_generation_has_the_same_token(keys: FakeKeys) -> None:
    one, two = [await make_refresh_token(keys, ACME, GRANT, 7, APP) for _ in range(2)]
    assert one == two


async def test_each_part_of_a_token_changes_it(keys: FakeKeys) -> None:
    parts = (ACME, GRANT, 7, APP)
    others = [
        (OTHER, GRANT, 7, APP),
        (ACME, UUID(int=7), 7, APP),
        (ACME, GRANT, 8, APP),
        (ACME, GRANT, 7, ClientId("app2")),
    ]
    tokens = [await make_refresh_token(keys, *one) for one in (parts, *others)]
    assert len({unb64(token[4:])[-32:] for token in tokens}) == len(tokens)


async def test_a_token_is_of_one_client(keys: FakeKeys) -> None:
    parsed = parse_refresh_token(await make_refresh_token(keys, ACME, GRANT, 7, APP))
    assert parsed is not None
    for client_id in ("", "ap", "app ", "App", "app\0", "other"):
        assert not await is_genuine(keys, parsed, ClientId(client_id))


async def test_no_part_can_be_exchanged(keys: FakeKeys) -> None:
    parsed = parse_refresh_token(await make_refresh_token(keys, ACME, GRANT, 7, APP))
    assert parsed is not None
    forged = [
        replace(parsed, generation=8), replace(parsed, generation=6), replace(parsed, grant_id=UUID(int=1)), replace(parsed, realm_id=OTHER),
        replace(parsed, tag=bytes(32)), replace(parsed, tag=parsed.tag[::-1]), replace(parsed, realm_id=RealmId("absent")),
    ]  # fmt: skip
    for one in forged:
        assert not await is_genuine(keys, one, APP)


async def test_realm_and_client_cannot_lend_each_other_characters(keys: FakeKeys) -> None:
    # Both realms share one key here, so that only the lengths keep the two apart.
    class OneKey(FakeKeys):
        def _secret(self, realm_id: RealmId):
            return super()._secret(ACME)

    shared = OneKey(RealmId("a"), RealmId("ab"))
    one = await make_refresh_token(shared, RealmId("a"), GRANT, 1, ClientId("bc"))
    two = await make_refresh_token(shared, RealmId("ab"), GRANT, 1, ClientId("c"))
    assert unb64(one[4:])[-32:] != unb64(two[4:])[-32:]


@pytest.mark.parametrize("realm_id", ["a", "z" * 63])
@pytest.mark.parametrize("generation", [0, 1, 2**32 - 1])
async def test_the_edges_of_its_parts_fit(realm_id: str, generation: int) -> None:
    keys = FakeKeys(RealmId(realm_id))
    parsed = parse_refresh_token(await make_refresh_token(keys, RealmId(realm_id), GRANT, generation, APP))
    assert parsed is not None
    assert (parsed.realm_id, parsed.generation) == (realm_id, generation)


def of(data: bytes) -> str:
    return f"qrt_{b64(data)}"


TAIL = bytes(16 + 4 + 32)


@pytest.mark.parametrize(
    "token",
    [
        "", "qrt", "qrt_", "QRT_" + b64(b"\4acme" + TAIL), b64(b"\4acme" + TAIL), "qrt-" + b64(b"\4acme" + TAIL), of(b""), of(b"\0"), of(TAIL),
        of(b"\0" + TAIL), of(b"\4acme"), of(b"\4acme" + TAIL[:-1]), of(b"\4acme" + TAIL + b"\0"), of(b"\3acme" + TAIL), of(b"\5acme" + TAIL),
        of(b"\xffacme" + TAIL), of(b"\4ACME" + TAIL), of(b"\4a/me" + TAIL), of(b"\4a.me" + TAIL), of(b"\4-cme" + TAIL), of(b"\4acm\xe9" + TAIL),
        of(b"\4acm\0" + TAIL), of(b"\x40" + b"a" * 64 + TAIL), of(b"\4acme" + TAIL) + "=", of(b"\4acme" + TAIL) + "\n", " " + of(b"\4acme" + TAIL),
        of(b"\4acme" + TAIL)[:-1], of(b"\4acme" + TAIL) + "é", of(b"\3acm" + TAIL)[:-1] + "B", of(b"\4acme" + TAIL).replace("A", "+", 1),
        "qrt_" + "A" * 253, "qrt_" + "A" * 10_000_000, "qrt_\0", "qrt_😀",
    ],
    ids=lambda token: ascii(token[:30]).replace("\\", "/"),
)  # fmt: skip
def test_what_cannot_be_a_token_is_not_read(token: str) -> None:
    assert parse_refresh_token(token) is None


def test_what_looks_like_a_token_is_read() -> None:
    # The rows above differ from these two by one fault each.
    for realm in (b"acme", b"acm"):
        parsed = parse_refresh_token(of(bytes((len(realm),)) + realm + TAIL))
        assert parsed is not None
        assert parsed.realm_id.encode() == realm


@settings(deadline=None)
@given(st.binary(max_size=120) | st.binary(max_size=60).map(lambda data: b"\4acme" + data))
def test_whatever_is_read_has_one_spelling(data: bytes) -> None:
    parsed = parse_refresh_token(of(data))
    if parsed is not None:
        realm = parsed.realm_id.encode()
        assert (
            data
            == bytes((len(realm),))
            + realm
            + parsed.grant_id.bytes
            + parsed.generation.to_bytes(4)
            + parsed.tag
        )


@settings(deadline=None)
@given(st.text(max_size=80).map(lambda text: f"qrt_{text}"))
def test_any_text_is_read_or_not_and_nothing_else(text: str) -> None:
    parse_refresh_token(text)


@pytest.fixture
def setting() -> Setting:
    made = Setting()
    made.grants.rows[ACME, GRANT] = a_grant(grant_id=GRANT, generation=3)
    return made


def tokens(setting: Setting) -> RefreshTokens:
    return RefreshTokens(setting.database, setting.grants, setting.keys)


async def test_the_grant_behind_a_token_is_found_dead_or_alive_and_at_any_generation(
    setting: Setting,
) -> None:
    for generation, revoked in ((3, None), (1, None), (9, None), (3, 1)):
        setting.grants.rows[ACME, GRANT] = a_grant(grant_id=GRANT, generation=3, revoked_us=revoked)
        found = await tokens(setting).find(
            await make_refresh_token(setting.keys, ACME, GRANT, generation, APP)
        )
        assert found is not None
        assert (found[0].generation, found[1]) == (generation, setting.grants.rows[ACME, GRANT])


async def test_no_grant_is_found_behind_what_is_not_ours(setting: Setting) -> None:
    for parts in ((ACME, UUID(int=1), 3, APP), (OTHER, GRANT, 3, APP), (ACME, GRANT, 3, ClientId("other"))):
        assert await tokens(setting).find(await make_refresh_token(setting.keys, *parts)) is None
    data = unb64((await make_refresh_token(setting.keys, ACME, GRANT, 3, APP))[4:])
    for at in range(len(data)):
        assert await tokens(setting).find(of(data[:at] + bytes((data[at] ^ 0x80,)) + data[at + 1 :])) is None


async def test_garbage_asks_nothing_of_the_database(setting: Setting) -> None:
    for text in ("", "x", "qrt_", of(b"\4acme"), "qrt_" + "A" * 5000):
        assert await tokens(setting).find(text) is None
    assert setting.database.reads == 0


async def test_a_database_that_is_away_is_not_taken_for_a_forged_token(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(_: object) -> None:
        raise storage_unavailable()

    token = await make_refresh_token(setting.keys, ACME, GRANT, 3, APP)
    monkeypatch.setattr(setting.database, "read", away)
    with pytest.raises(type(storage_unavailable())):
        await tokens(setting).find(token)
