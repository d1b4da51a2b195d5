"""A TLS server on loopback that answers as it is told, with a certificate of an authority made for the test."""

from __future__ import annotations

import datetime as dt
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HOST = "hooks.example"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

Behavior = Callable[[socket.socket], None]


class Authority:
    """Files of a made certificate authority, and of a certificate for `HOST` and 127.0.0.1."""

    def __init__(self, directory: Path, host: str = HOST) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a test")])
        now = dt.datetime.now(dt.UTC)
        names = x509.SubjectAlternativeName(
            [x509.DNSName(host), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        )
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(names, critical=False)
            .sign(key, hashes.SHA256())
        )
        self.file = directory / "authority.pem"
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        self._pair = directory / "pair.pem"
        self._pair.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + self.file.read_bytes()
        )

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._pair)
        return context


def request_of(connection: socket.socket) -> bytes:
    """One whole request with its body."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65_536) or b"\r\n\r\n"
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [
        line.split(b":")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
    ]
    while lengths and len(body) < int(lengths[0]):
        body += connection.recv(65_536)
    return head + b"\r\n\r\n" + body


def body_of(request: bytes) -> bytes:
    return request.partition(b"\r\n\r\n")[2]


class StrangeServer:
    """Serves each connection in a thread of its own until the end of the block.

    Args:
        authority: None speaks plain HTTP.
        behavior: Told the connection after its request was read; by default says `answer`.
    """

    def __init__(
        self, authority: Authority | None, answer: bytes = OK, behavior: Behavior | None = None
    ) -> None:
        self.answer = answer
        self.behavior = behavior
        self.requests: list[bytes] = []
        self.names: list[str | None] = []
        self.connections = 0
        self._tls = None if authority is None else authority.context()
        if self._tls is not None:
            self._tls.sni_callback = lambda _socket, name, _context: self.names.append(name)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def wait(self, seconds: float) -> bool:
        """Whether the server ended meanwhile."""
        return self._ended.wait(seconds)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                wrapped = (
                    connection if self._tls is None else self._tls.wrap_socket(connection, server_side=True)
                )
                with wrapped:
                    self.requests.append(request_of(wrapped))
                    if self.behavior is not None:
                        self.behavior(wrapped)
                    else:
                        wrapped.sendall(self.answer)
            except OSError:
                # The client went away, which is what many of these tests are about.
                return
