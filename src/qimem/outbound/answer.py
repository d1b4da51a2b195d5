"""Reads an answer of HTTP/1.1 from a server that may be anybody's: bounded in every way, nothing guessed."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from qimem.kernel.limits import OUTBOUND_ANSWER_BYTES_MAX

_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [ -~\x80-\xff]*)?")
_FIELD: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([ -~\x80-\xff\t]*)")
_LENGTH: Final = re.compile(rb"[0-9]{1,9}")
_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,8})(?:;[ -~]*)?")
_HEAD_END: Final = b"\r\n\r\n"


class Answer(NamedTuple):
    """What came back."""

    status: int
    body: bytes


class OutboundFailed(Exception):
    """There is no answer to be had; the text says why, and holds neither URL nor content."""


class AnswerReader:
    """Takes in bytes until the answer is whole."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._body_at = 0
        self._status = 0
        self._length: int | None = None
        self._chunked = False
        self._chunk_at = 0
        self._content = bytearray()

    def feed(self, data: bytes) -> Answer | None:
        """Take in what came next, nothing at the end of the connection.

        Returns:
            The answer once it is whole.

        Raises:
            OutboundFailed: it is none, or too large.
        """
        looked = max(0, len(self._data) - len(_HEAD_END))
        self._data += data
        if len(self._data) > OUTBOUND_ANSWER_BYTES_MAX:
            raise OutboundFailed("the answer is too large")
        while not self._body_at:
            end = self._data.find(_HEAD_END, looked)
            if end < 0:
                if not data:
                    raise OutboundFailed("the connection ended before the answer")
                return None
            self._head(bytes(self._data[:end]), end + len(_HEAD_END))
            looked = 0
        body = self._whole_body(ended=not data)
        return None if body is None else Answer(self._status, body)

    def _head(self, head: bytes, body_at: int) -> None:
        first, *lines = head.split(b"\r\n")
        status = _STATUS.fullmatch(first)
        fields = [_FIELD.fullmatch(line) for line in lines]
        if status is None or not all(fields):
            raise OutboundFailed("the answer is not HTTP/1.1")
        self._status = int(status[1])
        if self._status < 200:
            # Interim answers come before the one that counts.
            del self._data[:body_at]
            return
        self._body_at = self._chunk_at = body_at
        self._framing([(field[1].lower(), field[2].strip()) for field in fields if field])

    def _framing(self, fields: list[tuple[bytes, bytes]]) -> None:
        values = {name: [value for each, value in fields if each == name] for name, _ in fields}
        if [value for value in values.get(b"content-encoding", []) if value.lower() != b"identity"]:
            # Never unpacked: kilobytes become gigabytes.
            raise OutboundFailed("the answer is compressed, which was not asked for")
        lengths, codings = values.get(b"content-length", []), values.get(b"transfer-encoding", [])
        if codings and ([coding.lower() for coding in codings] != [b"chunked"] or lengths):
            raise OutboundFailed("the length of the answer is in doubt")
        if lengths and (len(set(lengths)) > 1 or not _LENGTH.fullmatch(lengths[0])):
            raise OutboundFailed("the length of the answer is in doubt")
        self._chunked = bool(codings)
        self._length = int(lengths[0]) if lengths else None
        if self._status in (204, 304):
            self._length, self._chunked = 0, False
        if self._length is not None and self._length > OUTBOUND_ANSWER_BYTES_MAX:
            raise OutboundFailed("the answer is too large")

    def _whole_body(self, *, ended: bool) -> bytes | None:
        if self._chunked:
            whole = self._unchunked()
        elif self._length is None:
            whole = bytes(self._data[self._body_at :]) if ended else None
        else:
            end = self._body_at + self._length
            whole = bytes(self._data[self._body_at : end]) if len(self._data) >= end else None
        if ended and whole is None:
            raise OutboundFailed("the connection ended before the answer")
        return whole

    def _unchunked(self) -> bytes | None:
        """The content of all chunks; None where more of them has to come. Each is looked at once, however they arrive."""
        while True:
            end = self._data.find(b"\r\n", self._chunk_at)
            if end < 0:
                return None
            size = _SIZE.fullmatch(self._data[self._chunk_at : end])
            if size is None:
                raise OutboundFailed("the answer is not HTTP/1.1")
            length, at = int(size[1], 16), end + 2
            if length == 0:
                return bytes(self._content)
            if len(self._data) < at + length + 2:
                return None
            if self._data[at + length : at + length + 2] != b"\r\n":
                raise OutboundFailed("the answer is not HTTP/1.1")
            self._content += self._data[at : at + length]
            self._chunk_at = at + length + 2
