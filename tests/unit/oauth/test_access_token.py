from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qimem.errors import Unauthenticated
from qimem.kernel.clock import MICROSECONDS
from qimem.kernel.limits import BEARER_CHARS_MAX
from qimem.oauth.access_token import AccessTokens, Issuers, invalid_token
from tests.support.oauth import b64, taken_apart, unb64
from tests.unit.oauth.fakes import ACME, ADA, APP, OTHER, URL, FakeKeys, Setting

pytestmark = pytest.mark.anyio

GRANT = UUID(int=5)
NOW = 1_800_000_000


@pytest.fixture
async def setting() -> Setting:
    return Setting()


async def signed(setting: Setting, claims: object, header: dict[str, Any] | None = None) -> str:
    """A token of exactly these claims under acme's genuine key."""
    kid, sign = await setting.keys.active_signer(ACME)
    head = {"alg": "ES256", "typ": "at+jwt", "kid": kid} if header is None else header
    payload = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    text = f"{b64(json.dumps(head).encode())}.{b64(payload)}"
    return f"{text}.{b64(sign(text.encode()))}"


async def genuine(setting: Setting) -> dict[str, Any]:
    return taken_apart(await setting.access_token(grant_id=GRANT))[1]


async def refused(setting: Setting, token: str) -> None:
    with pytest.raises(Unauthenticated) as caught:
        await setting.access_tokens.verify(token)
    assert (caught.value.code, caught.value.message) == (invalid_token().code, invalid_token().message)


async def test_a_token_carries_what_rfc_9068_asks_for_and_the_realms_own(setting: Setting) -> None:
    header, claims, signature = taken_apart(await setting.access_token(grant_id=GRANT))
    assert header == {"alg": "ES256", "typ": "at+jwt", "kid": setting.keys.active[ACME]}
    assert claims == {
        "iss": f"{URL}/realms/acme",
        "sub": str(ADA),
        "aud": URL,
        "client_id": APP,
        "realm": ACME,
        "roles": ["clerk"],
        "permissions": ["keys:read", "orders:approve"],
        "jti": claims["jti"],
        "token_use": "access",
        "iat": NOW,
        "exp": NOW + 900,
        "grant_id": str(GRANT),
    }
    assert UUID(claims["jti"]).version == 4
    assert len(signature) == 64


async def test_a_client_for_itself_is_its_own_subject(setting: Setting) -> None:
    claims = taken_apart(await setting.access_token(user=False))[1]
    assert claims["sub"] == claims["client_id"] == APP
    assert (claims["roles"], claims["permissions"]) == (["robot"], ["keys:encrypt"])
    assert not claims.keys() & {"grant_id", "scope"}


async def test_a_token_is_written_without_a_wasted_byte(setting: Setting) -> None:
    payload = unb64((await setting.access_token(grant_id=GRANT)).split(".")[1])
    assert payload == json.dumps(json.loads(payload), separators=(",", ":")).encode()


@pytest.mark.parametrize(
    ("said", "read"),
    [("read write", "read write"), ("", ""), (None, None), (1, None), (["read"], None)],
    ids=str,
)
@pytest.mark.parametrize("claim", ["scope", "secret_id"])
async def test_an_optional_claim_is_a_text_or_nothing(
    setting: Setting, claim: str, said: object, read: str | None
) -> None:
    claims = (await genuine(setting)) | {claim: said}
    assert getattr((await setting.access_tokens.verify(await signed(setting, claims)))[0], claim) == read


async def test_a_fraction_of_a_second_is_cut_off(setting: Setting) -> None:
    setting.clock.wall_us = NOW * MICROSECONDS + 999_999
    claims = taken_apart(await setting.access_token(seconds=1))[1]
    assert (claims["iat"], claims["exp"]) == (NOW, NOW + 1)


async def test_no_two_tokens_are_the_same(setting: Setting) -> None:
    assert await setting.access_token() != await setting.access_token()


async def test_what_was_written_is_read_back(setting: Setting) -> None:
    token = await setting.access_token(grant_id=GRANT)
    claims, kid = await setting.access_tokens.verify(token)
    assert kid == setting.keys.active[ACME]
    assert (claims.realm_id, claims.subject, claims.client_id, claims.grant_id) == (
        ACME,
        str(ADA),
        APP,
        GRANT,
    )
    assert (claims.issued_at, claims.expires_at, claims.scope) == (NOW, NOW + 900, None)
    assert claims.token_id == taken_apart(token)[1]["jti"]


async def test_after_a_rotation_the_new_key_signs_and_the_old_one_still_verifies(setting: Setting) -> None:
    old, old_kid = await setting.access_token(), setting.keys.active[ACME]
    new_kid = setting.keys.rotate(ACME)
    new = await setting.access_token()
    assert [(await setting.access_tokens.verify(token))[1] for token in (old, new)] == [old_kid, new_kid]
    del setting.keys.published[ACME][old_kid]
    await refused(setting, old)
    await setting.access_tokens.verify(new)


