"""How a valid request is spoiled. Each takes a source of chance and a draft, and changes the draft."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from qimem.kernel.limits import HEADER_BYTES_MAX, HEADER_COUNT_MAX, URL_BYTES_MAX
from tests.fuzz.draft import Draft, Literal, Pairs, text_of
from tests.fuzz.headers import HEADERS
from tests.fuzz.values import bytes_in, deep, places, spoiled_envelope, spoiled_text, strange, wide

Mutation = Callable[[random.Random, Draft], None]

BODY_BYTES_MAX = 200_000
"""Larger ones have tests of their own; here they would be all that is sent."""

METHODS = [
    b"GET",
    b"HEAD",
    b"POST",
    b"PUT",
    b"PATCH",
    b"DELETE",
    b"OPTIONS",
    b"TRACE",
    b"PROPFIND",
    b"PURGE",
    b"QUERY",
]
UNREAD_METHODS = [b"get", b"FETCH", b"CONNECT", b"", b"G\xc3\x89T", b"A" * 300]
SEGMENTS = [b"", b".", b"..", b"%2e%2e", b"%00", b"%ff", b"%", b"%zz", b"%2f", b"%c0%af", b"a" * 200, b"\\", b"system",
            b"00000000-0000-4000-8000-000000000000", b"FFFFFFFFFFFF4FFF8FFFFFFFFFFFFFFF", b"~", b"'", b"*", b":", b";a=b",
            b"{key_id}", b"%F0%9F%98%80", b"-1", b"$"]  # fmt: skip
UNREAD_PATHS = [
    b"health",
    b"http://a.example/health",
    b"*",
    b"/a b",
    b"/\xff",
    b"/a#b",
    b"/" + b"a" * 9_000,
    b"/\x00",
    b"/\t",
]
QUERIES = [b"?", b"&", b"=", b"a", b"a=b", b"limit=0", b"limit=-1", b"limit=1e3", b"limit=9999999999999999999999", b"limit=1&limit=2",
           b"limit=%31", b"limit=%F0", b"limit=+1", b"limit=", b"limit=" + b"9" * 5_000, b"cursor=", b"cursor=%00",
           b"cursor=W10", b"cursor=bnVsbA", b"cursor=" + b"W" * 600, b"cursor=WzFlNDAwLCJhIl0", b"cursor=e30",
           b"cursor=WyJcdWQ4MDAiLCJcdWQ4MDAiXQ",
           b"cursor=WyJcdWQ4MDAiXQ", b"cursor=WyJcdTAwMDAiXQ", b"realm_id=system", b"realm_id=%ff", b"realm_id=%ed%a0%80", b"realm_id=a%00b",
           b"key_id=x", b"key_id=%00", b"since=x", b"since=0001-01-01T00:00:00%2B23:59", b"until=9999-12-31T23:59:59-23:59",
           b"since=2026-02-30T00:00:00Z", b"event=%00", b"subject=%ed%a0%80", b"client_id=" + b"c" * 300, b"null=null",
           b"&".join(b"a%d=b" % n for n in range(40)), b"a;b", b"%", b"%zz=1", b"a=" + b"b" * 7_000]  # fmt: skip


def method(chance: random.Random, draft: Draft) -> None:
    if chance.random() < 0.1:
        draft.method, draft.unframed = chance.choice(UNREAD_METHODS), True
    else:
        draft.method = chance.choice(METHODS)


def path(chance: random.Random, draft: Draft) -> None:
    segments = draft.path.split(b"/")
    if len(segments) < 2:
        return
    place = chance.randrange(1, len(segments))
    kind = chance.randrange(9)
    if kind == 0:
        segments[place] = chance.choice(SEGMENTS)
    elif kind == 1:
        segments.insert(place, chance.choice(SEGMENTS))
    elif kind == 2:
        segments.append(b"")
    elif kind == 3:
        del segments[place:]
    elif kind == 4:
        segments[place] = segments[place].swapcase()
    elif kind == 5 and segments[place]:
        spot = chance.randrange(len(segments[place]))
        one = segments[place]
        segments[place] = one[:spot] + b"%%%02x" % one[spot] + one[spot + 1 :]
    elif kind == 6:
        segments[place] += chance.choice(SEGMENTS)
    elif kind == 7:
        segments[1] = chance.choice((b"v2", b"v01", b"V1", b"v", b"realms"))
    draft.path = b"/".join(segments) or b"/"
    if not draft.path.startswith(b"/"):
        draft.path = b"/" + draft.path
    if kind == 8 and chance.random() < 0.3:
        draft.path, draft.unframed = chance.choice(UNREAD_PATHS), True


def query(chance: random.Random, draft: Draft) -> None:
    added = chance.choice(QUERIES)
    draft.query = added if chance.random() < 0.5 or not draft.query else draft.query + b"&" + added


def replace_value(chance: random.Random, draft: Draft) -> None:
    _at_a_place(chance, draft, lambda _: strange(chance))


def spoil_text(chance: random.Random, draft: Draft) -> None:
    def spoil(value: Any) -> Any:
        if not isinstance(value, str):
            return strange(chance)
        data = bytes_in(value)
        if data is not None and chance.random() < 0.8:
            return spoiled_envelope(data, chance)
        return spoiled_text(value, chance)

    _at_a_place(chance, draft, spoil)


def restructure(chance: random.Random, draft: Draft) -> None:
    """Wrap, double, drop, rename, or put another's value in."""
    found = _place(chance, draft)
    if found is None:
        draft.body = strange(chance)
        return
    node, index = found
    kind = chance.randrange(9)
    if kind == 0:
        del node[index]
    elif kind == 1:
        node.insert(index, node[index])
    elif kind == 2 and isinstance(node, Pairs):
        name, value = node[index]
        node[index] = (chance.choice((spoiled_text(str(name), chance), chance.choice(FIELDS))), value)
    elif kind == 3 and isinstance(node, Pairs):
        node.append((chance.choice(FIELDS), strange(chance)))
    elif kind == 4 and isinstance(node, Pairs):
        node.append((node[index][0], strange(chance)))
    elif kind == 5:
        _put(node, index, [_get(node, index)])
    elif kind == 6:
        _put(node, index, Pairs([("a", _get(node, index))]))
    elif kind == 7:
        other = chance.randrange(len(node))
        one, two = _get(node, index), _get(node, other)
        _put(node, index, two)
        _put(node, other, one)
    else:
        _put(node, index, chance.choice((deep, wide))(chance))


