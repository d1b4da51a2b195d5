"""What to put where a value was: awkward numbers, text, structures and encodings."""

from __future__ import annotations

import base64
import binascii
import random
from collections.abc import Callable, Iterator
from typing import Any

from tests.fuzz.draft import Literal, Pairs

NUMBERS = [
    0, -1, 1, 2**31, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 0.1, 1.5, 1e308,
    *map(Literal, (b"1e400", b"-1e400", b"1e-400", b"-0", b"-0.0", b"1E+2", b"1.0", b"01", b"+1", b".5", b"1.", b"0x10",
                   b"NaN", b"Infinity", b"-Infinity", b"1_000", b"9" * 400, b"1" + b"0" * 5000, b"1" * 5000 + b".5")),
]  # fmt: skip
TEXTS = [
    "", " ", "a", "null", "0", "-1", "true", "\x00", "a\x00b", "\t\r\n", "\x7f\x80\x9f", "'\"\\", "' OR 1=1 --", "%s%n%x",
    "{0.__class__}", "${jndi:ldap://a}", "../../etc/passwd", "..\\..", "<script>", "\ufeffa", "\u202eabc", "\u00ad",
    "e\u0301" * 40, "\u1ea1\u0307", "ﬃ", "１２３４５６", "İı", "ß", "😀", "\U0010ffff", "\uffff", "\u200b\u200d", "Ω" * 300,
    "a" * 63, "a" * 64, "a" * 128, "a" * 129, "a" * 256, "a" * 257, "a" * 2049, "a" * 65_536, "*", "**", "keys:*", "a:b:c",
    "keys:encrypt:00000000-0000-4000-8000-000000000000", "system", "realm-admin", "operator",
    "00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff", "0" * 32, "0" * 31,
    "urn:uuid:00000000-0000-4000-8000-000000000000", "{00000000-0000-4000-8000-000000000000}",
    "00000000-0000-4000-8000-00000000000g", "https://a.example/#b", "https://a:b@c", "http://[::1", "http://[v1.a]/",
    "javascript:alert(1)", "com.example:/cb", "https://*.a", "//a", "https://a.example:99999/", "https://\u00e4.example/",
    "2026-02-30T00:00:00Z", "0000-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999Z", "2026-01-31T12:00:00+99:99",
    "data:,", "=", "====", "AAAA=", "A" * 5000, "a@b", "@", "a@" + "b" * 255, "client_credentials", "authorization_code",
    "aes256_gcm", "AES-256-GCM", "base64", "version", "lineage",
]  # fmt: skip
_WIDE = [
    Literal(opened + b",".join(member % {b"n": number} for number in range(count)) + closed)
    for count in (33, 65, 257, 1_000, 1_001)
    for opened, member, closed in ((b"{", b'"k%(n)d":1', b"}"), (b"[", b'"x"', b"]"), (b"[", b"{}", b"]"))
]
LITERALS = [
    *map(Literal, (b'"\\ud800"', b'"\\udfff\\ud800"', b'"\\ud83d\\ude00"', b'"\\u0000"', b'"\\x41"', b'"a', b"'a'", b'"\xff"',
                   b'"\xc0\xaf"', b'"\xed\xa0\x80"', b'"\xf4\x90\x80\x80"', b'"\\"', b'"\n"', b"undefined", b"None", b"tru", b"//x\n1",
                   b"", b",", b"[", b"{", b"]", b"}", b"[1,]", b'{"a":1,}', b"{,}", b'{"a"}', b"{1:2}")),
]  # fmt: skip


def deep(chance: random.Random) -> Literal:
    """Levels without end, or just one too many."""
    levels = chance.choice((31, 32, 33, 64, 1_000, 20_000))
    opened, closed = chance.choice(((b"[", b"]"), (b'{"a":', b"}")))
    inner = b"" if opened == b"[" else b"1"
    return Literal(opened * levels + inner + closed * chance.choice((levels, levels, levels - 1, 0)))


def wide(chance: random.Random) -> Literal:
    """More members than anyone needs."""
    return chance.choice(_WIDE)


def strange(chance: random.Random) -> Any:
    """A value of no particular place."""
    kind = chance.randrange(12)
    if kind < 3:
        return chance.choice(NUMBERS)
    if kind < 7:
        return chance.choice(TEXTS)
    if kind < 9:
        return chance.choice(LITERALS)
    if kind < 10:
        return chance.choice((None, True, False, [], Pairs(), [None], [[]], Pairs([("", None)])))
    return wide(chance) if chance.random() < 0.3 else deep(chance) if chance.random() < 0.3 else "x"


def spoiled_text(text: str, chance: random.Random) -> str:
    """The text with a change in it."""
    where = chance.randrange(len(text) + 1)
    kind = chance.randrange(8)
    if kind == 0:
        return text[:where] + chance.choice(TEXTS) + text[where:]
    if kind == 1:
        return text[:where]
    if kind == 2:
        return text[:where] + text[where + 1 :]
    if kind == 3:
        return text.swapcase()
    if kind == 4:
        return text.replace("-", "")
    if kind == 5:
        return text * chance.choice((2, 3, 50))
    if kind == 6:
        return chance.choice((" ", "\n", "\u00a0")) + text
    return (
        text[:where] + chr(chance.choice((0, 9, 0x7F, 0xAD, 0xD800, 0x3000, 0xFF41, 0x1F600))) + text[where:]
    )


def bytes_in(text: str) -> bytes | None:
    """What the text stands for, if it looks like base64 of something long enough to be an envelope."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if len(data) > 20 else None


def spoiled_envelope(data: bytes, chance: random.Random) -> str:
    """The bytes of an envelope with one fault, in one base64 or another."""
    fields: dict[int, tuple[int, ...]] = {0: (0, 2, 255), 1: (0, 2, 3, 255), 18: (1, 255), 19: (0, 11, 13, 16, 255),
                                          32: (1, 127, 255), 33: (1, 255), 34: (1, 255), 35: (0, 1, 18, 20, 255)}  # fmt: skip
    spoiled = bytearray(data)
    kind = chance.randrange(8)
    if kind < 2:
        place = chance.choice(tuple(fields))
        spoiled[place % len(spoiled)] = chance.choice(fields[place])
    elif kind == 2:
        spoiled[chance.randrange(len(spoiled))] ^= 1 << chance.randrange(8)
    elif kind == 3:
        del spoiled[chance.randrange(len(spoiled)) :]
    elif kind == 4:
        spoiled += chance.randbytes(chance.choice((1, 2, 16, 1000)))
    elif kind == 5:
        spoiled[2:18] = chance.randbytes(16)
    elif kind == 6:
        start = chance.randrange(len(spoiled))
        del spoiled[start : start + chance.randrange(1, 20)]
    text = base64.b64encode(spoiled).decode()
    written: tuple[Callable[[str], str], ...] = (
        lambda t: t.rstrip("="), lambda t: t + "=", lambda t: t.replace("+", "-").replace("/", "_"),
        lambda t: t[:10] + "\n" + t[10:], lambda t: t[:-1] + "B", lambda t: " " + t,
    )  # fmt: skip
    return chance.choice(written)(text) if kind == 7 or chance.random() < 0.1 else text


def places(node: Any) -> Iterator[tuple[Any, int]]:
    """Every container with the index of one of its members, all levels down."""
    for index, member in enumerate(node):
        yield node, index
        inner = member[1] if isinstance(node, Pairs) else member
        if isinstance(inner, list):
            yield from places(inner)
