"""A real browser shows the documentation page with its style, and its policy stops everything else.

The controls serve the same page with another policy and with a planted script: what the browser says about
those shows that its silence about the real page means something.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from qimem import __version__
from qimem.bootstrap.serving import ENDPOINTS
from qimem.web.docs_page import CONTENT_SECURITY_POLICY, render_page
from tests.support.api import World

HEADER_COLOR = (0x0C, 0x3B, 0x49)
WHITE = (255, 255, 255)
PACKAGED = Path("/usr/bin/chromium")
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--enable-logging=stderr", "--v=0",
    "--dump-dom", "--window-size=1000,700",
)  # fmt: skip


@dataclass(frozen=True)
class Seen:
    """What the browser made of a page."""

    dom: str
    violations: list[str]
    picture: bytes

    @property
    def corner(self) -> tuple[int, ...]:
        """Color of the top left pixel. It is stored as it is, whatever filter the first row has."""
        return tuple(self.rows[1:4])

    @property
    def rows(self) -> bytes:
        """The picture's rows, unpacked and still filtered (PNG, third edition, §9)."""
        assert self.picture.startswith(b"\x89PNG\r\n\x1a\n")
        packed, at = b"", 8
        while at < len(self.picture):
            (length,) = struct.unpack(">I", self.picture[at : at + 4])
            if self.picture[at + 4 : at + 8] == b"IDAT":
                packed += self.picture[at + 8 : at + 8 + length]
            at += 12 + length
        return zlib.decompress(packed)


def chromium() -> str:
    """The browser. Without it these tests fail: a page that nobody looked at is not tested."""
    found = shutil.which("chromium") or (str(PACKAGED) if PACKAGED.exists() else None)
    if found is None:
        pytest.fail("chromium is missing: run tools/prepare chromium, or apt-get install chromium")
    return found


def look(url: str, directory: Path) -> Seen:
    """Load the page with a fresh profile."""
    picture = directory / "page.png"
    command = [chromium(), *QUIET, f"--user-data-dir={directory / 'profile'}", f"--screenshot={picture}", url]
    environment = os.environ | {"HOME": str(directory)}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    said = [line for line in run.stderr.splitlines() if "Content Security Policy" in line]
    return Seen(run.stdout, said, picture.read_bytes())


@contextmanager
def served(page: bytes, policy: str) -> Iterator[str]:
    """The page under this policy, at its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Security-Policy", policy)
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/docs"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def seen(world: World, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    return look(f"{world.server.url}/docs", tmp_path_factory.mktemp("browser"))


def test_the_browser_shows_every_operation(seen: Seen) -> None:
    assert "<h1>QIMEM HTTP API</h1>" in seen.dom
    missing = [endpoint.name for endpoint in ENDPOINTS if f'<article id="{endpoint.name}">' not in seen.dom]
    assert not missing


def test_nothing_on_the_page_breaks_its_policy(seen: Seen) -> None:
    assert seen.violations == []


def test_the_style_is_applied(seen: Seen) -> None:
    assert seen.corner == HEADER_COLOR
    assert len(set(seen.rows)) > 100, "nothing is painted"


def test_with_a_wrong_hash_the_style_is_refused(tmp_path: Path) -> None:
    broken = re.sub("sha256-[^']+", f"sha256-{'A' * 43}=", CONTENT_SECURITY_POLICY)
    assert broken != CONTENT_SECURITY_POLICY
    with served(render_page(ENDPOINTS, __version__), broken) as url:
        seen = look(url, tmp_path)
    assert any("inline style" in line for line in seen.violations)
    assert seen.corner == WHITE


def test_a_script_or_an_image_that_got_in_would_be_stopped(tmp_path: Path) -> None:
    planted = b"<script>document.title='owned'</script><img src=/x.png></main>"
    page = render_page(ENDPOINTS, __version__).replace(b"</main>", planted)
    with served(page, CONTENT_SECURITY_POLICY) as url:
        seen = look(url, tmp_path)
    assert "<title>QIMEM HTTP API</title>" in seen.dom
    assert any("inline script" in line for line in seen.violations)
    assert any("x.png" in line for line in seen.violations)
    assert seen.corner == HEADER_COLOR


def test_without_a_browser_the_tests_fail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys.modules[__name__], "PACKAGED", tmp_path / "chromium")
    with pytest.raises(pytest.fail.Exception, match="chromium is missing"):
        look("http://127.0.0.1:1/", tmp_path)
