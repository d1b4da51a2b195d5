"""What a container engine does with a command, done by hand: a fresh layer over this machine's files, a volume, a
network and process numbers of its own, a user without rights. They need root.

The layer is an overlay, as engines make it, and goes with the container. Of the machine, the tree under test and its
interpreter are bound to where they were, and its virtual environment to /opt/qimem as well.
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.architecture.sources import ROOT
from tests.support.processes import eventually

CLONE_NEWNET = 0x40000000
LAYER = """\
set -eu
mount -t tmpfs -o mode=755 none "$LAYER"
mkdir "$LAYER/upper" "$LAYER/work" "$LAYER/root"
mount -t overlay -o "lowerdir=/,upperdir=$LAYER/upper,workdir=$LAYER/work" none "$LAYER/root"
cd "$LAYER/root"
mount -t proc proc proc
mount --rbind /dev dev
bound() {  # bound SOURCE TARGET
    mkdir -p "./$2"
    # Who is nobody in particular has to get there, wherever the tree is.
    step=$2; while [ "$step" != / ]; do chmod a+rx "./$step"; step=$(dirname "$step"); done
    mount --bind "$1" "./$2"
}
"""
_CONTAINER = (
    LAYER
    + """\
mkdir -p var/lib/qimem
mount --bind "$VOLUME" var/lib/qimem
mount -t tmpfs -o size=64m,mode=1777,noexec,nosuid,nodev none tmp
for place in $PLACES; do bound "$place" "$place"; mount -o remount,bind,ro "./$place"; done
bound "$VENV" /opt/qimem
mount -o remount,bind,ro ./opt/qimem
for secret in $SECRETS; do
    mkdir -p run/secrets
    : > "run/secrets/${secret##*/}"
    mount --bind "$secret" "run/secrets/${secret##*/}"
done
chmod 0700 var/lib/qimem
chown "$OWNER" var/lib/qimem
printf '%s\n' "$HOSTS" > etc/hosts
mount -o remount,ro .
ip link set lo up
if [ -n "$ADDRESS" ]; then until ip -o -4 address show dev eth0 2>/dev/null | grep -q inet; do sleep 0.05; done; fi
exec chroot . setpriv --reuid "$OWNER" --regid "$OWNER" --clear-groups --bounding-set=-all --inh-caps=-all \
    --no-new-privs env -i "$@"
