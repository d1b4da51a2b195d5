"""The certificate is taken whole and sound, or not at all."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from qimem.config.schema import TlsSettings
from qimem.kernel.limits import TLS_FILE_BYTES_MAX
from qimem.kernel.refusal import Refused
from qimem.kernel.secret import SecretBytes
from qimem.server.tls import Material, Renewal, SharedMaterial, expiry_of, make_context, read
from tests.support.certificates import Authority

AUTHORITY = Authority()


@pytest.fixture
def settings(tmp_path: Path) -> TlsSettings:
    cert, key = AUTHORITY.issue().write(tmp_path)
    authorities = tmp_path / "clients.pem"
    authorities.write_bytes(AUTHORITY.pem)
    return TlsSettings(cert=cert, key=key, client_ca=authorities)


def make_link(path: Path) -> None:
    real = path.rename(path.with_name(f"real-{path.name}"))
    path.symlink_to(real)


def test_what_is_sound_is_read(settings: TlsSettings) -> None:
    material = read(settings)
    assert material.chain == settings.cert.read_bytes()
    assert material.key.equals(settings.key.read_bytes())
    assert material.client_ca == AUTHORITY.pem


def test_links_are_followed_to_files_that_are_judged(settings: TlsSettings) -> None:
    make_link(settings.cert)
    make_link(settings.key)
    assert read(settings).chain
    settings.key.resolve().chmod(0o640)
    with pytest.raises(Refused, match="open to others"):
        read(settings)


FAULTS: dict[str, tuple[Callable[[TlsSettings], object], str]] = {
    "no certificate": (lambda s: s.cert.unlink(), "cannot read the TLS certificate .*No such file"),
    "no key": (lambda s: s.key.unlink(), "cannot read the TLS key .*No such file"),
    "no authorities": (lambda s: s.client_ca.unlink(), "cannot read the TLS client authorities"),
    "a directory": (lambda s: (s.cert.unlink(), s.cert.mkdir()), "not a plain file"),
    "a pipe": (lambda s: (s.key.unlink(), os.mkfifo(s.key, 0o600)), "not a plain file"),
    "a key for the group": (lambda s: s.key.chmod(0o640), "open to others .mode 0640."),
    "a key for everybody": (lambda s: s.key.chmod(0o604), "open to others .mode 0604."),
    "another's key": (lambda s: os.chown(s.key, 12345, -1), "belongs to another user"),
    "the key of another": (
        lambda s: AUTHORITY.issue().write(s.key.parent, "x")[1].replace(s.key),
        "not that of",
    ),
    "an encrypted key": (lambda s: s.key.write_bytes(ENCRYPTED), "passphrase|no private key"),
    "an empty certificate": (lambda s: s.cert.write_bytes(b""), "no certificate in PEM"),
    "an empty key": (lambda s: s.key.write_bytes(b""), "no private key in PEM"),
    "authorities of text": (lambda s: s.client_ca.write_bytes(b"x"), "TLS with .*: "),
    "authorities of bytes": (lambda s: s.client_ca.write_bytes(b"\xff\xfe"), "TLS with .*decode"),
    "too much": (lambda s: s.cert.write_bytes(b"x" * (TLS_FILE_BYTES_MAX + 1)), "larger than"),
}
ENCRYPTED = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_not_sound_is_refused(settings: TlsSettings, fault: str) -> None:
    spoil, reason = FAULTS[fault]
    spoil(settings)
    with pytest.raises(Refused, match=reason) as refused:
        read(settings)
    assert "PRIVATE" not in refused.value.message + (refused.value.hint or "")


def test_a_key_of_root_may_be_read_by_a_group(settings: TlsSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """As distributions keep those that several servers use."""
    settings.key.chmod(0o640)
    os.chown(settings.key, 0, -1)
    monkeypatch.setattr("qimem.server.tls.os.geteuid", lambda: 1000)
    assert read(settings).chain
    settings.key.chmod(0o644)
    with pytest.raises(Refused, match="open to others"):
        read(settings)


@pytest.mark.parametrize(
    ("begins", "ends", "state"),
    [(-1, 90, "good"), (-1, 15, "good"), (-1, 13, "soon"), (-3, -1, "ended"), (1, 90, "early")],
)
def test_how_long_it_is_good_for(begins: int, ends: int, state: str) -> None:
    assert expiry_of(AUTHORITY.issue(begins=begins, ends=ends).chain).state == state


def test_only_tls_1_3_is_spoken_and_no_client_is_asked_unless_told(settings: TlsSettings) -> None:
    issued = AUTHORITY.issue()
    context = make_context(Material(issued.chain, SecretBytes(issued.key), b""), settings)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_3
    assert context.verify_mode == ssl.CERT_NONE
    assert context.num_tickets == 0


# --- what workers share -----------------------------------------------------------------------


def material(size: int = 0) -> Material:
    issued = AUTHORITY.issue()
    return Material(issued.chain, SecretBytes(issued.key), b"#" * size + AUTHORITY.pem)


@pytest.fixture
def shared() -> SharedMaterial:
    return SharedMaterial.empty()


@pytest.mark.parametrize("size", [0, TLS_FILE_BYTES_MAX - 5_000])
def test_what_was_put_is_taken_and_replaced(shared: SharedMaterial, size: int) -> None:
    for fresh in (material(size), material()):
        key = bytes(fresh.key.reveal())
        shared.put(fresh)
        assert not any(fresh.key.reveal())
        taken = shared.taken()
        assert (taken.chain, taken.client_ca) == (fresh.chain, fresh.client_ca)
        assert taken.key.equals(key)


@pytest.mark.parametrize("spoil", ["empty", "cut", "flipped", "lengths"])
def test_what_is_not_whole_is_never_taken(
    shared: SharedMaterial, monkeypatch: pytest.MonkeyPatch, spoil: str
) -> None:
    monkeypatch.setattr("qimem.server.tls._TORN_SECONDS", 0.0)
    if spoil != "empty":
        shared.put(material())
    size = os.fstat(shared.descriptor).st_size
    match spoil:
        case "cut":
            os.ftruncate(shared.descriptor, size - 1)
        case "flipped":
            os.pwrite(shared.descriptor, b"\x00", size - 10)
        case "lengths":
            os.pwrite(shared.descriptor, b"\xff" * 12, 32)
    with pytest.raises(Refused, match="damaged"):
        shared.taken()


# --- renewal ----------------------------------------------------------------------------------


def test_what_is_refused_changes_nothing(settings: TlsSettings, capsys: pytest.CaptureFixture[str]) -> None:
    used: list[Material] = []
    renew = Renewal(settings, lambda: read(settings), used.append)
    assert renew() is True
    settings.key.write_text("x")
    assert renew() is False
    AUTHORITY.issue().write(settings.key.parent)
    assert renew() is True
    assert [each.chain for each in used][1:] == [settings.cert.read_bytes()]