def root(chance: random.Random, draft: Draft) -> None:
    kind = chance.randrange(4)
    if kind == 0:
        draft.body = [draft.body]
    elif kind == 1:
        draft.body = strange(chance)
    elif kind == 2:
        draft.body = None
    else:
        item = text_of(draft.body)
        count = chance.choice((1, 2, 1000, 1001)) if len(item) < 300 else 2
        draft.body = Pairs([("items", Literal(b"[" + b",".join([item] * count) + b"]"))])


def spoil_bytes(chance: random.Random, draft: Draft) -> None:
    """Faults of the encoding, below the structure."""
    draft.settle()
    data = draft.encoded or b""
    where = chance.randrange(len(data) + 1)
    kind = chance.randrange(12)
    if kind == 0:
        data = data[:where] + chance.randbytes(1) + data[where + 1 :]
    elif kind == 1:
        data = data[:where]
    elif kind == 2:
        data = data[:where] + chance.randbytes(chance.choice((1, 2, 100))) + data[where:]
    elif kind == 3:
        data = b"\xef\xbb\xbf" + data
    elif kind == 4:
        data = data.decode("utf-8", "replace").encode(
            chance.choice(("utf-16", "utf-16-be", "utf-32", "utf-7"))
        )
    elif kind == 5:
        data += chance.choice((b"{}", b",", b"\x00", b" " * 70_000, b"//a", b"}"))
    elif kind == 6:
        data = b" \t\r\n" * chance.choice((1, 1000)) + data
    elif kind == 7:
        data = data.replace(b'"', b"'")
    elif kind == 8:
        data = data.replace(b":", chance.choice((b"=", b"::", b" :\n", b"")))
    elif kind == 9:
        data = data.replace(b"}", b",}")
    elif kind == 10:
        data = chance.randbytes(chance.choice((1, 16, 500)))
    else:
        data = data[:where] + b"\\" + data[where:]
    draft.encoded = data


