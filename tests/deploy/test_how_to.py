"""The page for operators, followed on a machine with systemd: every command for a single node, as it stands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.sources import ROOT
from tests.support.machine import Machine
from tests.support.processes import eventually
from tests.support.volume import volume

PAGE = ROOT / "docs/how-to/run-in-production.md"
FENCE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def steps() -> dict[str, list[str]]:
    """Heading → the commands under it."""
    found = {}
    for section in re.split(r"^##+ ", PAGE.read_text(), flags=re.MULTILINE)[1:]:
        heading, _, text = section.partition("\n")
        commands = [
            line[2:] for fence in FENCE.findall(text) for line in fence.splitlines() if line.startswith("$ ")
        ]
        # Its packages are there: this machine's tools were made ready.
        found[heading] = [command for command in commands if "apt-get" not in command]
    return found


def follow(machine: Machine, heading: str) -> str:
    return "".join(machine.run(command, seconds=600) for command in steps()[heading])


def shown(machine: Machine, name: str) -> str:
    return machine.run(f"systemctl show qimem -p {name} --value").strip()


def kill(machine: Machine, signal: str, pid: str) -> None:
    machine.run(f"kill -{signal} {pid}")


def ready(machine: Machine) -> bool:
    return machine.try_("curl -sS --fail http://127.0.0.1:8080/ready").returncode == 0


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path / "layer")
    yield made
    made.close()


def test_what_the_page_installs_is_there() -> None:
    for command in (command for section in steps().values() for command in section):
        for path in re.findall(r"(?<!> )\bdeploy/\S+", command):
            assert (ROOT / path).is_file(), path


@pytest.mark.acceptance
def test_a_new_operator_comes_to_a_service_that_serves_over_tls_and_comes_back(
    request: pytest.FixtureRequest,
) -> None:
    # Installing takes half a minute: in full, or not at all.
    if not volume(1, least=0):
        return
    machine: Machine = request.getfixturevalue("machine")
    follow(machine, "1. Install")
    machine.boot()
    follow(machine, "2. Make the root key")
    assert "fail" not in follow(machine, "3. Start")
    assert ' "username": "admin"' in follow(machine, "4. Take the first credentials away")
    assert '{"status":"ready"}' in follow(machine, "5. TLS: nginx in front")
    assert machine.try_("runuser -u qimem -- cat /etc/qimem/root.key").returncode != 0
    under_attack(machine)
    goes_back_to_a_backup(machine)
    serves_tls_itself(machine)
    is_upgraded(machine)
    with_a_database_of_its_own(machine)


def under_attack(machine: Machine) -> None:
    """What ends the service brings it back, and what it refuses does not."""
    main = shown(machine, "MainPID")
    status = machine.run(f"cat /proc/{main}/status")
    assert re.search(r"^CapBnd:\s0+$", status, re.MULTILINE)
    assert re.search(r"^Seccomp:\s2$", status, re.MULTILINE)

    kill(machine, "KILL", machine.run(f"pgrep -P {main} | head -1").strip())
    eventually(lambda: len(machine.run(f"pgrep -P {main}").split()) == 2)
    assert shown(machine, "MainPID") == main

    kill(machine, "KILL", main)
    eventually(lambda: shown(machine, "NRestarts") == "1" and ready(machine), seconds=20)
    kill(machine, "STOP", shown(machine, "MainPID"))
    eventually(lambda: shown(machine, "NRestarts") == "2" and ready(machine), seconds=60)

    machine.run("systemctl restart qimem")
    assert ready(machine)
    machine.run("systemctl stop qimem")
    assert (shown(machine, "Result"), shown(machine, "ExecMainStatus")) == ("success", "0")
    machine.run("echo 'nonsense = 1' >> /etc/qimem/qimem.toml")
    assert machine.try_("systemctl start qimem").returncode != 0
    assert (shown(machine, "ExecMainStatus"), shown(machine, "NRestarts")) == ("78", "0")
    machine.run("sed -i '$d' /etc/qimem/qimem.toml")


def goes_back_to_a_backup(machine: Machine) -> None:
    """The timer's backup is good, and the service serves what was restored from it."""
    machine.run("systemctl start qimem")
    installing, restoring = steps()["Back up"][:5], steps()["Back up"][5:]
    # Older than a month, and not to be kept longer.
    machine.run("runuser -u qimem -- mkdir -m 700 /var/lib/qimem/backups")
    machine.run("runuser -u qimem -- touch -d '40 days ago' /var/lib/qimem/backups/old.backup")
    (name,) = "".join(machine.run(command) for command in installing).split()
    assert name.endswith(".backup")
    assert "qimem-backup.timer" in machine.run("systemctl list-timers --no-pager qimem-backup.timer")
    restored = "".join(machine.run(command.replace("NAME.backup", name)) for command in restoring)
    assert "backup_id" in restored
    assert ready(machine)
    assert "backup.restore" in machine.run("qimem-admin audit export")


def serves_tls_itself(machine: Machine) -> None:
    """On port 443, with that right alone, and with another certificate after a reload."""
    machine.run("systemctl stop nginx")
    assert '{"status":"ready"}' in follow(machine, "TLS without a proxy")
    main = shown(machine, "MainPID")
    status = machine.run(f"cat /proc/{main}/status")
    assert re.search(r"^CapBnd:\s0*400$", status, re.MULTILINE)
    making = next(command for command in steps()["TLS without a proxy"] if "openssl" in command)
    machine.run(making)
    machine.run("systemctl reload qimem")
    asking = steps()["TLS without a proxy"][-1]
    eventually(lambda: machine.try_(asking).returncode == 0, seconds=20)
    assert shown(machine, "MainPID") == main
    machine.run("rm /etc/systemd/system/qimem.service.d/tls.conf; systemctl daemon-reload")


def is_upgraded(machine: Machine) -> None:
    """Nothing is to be done for the same version; installing it again would cost half a minute."""
    commands = [
        command for command in steps()["Stop, and upgrade"] if not command.startswith("sudo deploy/install")
    ]
    assert "current" in "".join(machine.run(command) for command in commands)
    assert ready(machine)
    machine.run("systemctl stop qimem")


def with_a_database_of_its_own(machine: Machine) -> None:
    """Service and commands are given the URL, and nobody else sees it."""
    machine.run("umask 077; echo postgresql://qimem:hunter2@127.0.0.1/qimem > /etc/qimem/database-url")
    said = machine.run("qimem-admin config check -o json")
    assert '"origin": "/run/credentials/qimem-admin-' in said
    assert "hunter2" not in said
    machine.run(steps()["PostgreSQL"][3] + "; systemctl daemon-reload")
    # There is no such database here: it is asked for, and asked for again.
    assert machine.try_("systemctl start qimem").returncode != 0
    eventually(lambda: shown(machine, "NRestarts") not in ("", "0"), seconds=20)
    assert shown(machine, "ExecMainStatus") != "78"
    assert "storage" in machine.run("journalctl -u qimem -o cat")
    assert "hunter2" not in machine.run(
        "journalctl -u qimem -o cat; systemctl show qimem; systemctl cat qimem"
    )
