"""Planted secrets, and a search that finds them in whatever spelling they leaked.

A canary is a secret of the test's own choosing or one read from the installation. It counts as
leaked when any aligned 16 bytes of it stand somewhere: a log line that was cut off is a leak, too.
Looked for in every encoding of `ENCODINGS`, in the data and in what can be inflated from it.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote_from_bytes

PIECE_BYTES = 16
_INDEX_BYTES = 8
_INFLATED_BYTES_MAX = 8 << 20
_INFLATED_DEPTH_MAX = 2
_FEED_BYTES = 256

_ZLIB = re.compile(rb"(?=([\x08\x18\x28\x38\x48\x58\x68\x78].)|\x1f\x8b\x08)", re.DOTALL)
_ESCAPE = re.compile(r"%[0-9A-F]{2}")

Encoding = Callable[[bytes], bytes]


@dataclass(frozen=True)
class Canary:
    """A secret that must not be found.

    Args:
        name: What it is, for the report.
        value: At least 16 bytes, so that chance never finds it.
    """

    name: str
    value: bytes

    def __post_init__(self) -> None:
        if len(self.value) < PIECE_BYTES or len(set(self.value)) < 5:
            raise ValueError(f"{self.name}: too short or too plain to be told from chance")

    def pieces(self) -> list[bytes]:
        """Aligned pieces, the last one flush with the end: any 31 bytes in a row hold a whole one."""
        last = len(self.value) - PIECE_BYTES
        return [self.value[start : start + PIECE_BYTES] for start in [*range(0, last, PIECE_BYTES), last]]


@dataclass(frozen=True, order=True)
class Hit:
    """Where a canary was found, and how it was spelled there."""

    canary: str
    place: str
    encoding: str


def _base64_at(offset: int, encode: Encoding) -> Encoding:
    """The characters that the secret alone decides when it begins `offset` bytes into the encoded data."""

    def characters(secret: bytes) -> bytes:
        first = -(-offset * 8 // 6)
        return encode(bytes(offset) + secret)[first : (offset + len(secret)) * 8 // 6]

    return characters


def _text(secret: bytes) -> str:
    """The text of a piece, which may begin or end amid a character; of a key, a character for each byte."""
    start = next(position for position in range(4) if position == 3 or secret[position] & 0xC0 != 0x80)
    for end in range(len(secret), len(secret) - 4, -1):
        try:
            return secret[start:end].decode()
        except UnicodeDecodeError:
            continue
    return secret.decode("latin-1")


def _lower_url(secret: bytes) -> bytes:
    return _ESCAPE.sub(lambda escape: escape[0].lower(), quote_from_bytes(secret, safe="")).encode()


ENCODINGS: Mapping[str, Encoding] = {
    "raw": bytes,
    "hex": lambda secret: secret.hex().encode(),
    "HEX": lambda secret: secret.hex().upper().encode(),
    **{f"base64+{offset}": _base64_at(offset, base64.b64encode) for offset in range(3)},
    **{f"base64url+{offset}": _base64_at(offset, base64.urlsafe_b64encode) for offset in range(3)},
    "UTF-16LE": lambda secret: _text(secret).encode("utf-16-le"),
    "URL-encoded": lambda secret: quote_from_bytes(secret, safe="").encode(),
    "url-encoded": _lower_url,
    "every byte URL-encoded": lambda secret: "".join(f"%{byte:02X}" for byte in secret).encode(),
    "JSON": lambda secret: json.dumps(_text(secret))[1:-1].encode(),
    "Python bytes": lambda secret: repr(secret)[2:-1].encode(),
    "numbers": lambda secret: ", ".join(map(str, secret)).encode(),
    "numbers, dense": lambda secret: ",".join(map(str, secret)).encode(),
}
"""How a secret may be spelled. Compressed data is inflated first and then searched for all of these."""


class Search:
    """Looks for all canaries at once."""

    def __init__(self, canaries: Iterable[Canary]) -> None:
        self._index: dict[bytes, list[tuple[bytes, str, str]]] = {}
        for canary in canaries:
            for piece in canary.pieces():
                for encoding, encode in ENCODINGS.items():
                    spelled = encode(piece)
                    self._index.setdefault(spelled[:_INDEX_BYTES], []).append(
                        (spelled, canary.name, encoding)
                    )

    def hits(self, places: Mapping[str, bytes]) -> list[Hit]:
        """Every canary in every place, each pair once."""
        found: dict[tuple[str, str], Hit] = {}
        for place, data in places.items():
            for canary, encoding in self._in(data, 0):
                found.setdefault((canary, place), Hit(canary, place, encoding))
        return sorted(found.values())

    def _in(self, data: bytes, depth: int) -> Iterator[tuple[str, str]]:
        index = self._index
        for start in range(len(data) - _INDEX_BYTES + 1):
            if data[start : start + _INDEX_BYTES] in index:
                for spelled, canary, encoding in index[data[start : start + _INDEX_BYTES]]:
                    if data.startswith(spelled, start):
                        yield canary, encoding
        if depth < _INFLATED_DEPTH_MAX:
            for inflated in _inflated(data):
                for canary, encoding in self._in(inflated, depth + 1):
                    yield canary, f"inflated {encoding}"


def _inflated(data: bytes) -> Iterator[bytes]:
    """What inflates from each place that could be the head of a zlib or gzip stream."""
    view = memoryview(data)
    for head in _ZLIB.finditer(data):
        start = head.start()
        # RFC 1950 §2.2: the two bytes of the head are a multiple of 31.
        if head[1] is not None and int.from_bytes(head[1], "big") % 31 != 0:
            continue
        output = _inflate(view[start:])
        if len(output) >= PIECE_BYTES:
            yield output


def _inflate(data: memoryview) -> bytes:
    # Fed piece by piece: of a stream that is damaged further on, the part before the damage counts.
    stream, output = zlib.decompressobj(wbits=47), bytearray()
    for start in range(0, len(data), _FEED_BYTES):
        try:
            output += stream.decompress(data[start : start + _FEED_BYTES])
        except zlib.error:
            break
        if stream.eof or len(output) > _INFLATED_BYTES_MAX:
            break
    return bytes(output)


def files_below(directory: Path) -> dict[str, bytes]:
    """Every file by its relative path, links as where they point, and all names as a place of their own."""
    paths = sorted(directory.rglob("*"))
    found = {"(names)": "\n".join(str(path.relative_to(directory)) for path in paths).encode()}
    for path in paths:
        if path.is_symlink():
            found[str(path.relative_to(directory))] = str(path.readlink()).encode()
        elif path.is_file():
            found[str(path.relative_to(directory))] = path.read_bytes()
    return found
