"""Machines on a network of their own, made of network namespaces: cut off, refused and reunited by a test.

    with Network("a", "b", "db") as network:
        with network.inside("a"):
            server.start(f"{network.address('a')}:8080")
        with network.dropped("b", "INPUT", "db"):
            ...

Every machine has an address on one bridge, and so has the test's own process. Making them needs root; where that is
missing the tests fail. They are removed at the end, and those that a killed test left behind at the next beginning.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Self

from tests.support.mounts import run
from tests.support.processes import alive, eventually

Chain = Literal["INPUT", "OUTPUT"]

_PREFIX = "qimem"
_NAMED = Path("/run/netns")
_OWN = Path("/proc/thread-self/ns/net")
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count()


class Network:
    """Machines by name.

    Attributes:
        home: Address of the test's own process.
    """

    def __init__(self, *machines: str) -> None:
        self._number = next(_numbers)
        self._prefix = f"{_PREFIX}{os.getpid()}-{self._number}"
        self._machines = machines
        self._subnet = ""

    def __enter__(self) -> Self:
        _remove_remains()
        try:
            self._make()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    @property
    def subnet(self) -> str:
        """All addresses, as CIDR."""
        return f"{self._subnet}.0/24"

    def address(self, machine: str) -> str:
        """IPv4 address of a machine."""
        return f"{self._subnet}.{self._machines.index(machine) + 1}"

    @contextlib.contextmanager
    def inside(self, machine: str) -> Iterator[None]:
        """This thread is on that machine, and what it starts is born there."""
        own = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
        try:
            there = os.open(_NAMED / self._name(machine), os.O_RDONLY | os.O_CLOEXEC)
            try:
                _enter(there)
            finally:
                os.close(there)
            try:
                yield
            finally:
                _enter(own)
        finally:
            os.close(own)

    @contextlib.contextmanager
    def dropped(self, machine: str, chain: Chain, other: str) -> Iterator[None]:
        """What comes from the other machine, or goes there, vanishes without a sign."""
        with self._rule(machine, chain, other, "DROP"):
            yield

    @contextlib.contextmanager
    def refused(self, machine: str, other: str) -> Iterator[None]:
        """Every packet to the other machine is answered: there is no such port."""
        with self._rule(machine, "OUTPUT", other, "REJECT"):
            yield

    @contextlib.contextmanager
    def cut(self, machine: str) -> Iterator[None]:
        """The machine has no cable."""
        self._on(machine, "ip", "link", "set", "eth0", "down")
        try:
            yield
        finally:
            self._on(machine, "ip", "link", "set", "eth0", "up")

    @contextlib.contextmanager
    def _rule(self, machine: str, chain: Chain, other: str, verdict: str) -> Iterator[None]:
        whom = ("-s" if chain == "INPUT" else "-d", self.address(other), "-j", verdict)
        self._on(machine, "iptables", "-w", "-I", chain, *whom)
        try:
            yield
        finally:
            self._on(machine, "iptables", "-w", "-D", chain, *whom)

    def _on(self, machine: str, *command: str) -> None:
        run("ip", "netns", "exec", self._name(machine), *command)

    def _name(self, machine: str) -> str:
        return f"{self._prefix}-{machine}"

    def _make(self) -> None:
        hub = self._name("hub")
        for machine in ("hub", *self._machines):
            run("ip", "netns", "add", self._name(machine))
            self._on(machine, "ip", "link", "set", "lo", "up")
        # Its own namespace as well: rules of the machine for what it forwards are none of ours.
        self._on("hub", "ip", "link", "add", "bridge", "type", "bridge", "forward_delay", "0")
        self._on("hub", "ip", "link", "set", "bridge", "up")
        self._subnet = _free_subnet()
        for machine in self._machines:
            self._on(
                "hub",
                "ip",
                "link",
                "add",
                "name",
                machine,
                "type",
                "veth",
                "peer",
                "name",
                "eth0",
                "netns",
                self._name(machine),
            )
            self._on(machine, "ip", "address", "add", f"{self.address(machine)}/24", "dev", "eth0")
            self._on(machine, "ip", "link", "set", "eth0", "up")
        # Interface names have 15 characters at most.
        home = f"qm{os.getpid()}-{self._number}"
        run("ip", "link", "add", "name", home, "type", "veth", "peer", "name", "home", "netns", hub)
        run("ip", "address", "add", f"{self._subnet}.254/24", "dev", home)
        run("ip", "link", "set", home, "up")
        for machine in ("home", *self._machines):
            self._on("hub", "ip", "link", "set", "dev", machine, "master", "bridge", "up")
        for machine in self._machines:
            eventually(lambda address=self.address(machine): _reachable(address))

    def _remove(self) -> None:
        for machine in (*self._machines, "hub"):
            if (_NAMED / self._name(machine)).exists():
                run("ip", "netns", "del", self._name(machine))


def _enter(namespace: int) -> None:
    if _libc.setns(namespace, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def _free_subnet() -> str:
    """Of those that are for measurements between networks, and so nobody's (RFC 2544)."""
    taken = run("ip", "-4", "route", "show")
    for number in range(256):
        subnet = f"198.19.{(os.getpid() + number) % 256}"
        if f"{subnet}." not in taken:
            return subnet
    raise AssertionError("no free network")


def _reachable(address: str) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex((address, 1)) == errno.ECONNREFUSED


def _remove_remains() -> None:
    """Whatever tests left behind that are no more."""
    for namespace in _NAMED.glob(f"{_PREFIX}[0-9]*-*-*"):
        found = re.match(rf"{_PREFIX}(\d+)-", namespace.name)
        if found and not alive(int(found[1])):
            run("ip", "netns", "del", namespace.name)
