"""What the token endpoint refused is not shown to it again: every attempt counts there, and many lock the account."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from qimem.client import (
    ApiError,
    BadRequest,
    Client,
    Credentials,
    Limited,
    SecretText,
    Unauthorized,
)
from qimem.kernel.clock import ManualClock
from qimem.testing import Tenant
from qimem.wire.security import CreateKeyRequest
from tests.client.scripted import answer, scripted

TOKEN = "/v1/auth/token"
ME = "/v1/auth/me"
ISSUED = answer(200, b'{"access_token":"token","expires_in":900,"token_type":"Bearer"}')
DEAD = answer(401, b'{"error":"invalid token","code":"invalid_token"}')
NOT_ME = answer(404, b'{"error":"gone","code":"not_found"}')
WRONG = answer(400, b'{"error":"invalid credentials","code":"invalid_grant","request_id":"r","hint":"h"}')
REFUSALS = [
    (WRONG, BadRequest, "invalid_grant"),
    (answer(400, b'{"error":"mfa required","code":"mfa_required"}'), BadRequest, "mfa_required"),
    (answer(400, b'{"error":"no","code":"unauthorized_client"}'), BadRequest, "unauthorized_client"),
    (answer(401, b'{"error":"invalid client","code":"invalid_client"}'), Unauthorized, "invalid_client"),
]
PASSING = [
    answer(500, b'{"error":"internal error","code":"internal"}'),
    answer(503, b'{"error":"sealed","code":"sealed"}', b"Retry-After: 9"),
    answer(429, b'{"error":"rate limited","code":"rate_limited"}'),
    answer(401, b"<html>who are you?</html>"),
    answer(400, b"bad request"),
    answer(200, b"<html>"),
]


def user(password: str) -> Credentials:
    return Credentials("id", SecretText("secret"), "realm", "ada", SecretText(password))


def paths(asked: list[bytes]) -> list[str]:
    return [one.split(b" ")[1].decode() for one in asked]


def refused(client: Client) -> ApiError:
    with pytest.raises(ApiError) as caught:
        client.me.get()
    return caught.value


@pytest.mark.parametrize(("said", "raised", "code"), REFUSALS, ids=[code for _, _, code in REFUSALS])
def test_a_refused_sign_in_is_asked_for_once(said: bytes, raised: type[ApiError], code: str) -> None:
    with scripted([said] * 3) as server, Client(server.url, user("wrong")) as client:
        errors = [refused(client) for _ in range(3)]
        assert paths(server.asked) == [TOKEN]
    assert [(type(error), error.code) for error in errors] == [(raised, code)] * 3
    # Each caller gets one of its own: what one adds to it, another does not see.
    assert len({id(error) for error in errors}) == 3


def test_it_is_told_again_with_all_that_was_told() -> None:
    with scripted([WRONG]) as server, Client(server.url, user("wrong")) as client:
        first, second = refused(client), refused(client)
    for name in ("status", "message", "code", "hint", "request_id", "fields", "retry_after"):
        assert getattr(second, name) == getattr(first, name)
    assert str(second) == str(first)


def test_many_threads_show_a_wrong_password_once() -> None:
    with scripted([WRONG] * 8) as server, Client(server.url, user("wrong")) as client:
        with ThreadPoolExecutor(8) as threads:
            codes = [error.code for error in threads.map(lambda _: refused(client), range(32))]
        assert codes == ["invalid_grant"] * 32
        assert paths(server.asked) == [TOKEN]


def test_credentials_that_were_good_once_are_shown_once_more_and_no_more() -> None:
    with scripted([ISSUED, DEAD, WRONG, DEAD, WRONG]) as server, Client(server.url, user("old")) as client:
        assert [refused(client).code for _ in range(3)] == ["invalid_grant"] * 3
        # The dead token is not shown again either.
        assert paths(server.asked) == [TOKEN, ME, TOKEN]


def test_after_a_while_they_are_shown_again() -> None:
    with scripted([WRONG, WRONG, ISSUED, NOT_ME]) as server, Client(server.url, user("late")) as client:
        clock = client._session._clock = ManualClock()  # type: ignore[assignment]
        for moment in (0, 299, 1, 299, 1):
            clock.advance(moment)
            found = refused(client).code
        assert found == "not_found"
        assert paths(server.asked) == [TOKEN, TOKEN, TOKEN, ME]


def test_other_credentials_are_shown() -> None:
    with scripted([WRONG, ISSUED, NOT_ME]) as server, Client(server.url, user("wrong")) as client:
        refused(client)
        client.use_credentials(user("right"))
        assert refused(client).code == "not_found"
        assert paths(server.asked) == [TOKEN, TOKEN, ME]
        assert b'"password":"wrong"' in server.asked[0]
        assert b'"password":"right"' in server.asked[1]


def test_credentials_take_the_place_of_a_token() -> None:
    with scripted([ISSUED, NOT_ME]) as server, Client(server.url, "of somebody else") as client:
        client.use_credentials(user("right"))
        assert refused(client).code == "not_found"
        assert b"Bearer token" in server.asked[1]


@pytest.mark.parametrize("said", PASSING, ids=range(len(PASSING)))
def test_what_may_pass_is_not_remembered(said: bytes) -> None:
    with scripted([said, said, ISSUED, NOT_ME]) as server, Client(server.url, user("right")) as client:
        assert refused(client).code == refused(client).code != "not_found"
        assert refused(client).code == "not_found"
        assert paths(server.asked) == [TOKEN, TOKEN, TOKEN, ME]


def test_nobody_there_is_not_remembered() -> None:
    with scripted([b""], [ISSUED, NOT_ME]) as server, Client(server.url, user("right")) as client:
        assert refused(client).code == "unreachable"
        assert refused(client).code == "not_found"


def test_who_is_told_to_wait_waits() -> None:
    full = answer(429, b'{"error":"too many attempts","code":"too_many_attempts"}', b"Retry-After: 7")
    with scripted([full, ISSUED, NOT_ME]) as server, Client(server.url, user("right")) as client:
        clock = client._session._clock = ManualClock()  # type: ignore[assignment]
        waits = []
        for _ in range(3):
            error = refused(client)
            assert (type(error), error.code) == (Limited, "too_many_attempts")
            waits.append(error.retry_after)
            clock.advance(3)
        assert waits == [7, 4, 1]
        assert refused(client).code == "not_found"
        assert paths(server.asked) == [TOKEN, TOKEN, ME]


def test_a_wrong_password_in_a_program_does_not_lock_its_user_out(qimem_tenant: Tenant) -> None:
    qimem_tenant.user("ada")
    with qimem_tenant.signed_in("ada", "wrong") as program:
        for _ in range(30):
            assert refused(program).code == "invalid_grant"
    with qimem_tenant.signed_in("ada") as ada:
        assert ada.me.get().username == "ada"


def test_the_call_that_needed_the_sign_in_tells_its_own_key() -> None:
    with scripted([WRONG]) as server, Client(server.url, user("wrong")) as client:
        for key in ("one", "two"):
            with pytest.raises(BadRequest) as caught:
                client.keys.create(CreateKeyRequest(name="k"), idempotency_key=key)
            assert caught.value.idempotency_key == key
        assert len(server.asked) == 1
