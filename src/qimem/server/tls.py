"""The certificate that the server shows: read from its files, judged, given to the workers, and taken anew on SIGHUP.

One process reads the files. Workers find what it read in memory that they share, so that all of them, those that are
started later too, show the same certificate, whatever happens to the files meanwhile.
"""

from __future__ import annotations

import hashlib
import os
import ssl
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

from qimem.config.schema import Settings, TlsSettings
from qimem.kernel.clock import SystemClock
from qimem.kernel.limits import CERTIFICATE_WARNING_SECONDS, TLS_FILE_BYTES_MAX
from qimem.kernel.refusal import Refused
from qimem.kernel.secret import SecretBytes
from qimem.kernel.shared_memory import memory_file
from qimem.observability.logging import logger

if TYPE_CHECKING:
    from qimem.web.kit.tls import Tls

_OTHERS = 0o077
_ALL_BUT_GROUP_READ = 0o037
_DIGEST_BYTES = 32
_LENGTHS = 3
_HEAD_BYTES = _DIGEST_BYTES + 4 * _LENGTHS
_TORN_SECONDS = 0.01
_TORN_MAX = 200
_SECOND_US = 1_000_000
_EXPIRY_LINES = {
    "soon": "the certificate ends soon",
    "ended": "the certificate has ended: clients refuse it",
    "early": "the certificate is not valid yet: clients refuse it",
}


class Material(NamedTuple):
    """What a listener needs, in PEM; `client_ca` is empty where no client is asked for a certificate."""

    chain: bytes
    key: SecretBytes
    client_ca: bytes


class Expiry(NamedTuple):
    """How long a certificate is good for.

    Args:
        state: `good`, `soon` (it ends within days), `ended`, `early` (it has not begun).
        seconds: Until it ends; since it ended, below 0; until it begins.
    """

    state: str
    seconds: float


def read(settings: TlsSettings) -> Material:
    """Read the files and see that they fit together.

    Args:
        settings: With a certificate and a key.

    Raises:
        Refused: one cannot be read or used, or the key is open to others.
    """
    assert settings.cert is not None
    assert settings.key is not None
    from qimem.crypto.certificates import Unfit, check_key  # noqa: PLC0415 - most starts need none

    chain = bytes(_content(settings.cert, "certificate"))
    key = _content(settings.key, "key", judge=_check_private)
    material = Material(
        chain,
        SecretBytes(key),
        b"" if settings.client_ca is None else bytes(_content(settings.client_ca, "client authorities")),
    )
    key[:] = bytes(len(key))
    try:
        check_key(chain, material.key.reveal())
    except Unfit as unfit:
        raise Refused(
            f"TLS with {settings.cert} and {settings.key}: {unfit.reason}",
            "name a certificate chain in PEM and the key it was made for",
        ) from unfit
    make_context(material, settings)
    return material


def load(settings: TlsSettings) -> Material:
    """As `read`, with a line in the log when the certificate is not good, or not for long.

    Raises:
        Refused: as there.
    """
    material = read(settings)
    expiry = expiry_of(material.chain)
    if expiry.state != "good":
        logger().warning(
            _EXPIRY_LINES[expiry.state], path=str(settings.cert), duration_seconds=abs(expiry.seconds)
        )
    return material


def expiry_of(chain: bytes) -> Expiry:
    """How long the first certificate is good for, by the clock of this machine.

    Args:
        chain: In PEM.

    Raises:
        ValueError: it is none.
    """
    from qimem.crypto.certificates import validity_of  # noqa: PLC0415

    now = SystemClock().now_us() / _SECOND_US
    begins, ends = validity_of(chain)
    if now > ends:
        return Expiry("ended", ends - now)
    if now < begins:
        return Expiry("early", begins - now)
    return Expiry("soon" if ends - now < CERTIFICATE_WARNING_SECONDS else "good", ends - now)