def chunked(chance: random.Random, draft: Draft) -> None:
    draft.chunks = [chance.choice((1, 2, 7, 100, 5000)) for _ in range(chance.randrange(1, 20))]


def header(chance: random.Random, draft: Draft) -> None:
    chance.choice(HEADERS)(chance, draft)


FIELDS = ["id", "name", "key_id", "lineage_id", "input", "input_b64", "envelope", "items", "encoding", "realm_id", "scope",
          "roles", "permissions", "password", "username", "client_id", "client_secret", "grant_type", "refresh_token",
          "token", "totp_code", "totp_secret", "email", "jwks", "tier", "redirect_uris", "algorithm", "", "__proto__",
          "constructor", "a.b", "a/b~c", "\u0000", "😀", "k" * 70_000]  # fmt: skip
OF_THE_BODY: tuple[Mutation, ...] = (replace_value, replace_value, spoil_text, spoil_text, spoil_text, restructure,
                                     restructure, root, spoil_bytes, chunked)  # fmt: skip
OF_THE_REST: tuple[Mutation, ...] = (method, path, path, query, header, header, header)


def spoil(chance: random.Random, draft: Draft) -> None:
    """One to three mutations; those of bytes and of the framing come last."""
    chosen = [_choose(chance, draft) for _ in range(chance.choice((1, 1, 1, 2, 2, 3)))]
    for mutation in sorted(chosen, key=lambda one: one in {spoil_bytes, header}):
        mutation(chance, draft)
        draft.history.append(mutation.__name__)
    if draft.body is not None and len(draft.bytes_of_body()) > BODY_BYTES_MAX:
        draft.encoded = draft.bytes_of_body()[:BODY_BYTES_MAX]
    draft.unframed |= _is_too_large(draft)


def _is_too_large(draft: Draft) -> bool:
    size = sum(len(name) + len(value) + 4 for name, value in draft.headers)
    target = len(draft.path) + len(draft.query) + 1
    # Three lines are added when it is written.
    return (
        size + 100 > HEADER_BYTES_MAX or len(draft.headers) + 3 > HEADER_COUNT_MAX or target > URL_BYTES_MAX
    )


def _choose(chance: random.Random, draft: Draft) -> Mutation:
    if draft.body is not None and chance.random() < 0.65:
        return chance.choice(OF_THE_BODY)
    return chance.choice(OF_THE_REST)


def _place(chance: random.Random, draft: Draft) -> tuple[Any, int] | None:
    if not isinstance(draft.body, list) or isinstance(draft.body, Literal):
        return None
    known = list(places(draft.body)) if len(draft.body) < 50 else []
    return chance.choice(known) if known else None


def _at_a_place(chance: random.Random, draft: Draft, change: Callable[[Any], Any]) -> None:
    found = _place(chance, draft)
    if found is None:
        draft.body = change(draft.body)
        return
    node, index = found
    _put(node, index, change(_get(node, index)))


def _get(node: Any, index: int) -> Any:
    return node[index][1] if isinstance(node, Pairs) else node[index]


def _put(node: Any, index: int, value: Any) -> None:
    node[index] = (node[index][0], value) if isinstance(node, Pairs) else value