@pytest.mark.parametrize(
    ("claim", "values"),
    [
        (
            "iss",
            [
                None,
                "",
                f"{URL}/realms/other",
                f"{URL}/realms/acme/",
                f"{URL.upper()}/realms/acme",
                [f"{URL}/realms/acme"],
                1,
            ],
        ),
        ("aud", [None, "", URL + "/", f"{URL}/realms/acme", [URL], {}, 1]),
        ("realm", [None, "", "other", "ACME", "absent", ["acme"], 1, "a" * 64, "acme\n"]),
        ("token_use", [None, "", "refresh", "ACCESS", ["access"], True]),
        ("sub", [None, 1, ["x"], {}, True]),
        ("client_id", [None, 1, ["x"]]),
        ("jti", [None, 1, ["x"]]),
        ("grant_id", ["", "x", 1, str(GRANT) + "x", "{" + str(GRANT) + "}", [str(GRANT)]]),
        ("iat", [None, "1", 1.5, True, [1]]),
        ("exp", [None, "9999999999", 9999999999.0, True, False, [1], {}]),
    ],
)
async def test_a_wrong_claim_is_refused_under_a_good_signature(
    setting: Setting, claim: str, values: list[Any]
) -> None:
    good = await genuine(setting)
    await setting.access_tokens.verify(await signed(setting, good))
    for value in values:
        changed = {name: one for name, one in (good | {claim: value}).items() if one is not None}
        await refused(setting, await signed(setting, changed))


@pytest.mark.parametrize(
    "payload",
    [b"", b"{", b"[]", b"1", b"null", b'"x"', b"\xff", b"[" * 3000, b'{"realm":"acme"}', b"{}"],
    ids=["none", "cut off", "list", "number", "null", "text", "no text", "deep", "one claim", "no claim"],
)
async def test_claims_of_another_shape_are_refused(setting: Setting, payload: bytes) -> None:
    await refused(setting, await signed(setting, payload))


async def test_a_header_of_another_shape_is_refused(setting: Setting) -> None:
    good, kid = await genuine(setting), setting.keys.active[ACME]
    head = {"alg": "ES256", "typ": "at+jwt", "kid": kid}
    headers: list[dict[str, Any]] = [
        {}, head | {"typ": "JWT"}, head | {"typ": "AT+JWT"}, head | {"alg": "none"}, head | {"alg": "HS256"}, head | {"kid": "x"},
        head | {"kid": setting.keys.active[OTHER]}, head | {"crit": []}, head | {"jwk": setting.keys.published[ACME][kid]},
        {name: value for name, value in head.items() if name != "typ"}, {name: value for name, value in head.items() if name != "kid"},
    ]  # fmt: skip
    for header in headers:
        await refused(setting, await signed(setting, good, header))


async def test_a_realm_vouches_for_itself_alone(setting: Setting) -> None:
    good = await genuine(setting)
    await refused(setting, await signed(setting, good | {"realm": OTHER, "iss": f"{URL}/realms/other"}))
    kid, sign = await setting.keys.active_signer(OTHER)
    header = {"alg": "ES256", "typ": "at+jwt", "kid": kid}
    text = f"{b64(json.dumps(header).encode())}.{b64(json.dumps(good).encode())}"
    await refused(setting, f"{text}.{b64(sign(text.encode()))}")


async def test_another_installation_with_the_same_keys_is_not_ours(setting: Setting) -> None:
    token = await setting.access_token()
    for url in ("https://id.example.evil", "http://id.example", "https://id.example:443", ""):
        elsewhere = AccessTokens(setting.keys, Issuers(url), setting.clock)
        with pytest.raises(Unauthenticated):
            await elsewhere.verify(token)


async def test_neither_expiry_nor_state_is_judged_here(setting: Setting) -> None:
    token = await setting.access_token()
    setting.clock.advance(10**6)
    setting.users.rows.clear()
    await setting.access_tokens.verify(token)


async def test_a_token_longer_than_a_header_may_be_is_refused(setting: Setting) -> None:
    good = await genuine(setting)
    await refused(setting, await signed(setting, good | {"x": "x" * BEARER_CHARS_MAX}))


class _Tokens:
    """One verifier for every example; making keys for each would be all the work."""

    keys = FakeKeys(ACME)
    setting = Setting(keys=keys)


@settings(deadline=None, max_examples=300)
@given(
    st.text(max_size=200) | st.lists(st.binary(max_size=60).map(b64), min_size=1, max_size=5).map(".".join)
)
async def test_garbage_is_refused_and_nothing_else_happens(text: str) -> None:
    await refused(_Tokens.setting, text)