def make_context(material: Material, settings: TlsSettings) -> ssl.SSLContext:
    """What handshakes are made with: TLS 1.3 alone.

    Args:
        material: Certificate, key, and whom clients may be.
        settings: Whether a client has to show a certificate.

    Raises:
        Refused: OpenSSL takes one of them not.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["http/1.1"])
    # A ticket outlives the certificate it was got with, and of several workers one alone could read it.
    context.num_tickets = 0
    try:
        _load(context, material)
        if material.client_ca:
            context.load_verify_locations(cadata=material.client_ca.decode("ascii"))
            required = settings.client_certificates == "required"
            context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.reason if isinstance(error, ssl.SSLError) else str(error)) or "unreadable"
        raise Refused(
            f"TLS with {settings.cert} and {settings.key}: {reason.lower().replace('_', ' ')}",
            "name PEM files that OpenSSL takes",
        ) from error
    return context


def use(material: Material, tls: Tls | None, settings: TlsSettings) -> None:
    """Have the next handshakes made with it, and wipe the key that was given.

    Raises:
        Refused: OpenSSL takes it not; nothing changes then.
    """
    assert tls is not None
    tls.context = make_context(material, settings)
    material.key.wipe()


def secured(material: Material, settings: TlsSettings) -> Tls:
    """What listeners serve with; the key that was given is wiped.

    Raises:
        Refused: OpenSSL takes the material not.
    """
    from qimem.web.kit.tls import Tls  # noqa: PLC0415 - with it comes what plain starts load when they serve

    tls = Tls(make_context(material, settings))
    material.key.wipe()
    return tls


def secures_admin(settings: Settings) -> bool:
    """Whether the admin listener speaks TLS, too: where others than this machine reach it."""
    bind = settings.server.admin_bind
    return settings.tls.cert is not None and bind is not None and not bind.loopback


class SharedMaterial:
    """Memory in which the workers of a server find what to show.

    Args:
        descriptor: Of `SharedMaterial.empty`, which every worker inherits.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @classmethod
    def empty(cls) -> SharedMaterial:
        """Memory with nothing in it.

        Raises:
            OSError: the system has no memory for it.
        """
        return cls(memory_file("tls", 0))

    def put(self, material: Material) -> None:
        """Replace what is there, and wipe the key that was given. One process alone does.

        Raises:
            Refused: the system has no memory for it; nothing changes then.
        """
        parts = (material.chain, material.key.reveal(), material.client_ca)
        content = b"".join([*(len(part).to_bytes(4, "big") for part in parts), *parts])
        try:
            if sys.platform == "linux":
                # Before anything is written over what is there.
                os.posix_fallocate(self.descriptor, 0, _DIGEST_BYTES + len(content))
            os.pwrite(self.descriptor, hashlib.sha256(content).digest() + content, 0)
        except OSError as error:
            raise Refused(f"no memory for the certificate: {error.strerror}") from error
        material.key.wipe()

    def taken(self) -> Material:
        """What is there.

        Raises:
            Refused: it never becomes whole: whoever wrote it stopped in the middle.
        """
        for _ in range(_TORN_MAX):
            # No lock: one that a stopped worker holds would keep all from the next certificate.
            content = os.pread(self.descriptor, os.fstat(self.descriptor).st_size, 0)
            lengths = [
                int.from_bytes(content[at : at + 4], "big") for at in range(_DIGEST_BYTES, _HEAD_BYTES, 4)
            ]
            whole = content[_DIGEST_BYTES : _HEAD_BYTES + sum(lengths)]
            if hashlib.sha256(whole).digest() == content[:_DIGEST_BYTES]:
                begins = _HEAD_BYTES + lengths[0], _HEAD_BYTES + lengths[0] + lengths[1]
                key = SecretBytes(memoryview(content)[begins[0] : begins[1]])
                ends = begins[1] + lengths[2]
                return Material(content[_HEAD_BYTES : begins[0]], key, content[begins[1] : ends])
            time.sleep(_TORN_SECONDS)
        raise Refused("the certificate that workers share is damaged")


class Renewal:
    """Takes the certificate anew when it is called; what cannot be used is logged and changes nothing.

    Args:
        settings: Names the files.
        take: Gets the material; raises `Refused`.
        use: Is given it. Both are called by one thread at a time.
    """

    def __init__(
        self, settings: TlsSettings, take: Callable[[], Material], use: Callable[[Material], None]
    ) -> None:
        self._settings = settings
        self._take = take
        self._use = use
        self._lock = Lock()

    def __call__(self) -> bool:
        """Renew; whether it was done."""
        with self._lock:
            try:
                self._use(self._take())
            except Refused as refused:
                logger().error("certificate not taken: the old one stays", reason=refused.message)
                return False
        logger().info("certificate taken", path=str(self._settings.cert))
        return True


def renewal_from_files(settings: TlsSettings, use: Callable[[Material], None]) -> Callable[[], bool]:
    """What SIGHUP asks for in the process that reads the files; without TLS, a line in the log.

    Args:
        settings: Names them, if there are any.
        use: Is given what was read.
    """
    if settings.cert is None:
        return _nothing_to_renew
    return Renewal(settings, lambda: load(settings), use)


def _nothing_to_renew() -> bool:
    logger().info("SIGHUP: no certificate to take")
    return False


def _load(context: ssl.SSLContext, material: Material) -> None:
    # The module takes files alone. This one is memory of this process.
    content = bytes(material.key.reveal()) + b"\n" + material.chain
    descriptor = memory_file("tls-load", len(content))
    try:
        os.pwrite(descriptor, content, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        context.load_cert_chain(f"/dev/fd/{descriptor}", password=_no_passphrase)
    finally:
        os.close(descriptor)


def _no_passphrase() -> str:
    # Without this, OpenSSL would ask the terminal.
    return ""


def _content(path: Path, what: str, judge: Callable[[Path, os.stat_result], None] | None = None) -> bytearray:
    """The bytes of a file. A link is followed: certificates are commonly renewed by turning one."""
    buffer = bytearray(TLS_FILE_BYTES_MAX + 1)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise Refused(f"the TLS {what} {path} is not a plain file", "name the file itself")
            if judge is not None:
                judge(path, status)
            length = os.readv(descriptor, [buffer])
        finally:
            os.close(descriptor)
    except OSError as error:
        raise Refused(f"cannot read the TLS {what} {path}: {error.strerror}") from error
    if length > TLS_FILE_BYTES_MAX:
        raise Refused(f"the TLS {what} {path} is larger than {TLS_FILE_BYTES_MAX} bytes")
    content = buffer[:length]
    buffer[:] = bytes(len(buffer))
    return content


def _check_private(path: Path, status: os.stat_result) -> None:
    if status.st_uid not in (os.geteuid(), 0):
        raise Refused(
            f"the TLS key {path} belongs to another user (uid {status.st_uid})",
            f"chown {os.geteuid()} {path}",
        )
    # Distributions keep keys of several servers as root's, readable to a group.
    loose = _ALL_BUT_GROUP_READ if status.st_uid == 0 and os.geteuid() != 0 else _OTHERS
    if status.st_mode & loose:
        raise Refused(
            f"the TLS key {path} is open to others (mode {status.st_mode & 0o777:04o})",
            f"chmod 600 {path}, and have the certificate made anew if someone may have read the key",
        )
