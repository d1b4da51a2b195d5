"""What says 200 and is not of this API is no answer; what says otherwise is told by its status."""

from __future__ import annotations

import pytest

from qimem.client import ApiError, Client, Unreachable
from tests.client.scripted import answer, scripted

DEEP = b'{"status":"ready","more":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
NOT_UTF8 = b'{"status":"\xff"}'
NOT_OURS = [b"<html>Sign in to this network</html>", b"", b"[]", b"{", b'{"status":1}', b"{}", NOT_UTF8, DEEP]


@pytest.mark.parametrize("body", NOT_OURS, ids=range(len(NOT_OURS)))
def test_an_answer_that_cannot_be_read_is_none(body: bytes) -> None:
    with scripted([answer(200, body)]) as server, Client(server.url) as client:
        with pytest.raises(Unreachable) as caught:
            client.ready()
    assert (caught.value.status, caught.value.code) == (0, "unreachable")


def test_an_answer_without_a_length_that_is_cut_off_is_none() -> None:
    with scripted([b'HTTP/1.1 200 OK\r\n\r\n{"status":']) as server, Client(server.url) as client:
        with pytest.raises(Unreachable):
            client.ready()


def test_a_token_that_cannot_be_read_is_no_refusal() -> None:
    page, issued = (
        answer(200, b"<html>"),
        answer(200, b'{"access_token":"t","expires_in":9,"token_type":"Bearer"}'),
    )
    with scripted([page, issued, answer(401, b"{}"), issued, answer(403, b"{}")]) as server:
        with Client.of_application(server.url, "id", "secret") as client:
            with pytest.raises(Unreachable):
                client.me.get()
            # The page is not remembered: the client asks again.
            with pytest.raises(ApiError) as caught:
                client.me.get()
            assert caught.value.status == 403


@pytest.mark.parametrize(
    "said", [b'{"plaintext_b64":"?"}', b'{"plaintext_b64":"QQ"}', b'{"plaintext_b64":"\xc3\xa9"}']
)
def test_bytes_that_are_no_base64_are_no_plaintext(said: bytes) -> None:
    batch = b'{"items":[%s]}' % said
    with scripted([answer(200, said), answer(200, batch)]) as server, Client(server.url, "t") as client:
        with pytest.raises(Unreachable):
            client.decrypt("AAAA")
        with pytest.raises(Unreachable):
            client.decrypt_many(["AAAA"])


@pytest.mark.parametrize("items", [b'{"envelope":1}', b'{"error":1,"code":"x"}', b"{}", b"", b"{},{}"])
def test_a_batch_is_answered_item_by_item_or_not_at_all(items: bytes) -> None:
    with scripted([answer(200, b'{"items":[%s]}' % items)]) as server, Client(server.url, "t") as client:
        with pytest.raises(Unreachable):
            client.encrypt_many([b"one"], name="cards")


@pytest.mark.parametrize("items", [0, 2])
def test_a_batch_of_another_length_is_not_taken_for_the_own(items: int) -> None:
    envelope = b'{"envelope":"AAAA","key_id":"00000000-0000-4000-8000-000000000000","version":1}'
    body = b'{"items":[%s]}' % b",".join([envelope] * items)
    with scripted([answer(200, body)]) as server, Client(server.url, "t") as client:
        with pytest.raises(Unreachable, match="another batch"):
            client.encrypt_many([b"one"], name="cards")


@pytest.mark.parametrize("body", [b'{"error":"\xff","code":"x"}', b'{"error":' + DEEP])
def test_a_refusal_that_cannot_be_read_is_told_by_its_status(body: bytes) -> None:
    said = answer(503, body, b"Retry-After: " + b"9" * 5000)
    with scripted([said]) as server, Client(server.url) as client, pytest.raises(ApiError) as caught:
        client.ready()
    assert (caught.value.status, caught.value.code, caught.value.retry_after) == (503, "unknown", None)
