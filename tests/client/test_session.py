"""Tokens are renewed, connections are kept, and nothing that has an effect is sent twice."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from qimem.client import (
    ApiError,
    BadRequest,
    Client,
    Forbidden,
    ItemsRefused,
    Limited,
    NotFound,
    Unauthorized,
    Unavailable,
    Unreachable,
    Wire,
)
from qimem.testing import Tenant, serve
from qimem.wire.audit import AuditEventsQuery
from qimem.wire.realms import CreateRealmRequest
from qimem.wire.security import CreateKeyRequest
from qimem.wire.users import CreateUserRequest, SetPasswordRequest
from tests.client.scripted import OK, answer, scripted

GONE = b'{"error":"invalid token","code":"invalid_token"}'
ID = "00000000-0000-4000-8000-000000000000"
PASSWORD_SET = answer(200, b'{"revoked":0}')


def test_a_connection_is_kept() -> None:
    with scripted([OK, OK, OK]) as server, Client(server.url) as client:
        for _ in range(3):
            client.ready()
        assert server.connections == 1


def test_a_question_on_a_connection_that_was_closed_is_asked_again() -> None:
    with scripted([OK], [OK]) as server, Client(server.url) as client:
        assert [client.ready().status for _ in range(2)] == ["ready", "ready"]
        assert server.connections == 2


def test_what_has_an_effect_is_not_sent_again() -> None:
    with scripted([OK], [PASSWORD_SET]) as server, Client(server.url, "token") as client:
        client.ready()
        with pytest.raises(Unreachable) as caught:
            client.users.set_password(ID, SetPasswordRequest(password="a new one"))  # type: ignore[arg-type]
        assert (caught.value.status, caught.value.code) == (0, "unreachable")
        assert len(server.asked) == 1


def test_what_is_made_under_an_idempotency_key_is_sent_again_under_the_same() -> None:
    made = answer(200, b'{"id":"acme","name":"A","issuer":"i","created_at":"t","password_min_length":8}')
    with scripted([OK], [made]) as server, Client(server.url, "token") as client:
        client.ready()
        # Lost on the way back, as far as anybody knows.
        assert client.realms.create(CreateRealmRequest(id="acme", name="A")).id == "acme"
        keys = [re.findall(rb"Idempotency-Key: (\S+)", one) for one in server.asked[1:]]
        assert len(keys) == 1
        assert len(keys[0][0]) == 36


def test_after_an_answer_that_was_cut_off_nothing_is_read_as_the_next_one() -> None:
    cut = b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"
    with scripted([cut], [OK]) as server, Client(server.url) as client:
        with pytest.raises(Unreachable):
            client.ready()
        assert client.ready().status == "ready"


@pytest.mark.parametrize("said", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 999999 X\r\n\r\n", b"SSH-2.0-x\r\n"])
def test_who_does_not_speak_http_is_unreachable(said: bytes) -> None:
    with scripted([said], [said]) as server, Client(server.url) as client, pytest.raises(Unreachable):
        client.ready()


def test_nobody_there_is_unreachable() -> None:
    with scripted() as server:
        url = server.url
    with Client(url) as client, pytest.raises(Unreachable):
        client.ready()


@pytest.mark.parametrize(
    ("status", "raised"),
    [
        (400, BadRequest), (401, Unauthorized), (403, Forbidden), (404, NotFound), (413, BadRequest), (415, BadRequest),
        (422, BadRequest), (429, Limited), (500, ApiError), (503, Unavailable), (302, ApiError), (204, ApiError),
    ],
)  # fmt: skip
def test_a_refusal_is_raised_by_its_status(status: int, raised: type[ApiError]) -> None:
    body = b'{"error":"no","code":"word","request_id":"r","hint":"h","fields":{"/a":"b"},"permission":"p"}'
    body = b"" if status == 204 else body
    said = answer(status, body, b"Retry-After: 7", b"Location: http://127.0.0.1:1/")
    with scripted([said]) as server, Client(server.url) as client, pytest.raises(raised) as caught:
        client.ready()
    assert type(caught.value) is raised
    assert (caught.value.status, caught.value.retry_after) == (status, 7)
    if status != 204:
        assert (caught.value.code, caught.value.request_id, caught.value.hint) == ("word", "r", "h")
        assert (caught.value.fields, caught.value.permission) == ({"/a": "b"}, "p")
    # A redirect is never followed: it would take the token elsewhere.
    assert len(server.asked) == 1


@pytest.mark.parametrize("body", [b"<html>", b"", b"[]", b'{"error":1}', b"\xff"])
def test_an_answer_of_something_in_between_is_told_by_its_status(body: bytes) -> None:
    with (
        scripted([answer(502, body, b"Retry-After: soon")]) as server,
        Client(server.url) as client,
        pytest.raises(ApiError) as caught,
    ):
        client.ready()
    assert (caught.value.status, caught.value.code, caught.value.retry_after) == (502, "unknown", None)


@pytest.mark.parametrize(
    "url",
    [
        "http://id.example",
        "http://10.0.0.1:80",
        "http://127.0.0.1.example",
        "http://localhost.example",
        "http://[::2]",
    ],
)
def test_secrets_are_not_sent_to_another_machine_without_tls(url: str) -> None:
    with pytest.raises(ValueError, match="without TLS"):
        Client(url)
    Client(url, wire=Wire(allow_plain_http=True)).close()


@pytest.mark.parametrize(
    "url", ["", "id.example", "ftp://a", "http:///x", "https://a?b", "https://a#b", "file:///x"]
)
def test_what_is_no_address_of_a_server_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"URL of a server|without TLS"):
        Client(url)


@pytest.mark.parametrize(
    "url", ["https://id.example/base", "http://localhost:1", "http://127.9.9.9", "http://[::1]:80"]
)
def test_an_address_is_taken(url: str) -> None:
    Client(url).close()


def issued(number: int) -> bytes:
    body = b'{"access_token":"token-%d","expires_in":900,"token_type":"Bearer"}' % number
    return answer(200, body)


def asked_for(asked: Sequence[bytes]) -> list[str]:
    return [line.split(b"\r\n")[0].split(b" ")[1].decode() for line in asked]


def test_a_token_that_is_refused_is_renewed_once() -> None:
    refused = answer(401, GONE)
    with scripted([issued(1), refused, issued(2), refused]) as server:
        client = Client.of_application(server.url, "id", "secret")
        with pytest.raises(Unauthorized):
            client.me.get()
        me, token = "/v1/auth/me", "/v1/auth/token"
        assert asked_for(server.asked) == [token, me, token, me]
        assert b"Bearer token-1" in server.asked[1]
        assert b"Bearer token-2" in server.asked[3]
        client.close()


def test_a_token_of_somebody_else_is_not_renewed() -> None:
    with scripted([answer(401, GONE)]) as server, Client(server.url, "token") as client:
        with pytest.raises(Unauthorized):
            client.me.get()
        assert asked_for(server.asked) == ["/v1/auth/me"]


def test_without_a_token_none_is_shown() -> None:
    with scripted([OK]) as server, Client(server.url) as client:
        client.ready()
        assert b"authorization" not in server.asked[0].lower()


def test_many_threads_with_one_dead_token_sign_in_once() -> None:
    with serve() as server:
        tenant = server.tenant()
        tenant.admin.keys.create(CreateKeyRequest(name="orders"))
        server.clock.advance(901)
        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(lambda _: tenant.admin.encrypt(b"x", name="orders"), range(64)))
        assert len(set(answers)) == 64
        issued = list(tenant.admin.audit_events(AuditEventsQuery(event="tokens.issue")))
        assert len(issued) == 2


def test_a_user_goes_on_with_refresh_tokens_and_signs_in_when_they_end() -> None:
    with serve() as server:
        tenant = server.tenant()
        ada = tenant.user("ada")
        own = tenant.signed_in("ada")
        own.me.get()
        server.clock.advance(901)
        own.me.get()
        tenant.admin.users.revoke_grants(ada.id)
        own.me.get()
        events = [
            record.event
            for record in tenant.admin.audit_events()
            if record.subject == str(ada.id) and record.outcome == "ok"
        ]
        assert (events.count("tokens.issue"), events.count("tokens.refresh")) == (2, 1)
        own.close()


def test_a_fork_does_not_share_a_connection(qimem_tenant: Tenant) -> None:
    admin = qimem_tenant.admin
    admin.keys.create(CreateKeyRequest(name="forked"))
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        # Nothing of the test runs here but these calls.
        opened = [admin.decrypt(admin.encrypt(b"child %d" % n, name="forked")) for n in range(50)]
        os.write(writing, b"good" if opened == [b"child %d" % n for n in range(50)] else b"bad")
        os._exit(0)
    opened = [admin.decrypt(admin.encrypt(b"parent %d" % n, name="forked")) for n in range(50)]
    os.waitpid(child, 0)
    assert opened == [b"parent %d" % n for n in range(50)]
    assert os.read(reading, 9) == b"good"
    os.close(reading)
    os.close(writing)


def test_a_child_renews_its_tokens_by_itself(qimem_tenant: Tenant) -> None:
    """Whatever a thread of its parent held at the fork; and two that refresh in turn would end each other's grant."""
    qimem_tenant.user("forking")
    client = qimem_tenant.signed_in("forking")
    client.me.get()
    session = client._session
    with session._lock:
        child = os.fork()
        if not child:
            free = session._lock.acquire(timeout=1)
            os._exit(0 if free and session._refresh is None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert session._refresh is not None


def test_of_a_batch_what_was_refused_is_told_with_the_rest(qimem_tenant: Tenant) -> None:
    admin = qimem_tenant.admin
    admin.keys.create(CreateKeyRequest(name="batch"))
    envelope = admin.encrypt(b"one", name="batch")
    with pytest.raises(ItemsRefused) as caught:
        admin.decrypt_many([envelope, "AAAA", envelope])
    assert list(caught.value.errors) == [1]
    assert [getattr(result, "code", None) for result in caught.value.results][0::2] == [None, None]
    with pytest.raises(NotFound):
        admin.encrypt(b"one", name="absent")


def test_a_refusal_names_the_fields(qimem_tenant: Tenant) -> None:
    with pytest.raises(BadRequest) as caught:
        qimem_tenant.admin.users.create(CreateUserRequest(username="", password="x", roles=[]))
    assert set(caught.value.fields) == {"/username"}
    assert caught.value.request_id
