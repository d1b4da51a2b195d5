"""How the header fields of a request are spoiled, those that frame it included."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable

from tests.fuzz.draft import Draft

MEDIA = [b"text/plain", b"application/json; charset=utf-16", b"application/json;", b"", b"application/x-www-form-urlencoded",
         b"multipart/form-data; boundary=a", b"Application/JSON", b"application/json, text/plain", b"*/*", b"\xff", b"a" * 5_000]  # fmt: skip
SCHEMES = [b"", b"Bearer", b"Bearer ", b"bearer x", b"Basic YTpi", b"Basic =", b"Bearer \xff", b"Bearer a.b.c", b"Bearer ...",
           b"Bearer " + b"a" * 25_000, b"Bearer " + b"." * 1_000, b"Digest x", b"Bearer e30.e30.e30", b"Bearer  x",
           b"DPoP x", b"Bearer null"]  # fmt: skip
ODD = [
    (b"X-Request-Id", b""), (b"X-Request-Id", b"a" * 200), (b"X-Request-Id", b'"\\'), (b"X-Request-Id", b"\xff"),
    (b"Idempotency-Key", b""), (b"Idempotency-Key", b"a b"), (b"Idempotency-Key", b"k" * 300), (b"Idempotency-Key", b"\xc3\xa4"),
    (b"Idempotency-Key", b"once"), (b"Content-Encoding", b"gzip"), (b"Content-Encoding", b"identity"), (b"Content-Encoding", b""),
    (b"Accept", b"text/xml"), (b"Accept", b"\xff"), (b"Accept-Encoding", b"br;q=x"), (b"Range", b"bytes=0-0,1-1"),
    (b"If-Match", b"*"), (b"If-None-Match", b"*"), (b"Origin", b"https://evil.example"), (b"Origin", b"null"),
    (b"Access-Control-Request-Method", b"PUT"), (b"X-Forwarded-For", b"1.1.1.1, ::"), (b"Forwarded", b"for=_x;host=b"),
    (b"X-HTTP-Method-Override", b"DELETE"), (b"Cookie", b"a=b; " * 500), (b"TE", b"trailers"), (b"Trailer", b"Host"),
    (b"Keep-Alive", b"timeout=-1"), (b"Via", b"1.0 x"), (b"X-Original-URL", b"/admin"), (b"Content-Language", b"\xff\xfe"),
    (b"traceparent", b"00-0-0-zz"), (b"Date", b"yesterday"), (b"DPoP", b"e30.e30."), (b"Content-MD5", b"x"),
]  # fmt: skip
FRAMING = [
    (b"Content-Length", b"5"), (b"Content-Length", b"0"), (b"Content-Length", b"-1"), (b"Content-Length", b"9" * 20),
    (b"Content-Length", b"3, 3"), (b"Transfer-Encoding", b"chunked"), (b"Transfer-Encoding", b"identity"),
    (b"Transfer-Encoding", b"gzip, chunked"), (b"Host", b"b.example"), (b"Upgrade", b"h2c"), (b"Upgrade", b"websocket"),
    (b"X A", b"b"), (b"", b"b"), (b"X-A", b"a\x00b"), (b"X-A", b"a\r\n b"), (b"X-A", b"a\nb"), (b"X\xff", b"b"),
    (b"X-A", b"b" * 40_000),
]  # fmt: skip


def add(chance: random.Random, draft: Draft) -> None:
    draft.headers.insert(chance.randrange(len(draft.headers) + 1), chance.choice(ODD))


def double(chance: random.Random, draft: Draft) -> None:
    one = chance.choice(draft.headers)
    draft.headers.append(one)
    draft.unframed |= one[0].lower() == b"host"


def drop(chance: random.Random, draft: Draft) -> None:
    one = draft.headers.pop(chance.randrange(len(draft.headers)))
    draft.unframed |= one[0].lower() == b"host"
    if not draft.headers:
        draft.headers.append(one)


def media_type(chance: random.Random, draft: Draft) -> None:
    _set(draft, b"Content-Type", chance.choice(MEDIA))


def authorization(chance: random.Random, draft: Draft) -> None:
    _set(draft, b"Authorization", chance.choice(SCHEMES))


def token(chance: random.Random, draft: Draft) -> None:
    """The bearer's own token with a fault in one of its parts."""
    held = [value for name, value in draft.headers if name == b"Authorization" and value.count(b".") == 2]
    if not held:
        authorization(chance, draft)
        return
    parts = held[0].removeprefix(b"Bearer ").split(b".")
    place = chance.randrange(3)
    kind = chance.randrange(6)
    if kind == 0:
        spot = chance.randrange(len(parts[place]))
        parts[place] = (
            parts[place][:spot] + chance.choice((b"A", b"=", b"-", b"\xff", b"")) + parts[place][spot + 1 :]
        )
    elif kind == 1:
        del parts[place]
    elif kind == 2:
        parts.insert(place, b"e30")
    elif kind == 3:
        parts[0] = _part({"alg": chance.choice(("none", "HS256", "", None, 7)), "typ": "at+jwt", "kid": "x"})
    elif kind == 4:
        parts[1] = _part({"exp": chance.choice((1e300, -1, "x", None, [1])), "sub": "\ud800", "iss": []})
    else:
        parts[place] = base64.urlsafe_b64encode(chance.randbytes(40)).rstrip(b"=")
    _set(draft, b"Authorization", b"Bearer " + b".".join(parts))


def many(chance: random.Random, draft: Draft) -> None:
    count = chance.choice((50, 90, 200))
    draft.headers += [(b"X-%d" % number, b"v") for number in range(count)]


def connection(chance: random.Random, draft: Draft) -> None:
    _set(
        draft,
        b"Connection",
        chance.choice((b"close", b"keep-alive, close", b"Upgrade", b"\xff", b"keep-alive")),
    )
    draft.closes = True


def expectation(chance: random.Random, draft: Draft) -> None:
    draft.headers.append((b"Expect", chance.choice((b"100-continue", b"200-ok", b""))))
    draft.closes = True


def older(chance: random.Random, draft: Draft) -> None:
    draft.version = chance.choice((b"HTTP/1.0", b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"http/1.1", b""))
    draft.closes = True
    draft.unframed |= draft.version != b"HTTP/1.0" or bool(draft.chunks)


def framing(chance: random.Random, draft: Draft) -> None:
    draft.headers.append(chance.choice(FRAMING))
    draft.unframed = True


def _set(draft: Draft, name: bytes, value: bytes) -> None:
    draft.headers = [pair for pair in draft.headers if pair[0] != name] + [(name, value)]


def _part(value: dict[str, object]) -> bytes:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")


HEADERS: tuple[Callable[[random.Random, Draft], None], ...] = (
    add, add, add, double, drop, media_type, authorization, token, token, many, connection, expectation, older, framing,
)  # fmt: skip
