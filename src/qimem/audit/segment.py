"""The bytes of an audit log: lines of JSON, closed in batches by a running digest.

A stream is the log of one worker slot, cut into segments. A segment holds

    {"qimem_audit":1,…}                          its header: where it belongs and what came before it
    {"at":…,"event":…}                           records, as many as one write took
    {"chain":"…","entries":n}                    closes the batch: SHA-256(chain before ‖ bytes of the batch)
    {"checkpoint":{…},"signature":"…"}           a batch of its own: the signed state up to here

and zeros up to its preallocated size. The chain goes on from segment to segment, so that nothing can be
changed, dropped, moved or put in without every later chain line being wrong; a signed checkpoint says which
chain is the right one.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import Final

import msgspec

FORMAT: Final = 1
CHECKPOINT_DOMAIN: Final = b"qimem audit checkpoint v1\n"
"""Stands before what is signed, so that no other signature of the key can be taken for a checkpoint."""

_DIGEST_BYTES: Final = 32
_CHAIN: Final = b'{"chain":"%b","entries":%d}\n'


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first line of a segment.

    Args:
        qimem_audit: Version of the format.
        instance: The installation's id.
        stream: Whose log it is.
        segment: 1 for the first segment of the stream.
        entries: How many entries the segments before it hold.
        chain: The chain at their end, base64url.
        opened: RFC 3339.
    """

    qimem_audit: int
    instance: str
    stream: str
    segment: int
    entries: int
    chain: str
    opened: str


class Checkpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a signature vouches for: that the stream, up to here, is this one.

    Args:
        number: Counts the checkpoints of the stream from 1.
        entries: Entries of the stream before this one.
        chain: The chain before this one, base64url.
        first: The lowest segment that is still kept.
    """

    instance: str
    stream: str
    segment: int
    number: int
    entries: int
    chain: str
    first: int
    at: str


class SignedCheckpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A checkpoint as it stands in the log; what is signed are its very bytes."""

    checkpoint: msgspec.Raw
    signature: str

    def opened(self) -> Checkpoint:
        """The checkpoint itself.

        Raises:
            msgspec.MsgspecError: it is none.
        """
        return msgspec.json.decode(self.checkpoint, type=Checkpoint)

    def signed_bytes(self) -> bytes:
        """What the signature is over."""
        return CHECKPOINT_DOMAIN + bytes(self.checkpoint)


class ChainLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The end of a batch. `entries` counts the stream's entries including the batch."""

    chain: str
    entries: int


@dataclass(slots=True)
class Chain:
    """The running state of a stream."""

    digest: bytes = bytes(_DIGEST_BYTES)
    entries: int = 0

    def begin(self, header: bytes) -> None:
        """Take in the header line of the next segment."""
        self.digest = hashlib.sha256(self.digest + header).digest()

    def close_batch(self, batch: bytes, entries: int) -> bytes:
        """Take in the lines of a batch; the line that closes it."""
        self.digest = hashlib.sha256(self.digest + batch).digest()
        self.entries += entries
        return _CHAIN % (text(self.digest), self.entries)


def text(digest: bytes) -> bytes:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(digest).rstrip(b"=")


def from_text(encoded: str) -> bytes:
    """The bytes of `text`.

    Raises:
        ValueError: it is not its canonical spelling.
    """
    data = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
    # Other spellings of the same bytes would be changes that nobody notices.
    if text(data) != encoded.encode():
        raise ValueError("not canonical base64url")
    return data


def header_line(header: Header) -> bytes:
    """The header with its line end."""
    return msgspec.json.encode(header) + b"\n"


def checkpoint_line(checkpoint: bytes, signature: bytes) -> bytes:
    """A signed checkpoint with its line end.

    Args:
        checkpoint: Encoded, as it was signed.
        signature: Ed25519, 64 bytes.
    """
    return b'{"checkpoint":%b,"signature":"%b"}\n' % (checkpoint, text(signature))
