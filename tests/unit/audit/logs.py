"""Small audit logs made of nothing but the format."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from qimem.audit.segment import (
    CHECKPOINT_DOMAIN,
    Chain,
    Checkpoint,
    Header,
    checkpoint_line,
    header_line,
    text,
)
from qimem.crypto.signatures import Ed25519Signer, Ed25519Verifier
from qimem.kernel.secret import SecretBytes

AT = "2026-11-26T12:00:00.000000Z"


def signer(seed: int = 1) -> Ed25519Signer:
    return Ed25519Signer(SecretBytes(bytes([seed]) * 32))


def verifier_of(made: Ed25519Signer) -> Ed25519Verifier:
    return Ed25519Verifier(made.public_bytes())


VERIFIER = Ed25519Verifier(signer().public_bytes())


@dataclass
class Log:
    """A stream as its writer makes it, in memory."""

    instance: str = "here"
    stream: str = "0"
    seed: int = 1
    chain: Chain = field(default_factory=Chain)
    segments: list[bytes] = field(default_factory=list)
    checkpoints: int = 0
    made: int = 0
    first: int = 1

    def open_segment(self) -> None:
        header = Header(1, self.instance, self.stream, len(self.segments) + 1, self.chain.entries,
                        text(self.chain.digest).decode(), AT)  # fmt: skip
        line = header_line(header)
        self.chain.begin(line)
        self.segments.append(line)

    def batch(self, records: int = 2) -> None:
        lines = b""
        for _ in range(records):
            self.made += 1
            lines += b'{"at":"%b","event":"keys.encrypt","request_id":"%d"}\n' % (AT.encode(), self.made)
        self.segments[-1] += lines + self.chain.close_batch(lines, records)

    def checkpoint(self) -> Checkpoint:
        self.checkpoints += 1
        made = Checkpoint(self.instance, self.stream, len(self.segments), self.checkpoints,
                          self.chain.entries, text(self.chain.digest).decode(), self.first, AT)  # fmt: skip
        encoded = msgspec.json.encode(made)
        line = checkpoint_line(encoded, signer(self.seed).sign(CHECKPOINT_DOMAIN + encoded))
        self.segments[-1] += line + self.chain.close_batch(line, 1)
        return made

    def named(self) -> list[tuple[str, bytes]]:
        return [(f"segment {number}", data) for number, data in enumerate(self.segments, 1)]


def a_log(segments: int = 3, **facts: object) -> Log:
    log = Log(**facts)  # type: ignore[arg-type]
    for _ in range(segments):
        log.open_segment()
        for _ in range(3):
            log.batch()
            log.checkpoint()
    return log