"""
)


@dataclass
class Container:
    """One container; a new one on the same volume is what an upgrade makes.

    Args:
        directory: Where the layer is mounted; of this process alone.
        volume: What lasts.
        user: The number of its user and group.
        secrets: Files that it finds under /run/secrets.
        bridge: The network that it joins, besides its own loopback.
        address: Its address there.
        hosts: Name → address, for what it asks.
    """

    directory: Path
    volume: Path
    user: int
    secrets: Sequence[Path] = ()
    bridge: Bridge | None = None
    address: str = ""
    hosts: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[str] | None = field(default=None, init=False)
    errors: str = field(default="", init=False)

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Run it as process number 1."""
        self.directory.mkdir(exist_ok=True)
        self.volume.mkdir(exist_ok=True)
        places = [str(ROOT)] if sys.base_prefix == "/usr" else [str(ROOT), sys.base_prefix]
        settings = {
            "LAYER": str(self.directory),
            "VOLUME": str(self.volume),
            "VENV": sys.prefix,
            "PLACES": shlex.join(places),
            "SECRETS": shlex.join(map(str, self.secrets)),
            "OWNER": str(self.user),
            "ADDRESS": self.address,
            "HOSTS": "\n".join(
                f"{there} {name}" for name, there in {"localhost": "127.0.0.1", **self.hosts}.items()
            ),
        }
        variables = [f"{name}={value}" for name, value in environment.items()]
        self.process = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--net", "--ipc", "--uts",
             "sh", "-c", _CONTAINER, "container", *variables, *command],
            env=os.environ | settings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        if self.bridge is not None:
            eventually(lambda: self.process is None or bool(psutil.Process(self.process.pid).children()))
            self.bridge.join(self.pid, self.address)

    def ready(self) -> list[str]:
        """Wait until it says so; what it said before."""
        assert self.process is not None
        assert self.process.stdout is not None
        lines = []
        for line in self.process.stdout:
            lines.append(line.rstrip("\n"))
            if line.startswith("ready "):
                return lines
        raise AssertionError((self.ended(), lines, self.errors))

    @property
    def pid(self) -> int:
        """Of its process number 1, as this machine sees it."""
        assert self.process is not None
        (first,) = psutil.Process(self.process.pid).children()
        return first.pid

    def ended(self, seconds: float = 15) -> int:
        """Wait for its end; the exit code."""
        assert self.process is not None
        _, self.errors = self.process.communicate(timeout=seconds)
        return self.process.returncode

    def stop(self) -> int:
        """What an engine does: the image's signal to process number 1; the exit code."""
        os.kill(self.pid, signal.SIGTERM)
        return self.ended()

    def kill(self) -> None:
        """End what may be left of it."""
        if self.process is not None and self.process.poll() is None:
            # First the one inside: with another user's rights it no longer dies with who started it.
            for process in [*psutil.Process(self.process.pid).children(), self.process]:
                process.kill()
            self.process.communicate()
            eventually(lambda: not self.directory.is_mount())

    def run(self, command: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """Run another command inside, as `exec` of an engine and its health check do."""
        variables = [f"{name}={value}" for name, value in environment.items()]
        return subprocess.run(
            ["nsenter", "--target", str(self.pid), "--all", "--root", "--wd",
             "setpriv", "--reuid", str(self.user), "--regid", str(self.user), "--clear-groups",
             "env", "-i", *variables, *command],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip

    @contextlib.contextmanager
    def network(self) -> Iterator[None]:
        """Sockets that this thread opens meanwhile are of the container's network."""
        with network_of(self.pid):
            yield


class Bridge:
    """A network that containers join; `close` it.

    Args:
        name: Of the bridge in it.
        gateway: Address and prefix length of who stands at it.
    """

    def __init__(self, name: str, gateway: str) -> None:
        self._name = name
        self._length = gateway.partition("/")[2]
        self._joined = 0
        self._holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        own = os.readlink("/proc/self/ns/net")
        eventually(lambda: os.readlink(f"/proc/{self._holder.pid}/ns/net") != own)
        self._ip(f"link add {name} type bridge")
        self._ip(f"address add {gateway} dev {name}")
        self._ip(f"link set {name} up")
        self._ip("link set lo up")

    def join(self, pid: int, address: str) -> None:
        """Give the network of that process an interface with the address."""
        self._joined += 1
        end = f"to{self._joined}"
        own = os.readlink("/proc/self/ns/net")
        eventually(lambda: os.readlink(f"/proc/{pid}/ns/net") != own)
        self._ip(f"link add {end} type veth peer name eth0 netns {pid}")
        self._ip(f"link set {end} master {self._name} up")
        self._ip("link set eth0 up", pid)
        self._ip(f"address add {address}/{self._length} dev eth0", pid)

    def speak_as(self, address: str) -> None:
        """Whoever is inside comes from this address."""
        self._ip(f"address add {address}/{self._length} dev {self._name}")
        network = ipaddress.ip_network(f"{address}/{self._length}", strict=False)
        self._ip(f"route replace {network} dev {self._name} src {address}")

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Sockets and processes of this thread are at the gateway meanwhile."""
        with network_of(self._holder.pid):
            yield

    def close(self) -> None:
        """End it."""
        self._holder.kill()
        self._holder.wait()

    def _ip(self, command: str, pid: int | None = None) -> None:
        target = ["nsenter", "--target", str(pid or self._holder.pid), "--net"]
        subprocess.run([*target, "ip", *command.split()], check=True, capture_output=True, timeout=30)


@contextlib.contextmanager
def network_of(pid: int) -> Iterator[None]:
    """Sockets that this thread opens meanwhile are of that process's network."""
    with open("/proc/thread-self/ns/net") as own, open(f"/proc/{pid}/ns/net") as other:
        _enter(other.fileno())
        try:
            yield
        finally:
            _enter(own.fileno())


def _enter(namespace: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
