"""Access tokens that somebody made up: no header, claim, key or signature but our own opens anything."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.support.api import Person, World
from tests.support.oauth import (
    Forger,
    b64,
    forger,
    nobody,
    protected,
    signing_input,
    taken_apart,
    unb64,
    unwelcome,
)
from tests.support.server import ok

HOUR = 3600


@pytest.fixture(scope="module")
def thief(world: World) -> Forger:
    """Someone with the signing key of the realm: only what is wrong about the token can give them away."""
    # A realm of its own: elsewhere signing keys are rotated.
    return forger(world.server, world.person().access_token)


def test_the_forger_knows_the_trade(world: World, thief: Forger) -> None:
    # Every refusal below would be worth nothing if an unchanged forgery did not open the door.
    ok(protected(world, thief.forge()))
    now = int(time.time())
    ok(protected(world, thief.forge(iat=now - HOUR, exp=now + 30)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"iss": None}, {"iss": ""}, {"iss": "{iss}/"}, {"iss": "{iss}x"}, {"iss": "https://evil.example"}, {"iss": ["{iss}"]},
        {"iss": "{aud}/realms/system"}, {"aud": None}, {"aud": "{aud}/"}, {"aud": ["{aud}"]}, {"aud": "https://evil.example"},
        {"aud": "{iss}"}, {"token_use": None}, {"token_use": "refresh"}, {"token_use": "id"}, {"token_use": "Access"}, {"token_use": True},
        {"realm": None}, {"realm": ""}, {"realm": "system"}, {"realm": "absent"}, {"realm": "../system"}, {"realm": ["system"]},
        {"realm": "a\u0000b"}, {"realm": "x" * 3000}, {"sub": None}, {"sub": ""}, {"sub": 7}, {"sub": "nobody"}, {"sub": "8ca09f4f-2c8e-4055-a7d6-c9245a5f8c6d"},
        {"sub": "{client_id}x"}, {"sub": "\u0000"}, {"client_id": None}, {"client_id": ""}, {"client_id": 7}, {"client_id": "unknown"},
        {"client_id": "\u0000"}, {"jti": None}, {"jti": 7}, {"jti": ["x"]}, {"grant_id": "679fefbd-1f3d-423d-814c-102bf0d50050"}, {"grant_id": "x"}, {"grant_id": 7},
        {"grant_id": ""}, {"exp": None}, {"exp": "9999999999"}, {"exp": 9999999999.0}, {"exp": True}, {"exp": [9999999999]}, {"exp": {}},
        {"iat": None}, {"iat": "1"}, {"iat": 1.5},
    ],
    ids=lambda wrong: ascii(wrong)[:50],
)  # fmt: skip
def test_a_wrong_claim_is_refused_even_under_a_good_signature(
    world: World, thief: Forger, wrong: dict[str, Any]
) -> None:
    named = {name: value for name, value in thief.claims.items() if isinstance(value, str)}
    filled = json.loads(json.dumps(wrong), object_hook=lambda found: {
        name: value.format(**named) if isinstance(value, str) else value for name, value in found.items()
    })  # fmt: skip
    unwelcome(protected(world, thief.forge(**filled)))


@pytest.mark.parametrize("claims", [[], "x", 7, None, {}, [{}], True], ids=str)
def test_claims_that_are_no_object_of_ours_are_refused(world: World, thief: Forger, claims: object) -> None:
    unwelcome(protected(world, thief.compact(thief.header, claims)))


@pytest.mark.parametrize(
    "text", ["{", '{"realm":"system"', "\ufeff{}", '{"exp":NaN}', "[" * 2000, '{"exp":1e999}', "\u0000", '{"exp":' + "9" * 4000 + "}"],
    ids=lambda text: ascii(text[:12]),
)  # fmt: skip
def test_claims_that_are_no_json_are_refused(world: World, thief: Forger, text: str) -> None:
    signed = f"{b64(json.dumps(thief.header).encode())}.{b64(text.encode())}"
    unwelcome(protected(world, f"{signed}.{b64(thief.signer(signed.encode()))}"))


@pytest.mark.parametrize(
    "typ",
    [
        None,
        "",
        "JWT",
        "jwt",
        "AT+JWT",
        "at+JWT",
        "application/at+jwt",
        "at+jwt ",
        "id+jwt",
        "logout+jwt",
        ["at+jwt"],
        1,
    ],
)
def test_another_type_of_token_is_refused(world: World, thief: Forger, typ: object) -> None:
    unwelcome(protected(world, thief.forge({"typ": typ})))


@pytest.mark.parametrize(
    "alg", [None, "", "none", "None", "HS256", "ES384", "ES512", "RS256", "EdDSA", "es256", ["ES256"], 1]
)
def test_another_algorithm_in_the_header_is_refused(world: World, thief: Forger, alg: object) -> None:
    unwelcome(protected(world, thief.forge({"alg": alg})))


@pytest.mark.parametrize(
    "kid",
    [
        None,
        "",
        "x",
        7,
        ["{kid}"],
        {},
        "{kid} ",
        "{kid}\u0000",
        "{kid}=",
        "../../dev/null",
        "' OR 1=1 --",
        "system",
        "{foreign}",
    ],
)
def test_another_key_id_is_refused(world: World, thief: Forger, kid: object) -> None:
    foreign = ok(nobody(world).get("/realms/system/jwks"))["keys"][0]["kid"]
    text = json.dumps(kid).replace("{kid}", thief.header["kid"]).replace("{foreign}", foreign)
    unwelcome(protected(world, thief.forge({"kid": json.loads(text)})))


@pytest.mark.parametrize(
    "member",
    [
        {"jwk": "own"}, {"jku": "https://evil.example/jwks"}, {"x5u": "https://evil.example/x"}, {"x5c": ["AA"]}, {"x5t": "AA"},
        {"crit": ["exp"]}, {"crit": []}, {"crit": ["b64"], "b64": False}, {"b64": False}, {"b64": True}, {"zip": "DEF"},
        {"cty": "JWT"}, {"enc": "A256GCM"}, {"epk": {}}, {"nonce": "x"}, {"iss": "x"}, {"ALG": "none"}, {"": ""},
    ],
    ids=str,
)  # fmt: skip
def test_a_header_with_more_than_it_needs_is_refused(
    world: World, thief: Forger, member: dict[str, Any]
) -> None:
    if member == {"jwk": "own"}:
        (key,) = ok(nobody(world).get(f"/realms/{thief.claims['realm']}/jwks"))["keys"]
        member = {"jwk": key}
    unwelcome(protected(world, thief.forge(member)))


def test_a_member_that_stands_twice_is_refused(world: World, thief: Forger) -> None:
    for text in (
        f'{{"alg":"none","alg":"ES256","typ":"at+jwt","kid":"{thief.header["kid"]}"}}',
        f'{{"alg":"ES256","typ":"at+jwt","kid":"x","kid":"{thief.header["kid"]}"}}',
    ):
        signed = f"{b64(text.encode())}.{b64(json.dumps(thief.claims).encode())}"
        unwelcome(protected(world, f"{signed}.{b64(thief.signer(signed.encode()))}"))


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "nOnE", ""])
@pytest.mark.parametrize("signature", ["", "AA", "good"])
def test_a_token_without_signature_is_refused(world: World, thief: Forger, alg: str, signature: str) -> None:
    text = signing_input(thief.header | {"alg": alg}, thief.claims)
    unwelcome(
        protected(world, f"{text}.{b64(thief.signer(text.encode())) if signature == 'good' else signature}")
    )
    unwelcome(protected(world, text))


def test_the_public_key_is_no_secret_to_sign_with(world: World, thief: Forger) -> None:
    (key,) = ok(nobody(world).get(f"/realms/{thief.claims['realm']}/jwks"))["keys"]
    public = jwt.PyJWK(key).key
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    point = public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    bare = {name: key[name] for name in ("crv", "kty", "x", "y")}
    secrets = [
        pem, pem.strip(), pem.replace(b"\n", b"\r\n"), public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        point, point[1:], public.public_bytes(Encoding.X962, PublicFormat.CompressedPoint), unb64(key["x"]), unb64(key["y"]),
        *(json.dumps(one, separators=separators).encode() for one in (key, bare) for separators in ((",", ":"), (", ", ": "))),
        json.dumps({"keys": [key]}).encode(), key["kid"].encode(), b"", b"null", b"secret",
    ]  # fmt: skip
    for secret in secrets:
        for alg in ("HS256", "ES256"):
            text = signing_input(thief.header | {"alg": alg}, thief.claims)
            mac = hmac.digest(secret, text.encode(), hashlib.sha256)
            unwelcome(protected(world, f"{text}.{b64(mac)}"))
            unwelcome(protected(world, f"{text}.{b64(mac + mac)}"))


def test_changed_claims_need_a_new_signature(world: World, admin: Person, thief: Forger) -> None:
    header, claims, signature = taken_apart(admin.access_token)
    for changed in (
        {"permissions": ["*"]},
        {"roles": ["operator"]},
        {"exp": claims["exp"] + 1},
        {"realm": "system"},
        {"jti": "x"},
        {},
    ):
        text = signing_input(header, claims | changed | ({} if changed else {"x": 1}))
        unwelcome(protected(world, f"{text}.{b64(signature)}"))


def test_a_signature_is_taken_in_one_spelling_and_whole(world: World, admin: Person) -> None:
    text, _, signature = admin.access_token.rpartition(".")
    raw = unb64(signature)
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    wrong = [
        b"", raw[:-1], raw + b"\0", raw[32:] + raw[:32], bytes(64), bytes(31) + b"\1" + bytes(31) + b"\1", order.to_bytes(32) * 2,
        raw[:32] + bytes(32), bytes(32) + raw[32:], b"\xff" * 64, raw * 2, b"\x30\x44\x02\x20" + raw[:32] + b"\x02\x20" + raw[32:],
    ]  # fmt: skip
    for one in wrong:
        unwelcome(protected(world, f"{text}.{b64(one)}"))
    for bit in range(0, 512, 7):
        flipped = (int.from_bytes(raw) ^ (1 << bit)).to_bytes(64)
        unwelcome(protected(world, f"{text}.{b64(flipped)}"))
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = alphabet.index(signature[-1])
    respelled = [
        signature + "=",
        signature + "==",
        signature[:-1] + alphabet[last ^ 1],
        signature + "A",
        signature.replace("_", "/") + "/",
    ]
    for spelled in respelled:
        unwelcome(protected(world, f"{text}.{spelled}"))
    for more in (f".{admin.access_token}", f"{admin.access_token}.", f"{admin.access_token}.AA"):
        unwelcome(protected(world, more))
