"""What the configuration makes of `audit.checkpoint_*` and `outbound`."""

from __future__ import annotations

from pathlib import Path

import pytest

from qimem.audit.sinks import SinkFailed
from qimem.bootstrap.sinks import checkpoint_sinks
from qimem.config.schema import AuditSettings, OutboundSettings, Settings
from qimem.kernel.refusal import Refused
from qimem.kernel.secret import SecretText
from tests.support.strange_server import Authority, StrangeServer, body_of

pytestmark = pytest.mark.anyio

SECRET = b"0123456789abcdef"


def settings(url: str, secret: Path | None = None, **outbound: object) -> Settings:
    audit = AuditSettings(checkpoint_url=SecretText(url), checkpoint_secret_file=secret)
    return Settings(audit=audit, outbound=OutboundSettings(**outbound))  # type: ignore[arg-type]


def a_secret(place: Path, data: bytes = SECRET, mode: int = 0o600) -> Path:
    file = place / "secret"
    file.write_bytes(data)
    file.chmod(mode)
    return file


def test_nothing_configured_is_nowhere(tmp_path: Path) -> None:
    assert checkpoint_sinks(Settings()) == []
    both = AuditSettings(checkpoint_file=tmp_path, checkpoint_url=SecretText("https://a.example"))
    assert [sink.name for sink in checkpoint_sinks(Settings(audit=both))] == ["file", "url"]


async def test_a_private_address_that_nobody_listed_is_not_asked(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with StrangeServer(authority) as hook:
        url = f"https://127.0.0.1:{hook.port}/in"
        (sink,) = checkpoint_sinks(settings(url, ca_file=authority.file))
        with pytest.raises(SinkFailed, match=r"outbound\.allow_networks"):
            await sink.take([b"{}"])
        assert hook.connections == 0
        listed = settings(
            url, a_secret(tmp_path, SECRET + b"\n"), ca_file=authority.file, allow_networks=("127.0.0.0/8",)
        )
        (sink,) = checkpoint_sinks(listed)
        await sink.take([b"{}"])
    assert body_of(hook.requests[0]) == b"{}"


@pytest.mark.parametrize(
    ("data", "mode", "said"),
    [
        (b"short\n", 0o600, "does not hold 16 to 1024 bytes"),
        (b"x" * 2_000, 0o600, "does not hold 16 to 1024 bytes"),
        (b"", 0o600, "does not hold 16 to 1024 bytes"),
        (SECRET, 0o640, "open to others"),
        (SECRET, 0o604, "open to others"),
    ],
)
def test_a_secret_that_is_none_is_refused(tmp_path: Path, data: bytes, mode: int, said: str) -> None:
    with pytest.raises(Refused, match=said) as refused:
        checkpoint_sinks(settings("https://a.example", a_secret(tmp_path, data, mode)))
    assert refused.value.hint is not None
    assert SECRET.decode() not in refused.value.message + refused.value.hint


@pytest.mark.parametrize("place", ["absent", "."])
def test_a_secret_that_cannot_be_read_is_refused(tmp_path: Path, place: str) -> None:
    with pytest.raises(Refused):
        checkpoint_sinks(settings("https://a.example", tmp_path / place))
