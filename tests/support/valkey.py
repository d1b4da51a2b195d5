"""A real Redis server in a directory of its own, that can be killed, stopped and started again."""

from __future__ import annotations

import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support.processes import eventually


@dataclass
class Valkey:
    """Keeps nothing: what is started again is empty."""

    directory: Path
    more: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        return self.directory / "valkey.sock"

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def start(self) -> Valkey:
        self.socket.unlink(missing_ok=True)
        command = [
            "redis-server",
            "--port",
            "0",
            "--unixsocket",
            str(self.socket),
            "--save",
            "",
            "--appendonly",
            "no",
        ]
        self.process = subprocess.Popen([*command, *self.more], stdout=subprocess.DEVNULL, cwd=self.directory)
        eventually(lambda: self.cli("PING").startswith(("PONG", "NOAUTH")))
        return self

    def cli(self, *command: str) -> str:
        """What the server answers to a command."""
        done = subprocess.run(
            ["redis-cli", "-s", str(self.socket), *command], capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None

    def stop(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        if self.process is not None:
            self.go_on()
            self.kill()
