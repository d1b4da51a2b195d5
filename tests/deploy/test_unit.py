"""The systemd unit: systemd finds nothing wrong with it, and its command line is ours."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from qimem.cli.output import exit_code
from qimem.config.refusal import Misconfigured
from qimem.kernel.limits import DRAIN_SECONDS
from qimem.kms.seal.custody import CREDENTIAL_NAME
from tests.deploy.files import ADDRESS, DEPLOY, loaded

UNIT = DEPLOY / "systemd/qimem.service"
DROP_IN = DEPLOY / "systemd/postgresql.conf"
TLS = DEPLOY / "systemd/tls.conf"
BACKUP = DEPLOY / "systemd/qimem-backup.service"
TIMER = DEPLOY / "systemd/qimem-backup.timer"
CONFIGURATION = DEPLOY / "qimem.toml"


def values(name: str, file: Path = UNIT) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", file.read_text(), flags=re.MULTILINE)


def value(name: str) -> str:
    (found,) = values(name)
    return found


def command(line: str | None = None) -> list[str]:
    program, *arguments = shlex.split(line or value("ExecStart"))
    assert program == "/opt/qimem/bin/qimem"
    return arguments


def installed(tmp_path: Path, text: str | None = None, *, drop_in: Path = DROP_IN) -> Path:
    """The unit with a drop-in, where only the place of the program is that of this tree."""
    place = tmp_path / "qimem.service"
    place.write_text((text or UNIT.read_text()).replace("/opt/qimem", sys.prefix))
    (tmp_path / "qimem.service.d").mkdir()
    (tmp_path / "qimem.service.d" / drop_in.name).write_text(
        drop_in.read_text().replace("/opt/qimem", sys.prefix)
    )
    return place


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize("drop_in", [DROP_IN, TLS], ids=lambda drop_in: drop_in.name)
def test_systemd_takes_it(tmp_path: Path, drop_in: Path) -> None:
    done = analyze("verify", "--man=no", installed(tmp_path, drop_in=drop_in))
    assert (done.returncode, done.stderr) == (0, "")


def test_systemd_takes_the_backup_and_its_timer(tmp_path: Path) -> None:
    for unit in (BACKUP, TIMER):
        (tmp_path / unit.name).write_text(unit.read_text().replace("/opt/qimem", sys.prefix))
    done = analyze("verify", "--man=no", tmp_path / BACKUP.name, tmp_path / TIMER.name)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("line", "slip"),
    [("WatchdogSec=30s", "WatchdogSecs=30s"), ("Type=notify", "Type=notified"), ("bin/qimem", "bin/quimem")],
)
def test_systemd_finds_a_slip(tmp_path: Path, line: str, slip: str) -> None:
    done = analyze("verify", "--man=no", installed(tmp_path, UNIT.read_text().replace(line, slip)))
    assert done.stderr


@pytest.mark.parametrize("unit", [UNIT, BACKUP], ids=lambda unit: unit.name)
def test_little_is_left_that_it_could_do_to_the_machine(unit: Path) -> None:
    done = analyze("security", "--offline=yes", "--threshold=15", "--no-pager", unit)
    assert done.returncode == 0, done.stdout


def test_more_rights_are_found(tmp_path: Path) -> None:
    loose = tmp_path / "qimem.service"
    loose.write_text(
        UNIT.read_text().replace("ProtectSystem=strict\n", "").replace("CapabilityBoundingSet=\n", "")
    )
    assert analyze("security", "--offline=yes", "--threshold=15", "--no-pager", loose).returncode == 1


def test_the_server_takes_command_variables_and_file() -> None:
    arguments = command()
    assert arguments[arguments.index("--config") + 1] == "/etc/qimem/qimem.toml"
    environ = dict(entry.split("=", 1) for entry in values("Environment"))
    settings = loaded(arguments, environ, CONFIGURATION).settings
    assert settings.seal.source == "credential"
    assert str(settings.server.data_dir) == f"/var/lib/{value('StateDirectory')}/data"
    assert (str(settings.server.bind), settings.server.external_url) == ("127.0.0.1:8080", ADDRESS)


def test_the_drop_in_names_the_credential_that_it_loads(tmp_path: Path) -> None:
    (credential,) = values("LoadCredential", DROP_IN)
    (variable,) = values("Environment", DROP_IN)
    name, path = variable.split("=", 1)
    assert path == f"%d/{credential.partition(':')[0]}"
    secret = tmp_path / "secret"
    secret.write_text("postgresql://qimem:x@db/qimem\n")
    secret.chmod(0o400)
    assert loaded(command(), {name: str(secret)}, CONFIGURATION).settings.database.url is not None


def test_with_tls_of_its_own_the_server_needs_no_proxy(tmp_path: Path) -> None:
    # What was there before is taken back, and one right alone is given.
    reset, line = values("ExecStart", TLS)
    assert reset == ""
    assert (
        values("CapabilityBoundingSet", TLS) == values("AmbientCapabilities", TLS) == ["CAP_NET_BIND_SERVICE"]
    )
    direct = tmp_path / "qimem.toml"
    direct.write_text(re.sub(r".*trusted_proxies.*\n", "", CONFIGURATION.read_text()))
    environ = dict(entry.split("=", 1) for entry in values("Environment"))
    settings = loaded(command(line), environ, direct).settings
    usual = loaded(command(), environ, direct).settings
    assert (settings.server.data_dir, settings.server.admin_bind) == (
        usual.server.data_dir, usual.server.admin_bind,
    )  # fmt: skip
    assert (str(settings.server.bind), settings.server.trusted_proxies) == ("0.0.0.0:443", ())
    assert settings.tls.cert is not None
    assert settings.tls.key is not None


def test_a_backup_is_of_the_data_that_the_server_has() -> None:
    arguments = command()
    environ = dict(entry.split("=", 1) for entry in values("Environment", BACKUP))
    assert environ["QIMEM_SERVER__DATA_DIR"] == arguments[arguments.index("--data-dir") + 1]
    assert values("LoadCredential", BACKUP) == values("LoadCredential")
    assert values("User", BACKUP) == values("User")
    assert "qimem/backups" in values("StateDirectory", BACKUP)[0].split()


def test_the_root_key_is_the_credential_that_the_server_looks_for() -> None:
    assert value("LoadCredential") == f"{CREDENTIAL_NAME}:/etc/qimem/root.key"


def test_a_drain_has_its_time_and_a_refusal_ends_it() -> None:
    assert int(value("TimeoutStopSec").removesuffix("s")) > DRAIN_SECONDS
    assert int(value("RestartPreventExitStatus")) == exit_code(Misconfigured([]))
