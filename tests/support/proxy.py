"""nginx with the files of `deploy/nginx`, on ports and with a certificate of the test; nothing else is changed."""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.architecture.sources import ROOT
from tests.support.processes import eventually

FILES = ROOT / "deploy/nginx"
# What Debian's and the image's own nginx.conf do around conf.d.
_MAIN = """\
daemon off;
worker_processes 1;
{user}
error_log {directory}/error.log notice;
pid {directory}/pid;
events {{ worker_connections 1024; }}
http {{
    {temporary}
    include {directory}/conf.d/*.conf;
}}
"""
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


@dataclass(frozen=True)
class Proxy:
    """A running nginx."""

    port: int
    directory: Path
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def trust(self) -> ssl.SSLContext:
        """For clients: its certificate and no other."""
        return ssl.create_default_context(cafile=str(self.directory / "tls/fullchain.pem"))

    @property
    def log(self) -> str:
        return (self.directory / "access.log").read_text()


def program() -> str:
    """Debian keeps it where not everybody looks."""
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    assert found is not None, "nginx is needed: apt-get install nginx"
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def certificate(place: Path) -> None:
    """One that names 127.0.0.1, and its key, under the names of the page."""
    place.mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=2))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    (place / "fullchain.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (place / "privkey.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


def furnish(directory: Path, port: int, nodes: str) -> Path:
    """Its main configuration, with the deployed files beside it; `nodes` stands for the file of that name."""
    (directory / "conf.d").mkdir(parents=True)
    certificate(directory / "tls")
    site = (FILES / "qimem.conf").read_text()
    for written, here in (
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("    listen [::]:443 ssl;\n", ""),
        ("/etc/qimem/tls", f"{directory}/tls"),
        ("/var/log/nginx/access.log", f"{directory}/access.log"),
    ):
        assert written in site, written
        site = site.replace(written, here)
    (directory / "conf.d/qimem.conf").write_text(site)
    (directory / "conf.d/qimem-nodes.conf").write_text(nodes)
    main = directory / "nginx.conf"
    temporary = " ".join(f"{name}_temp_path {directory}/{name};" for name in _TEMPORARY)
    user = "user root;" if os.geteuid() == 0 else ""
    main.write_text(_MAIN.format(directory=directory, temporary=temporary, user=user))
    return main


@contextmanager
def proxy(directory: Path, nodes: str) -> Iterator[Proxy]:
    """nginx before these nodes, until it has been stopped."""
    port = free_port()
    main = furnish(directory, port, nodes)
    process = subprocess.Popen(
        [program(), "-e", str(directory / "error.log"), "-p", str(directory), "-c", str(main)]
    )
    try:
        eventually(lambda: process.poll() is not None or _listens(port))
        assert process.poll() is None, (directory / "error.log").read_text()
        yield Proxy(port, directory, process)
    finally:
        process.terminate()
        process.wait(15)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
