"""A machine to install the server on: this one's files under a fresh layer, with systemd as process number 1.

It has process numbers, mounts, control groups and, once booted, a network of its own; what is changed on it goes with it.
It needs root. `sudo` is one that obeys.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import uuid
from pathlib import Path

import psutil

from tests.architecture.sources import ROOT
from tests.support.containers import LAYER
from tests.support.processes import eventually

CLEAN = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
}
_HOLD = (
    LAYER
    + """\
mount --rbind /sys sys
mount -t tmpfs -o mode=1777 none tmp
mount -t tmpfs -o mode=755 none run
bound "$TREE" "$TREE"
mount -o remount,bind,ro "./$TREE"
rm -rf etc/systemd/system/* lib/systemd/system/*.wants etc/qimem var/lib/qimem opt/qimem
printf '#!/bin/sh\\nif [ "$1" = -u ]; then user=$2; shift 2; set -- runuser -u "$user" -- "$@"; fi\\nexec "$@"\\n' > usr/local/bin/sudo
chmod 755 usr/local/bin/sudo
echo held
exec sleep infinity
"""
)
_BOOT = """\
set -eu
for tree in $GROUPS; do mkdir "$tree/$NAME"; echo $$ > "$tree/$NAME/cgroup.procs"; done
exec nsenter --target "$HOLDER" --mount unshare --pid --fork --kill-child --cgroup --net --ipc --uts sh -euc '
    cd "$LAYER/root"
    mount -t proc proc proc
    mount -t tmpfs none sys/fs/cgroup
    for tree in $GROUPS; do
        mkdir -p "./$tree"
        case $tree in
            */systemd) mount -t cgroup -o none,name=systemd none "./$tree" ;;
            *) mount -t cgroup2 none "./$tree" ;;
        esac
    done
    mount --make-rshared .
    ip link set lo up
    exec chroot . env -i container=lxc PATH="$PATH" /lib/systemd/systemd --system --unit=multi-user.target \\
        --log-target=console --show-status=0
'
"""


class Machine:
    """One machine; `close` it.

    Args:
        directory: Where its layer is mounted.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._directory = directory
        self._name = f"qimem-{uuid.uuid4().hex[:8]}"
        names = ("/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified")
        self._groups = [name for name in names if Path(name, "cgroup.procs").exists()] or ["/sys/fs/cgroup"]
        self._settings = CLEAN | {"LAYER": str(directory), "TREE": str(ROOT), "NAME": self._name}
        self._settings["GROUPS"] = " ".join(self._groups)
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", _HOLD],
            env=self._settings, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._systemd: subprocess.Popen[bytes] | None = None
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "held\n"

    def boot(self) -> None:
        """Start systemd; from now on commands run under it."""
        with (self._directory.parent / "console.txt").open("wb") as console:
            self._systemd = subprocess.Popen(
                ["sh", "-c", _BOOT],
                env=self._settings | {"HOLDER": str(self._holder.pid)},
                stdout=console, stderr=subprocess.STDOUT,
            )  # fmt: skip
        eventually(lambda: self.try_("systemctl is-active multi-user.target").returncode == 0, seconds=60)
        # What pulled them in was taken away with everything else that a boot starts.
        self.run("systemctl start systemd-journald.socket systemd-journald dbus.socket dbus")

    def run(self, script: str, seconds: float = 120) -> str:
        """Run it in the tree, as root; its output."""
        done = self.try_(script, seconds)
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        return done.stdout

    def try_(self, script: str, seconds: float = 120) -> subprocess.CompletedProcess[str]:
        """Run it in the tree, as root."""
        # Not a login: what a profile of the machine under the layer sets is nobody's business here.
        inside = ["chroot", f"{self._directory}/root", "bash", "-c", f"cd '{ROOT}'; set -eu; {script}"]
        target = ["--target", str(self._holder.pid), "--mount"]
        if self._systemd is not None:
            inside = ["bash", "-c", f"cd '{ROOT}'; set -eu; {script}"]
            target = ["--target", str(self._pid), "--all", "--root", "--wd"]
        return subprocess.run(
            ["nsenter", *target, *inside], env=self._environment(), stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False, timeout=seconds,
        )  # fmt: skip

    def _environment(self) -> dict[str, str]:
        # Before it has a network of its own, packages come from where this machine gets them.
        proxies = {
            name: value for name, value in os.environ.items() if "PIP" in name or "proxy" in name.lower()
        }
        return CLEAN | proxies

    @property
    def _pid(self) -> int:
        assert self._systemd is not None
        found = [self._systemd.pid]
        # nsenter and unshare stand between; the one that has no parent in its own numbers is systemd.
        while children := psutil.Process(found[-1]).children():
            found.append(children[0].pid)
            if psutil.Process(found[-1]).name() == "systemd":
                break
        return found[-1]

    def close(self) -> None:
        """End everything on it."""
        for process in (self._systemd, self._holder):
            if process is not None:
                process.send_signal(signal.SIGKILL)
                process.wait(30)
        for tree in self._groups:
            for group in sorted(Path(tree).glob(f"{self._name}/**/"), reverse=True):
                eventually(lambda group=group: _removed(group), seconds=20)
        if self._holder.stdout is not None:
            self._holder.stdout.close()
        shutil.rmtree(self._directory, ignore_errors=True)


def _removed(group: Path) -> bool:
    try:
        group.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
