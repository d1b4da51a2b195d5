"""The checks of `qimem doctor`. Each looks at one thing and never changes it."""

from __future__ import annotations

import math
import os
import resource
import shutil
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from qimem.audit.log import DIRECTORY
from qimem.audit.space import Pressure, Room, described, free_bytes, growth, thresholds
from qimem.bootstrap.database import location
from qimem.bootstrap.root_keys import look_at, look_in_custody
from qimem.cli.exposure import exposure
from qimem.cli.finding import Finding
from qimem.config.schema import Settings
from qimem.config.values import Address
from qimem.errors import Unavailable
from qimem.kernel.clock import MICROSECONDS, SystemClock
from qimem.kernel.refusal import Refused
from qimem.kernel.secret import SecretBytes
from qimem.kms.instance import Instance
from qimem.kms.root_keys import Generation, RootKeys
from qimem.kms.seal.custody import choose
from qimem.kms.seal.placement import Mounts
from qimem.server.credentials import CredentialsFile
from qimem.server.directories import mode_fault
from qimem.storage.inspection import inspect_sqlite

_SWAPS = Path("/proc/swaps")
_FREE_BYTES_MIN = 512 * 1024 * 1024


async def examine(settings: Settings) -> list[Finding]:
    """Run every check that applies."""
    data_dir = settings.server.data_dir
    findings = list(_directory(data_dir))
    if findings[0].state == "fail" and not data_dir.is_dir():
        return findings
    key, found = _root_key(settings)
    findings += found
    database = list(_database(settings))
    findings += database
    if all(finding.state == "ok" for finding in database):
        findings += await _instance(settings, key)
    findings += exposure(settings)
    findings += [_credentials(data_dir), _swap(), _cores(), _space(data_dir)]
    findings += [*_audit_space(settings), *_checkpoints(settings)]
    if key is not None:
        key.wipe()
    return findings


def _directory(data_dir: Path) -> Iterator[Finding]:
    if not data_dir.is_dir():
        advice = f"qimem init --data-dir {data_dir}"
        yield Finding("data directory", "fail", f"{data_dir} does not exist", advice)
        return
    fault = mode_fault(data_dir)
    if fault is not None:
        yield Finding("data directory", "fail", fault.message, fault.hint or "")
    else:
        yield Finding("data directory", "ok", f"{data_dir} is private")
    loose = [path.name for path in data_dir.iterdir() if stat.S_IMODE(path.lstat().st_mode) & 0o077]
    if loose:
        yield Finding("data files", "fail", f"open to others: {', '.join(loose)}", f"chmod -R go= {data_dir}")
    else:
        yield Finding("data files", "ok", "all private")


def _root_key(settings: Settings) -> tuple[SecretBytes | None, list[Finding]]:
    data_dir = settings.server.data_dir
    try:
        custody = choose(
            data_dir,
            source=settings.seal.source,
            root_key_file=settings.seal.root_key_file,
            environ=os.environ,
            explicit=False,
        )
        key = custody.load()
    except Refused as refused:
        return None, [Finding("root key", "fail", refused.message, refused.hint or "")]
    findings = [Finding("root key", "ok", custody.location)]
    place = Path(custody.location)
    if place.is_relative_to(os.path.realpath(data_dir)):
        advice = "move it out: a backup must not hold key and data together"
        findings.append(Finding("root key place", "fail", "inside the data directory", advice))
    elif place.parent.stat().st_mode & 0o022 and not place.parent.stat().st_mode & stat.S_ISVTX:
        advice = f"chmod go-w {place.parent}"
        findings.append(Finding("root key place", "warn", f"others can write {place.parent}", advice))
    else:
        findings.append(Finding("root key place", "ok", f"on {Mounts.read().type_of(place) or 'unknown'}"))
    return key, findings


def _database(settings: Settings) -> Iterator[Finding]:
    if settings.database.url is not None:
        return
    file = location(settings).file
    if not file.exists():
        advice = f"qimem init --data-dir {settings.server.data_dir}"
        yield Finding("database", "fail", "there is none", advice)
        return
    try:
        seen = inspect_sqlite(file)
    except Unavailable:
        yield Finding("database", "fail", "it cannot be read", "restore it from a backup")
        return
    yield Finding("database engine", "ok", f"SQLite {seen.engine}")
    if seen.journal_mode == "wal":
        yield Finding("write-ahead log", "ok", "in use")
    else:
        advice = "stop other programs from opening the file, then restart the server"
        yield Finding("write-ahead log", "fail", f"journal mode is {seen.journal_mode}", advice)
    if seen.faults:
        yield Finding("integrity", "fail", "; ".join(seen.faults), "restore it from a backup")
    else:
        yield Finding("integrity", "ok", "quick check passed")


async def _instance(settings: Settings, key: SecretBytes | None) -> list[Finding]:
    where = location(settings)
    if not where.exists():
        return [Finding("installation", "fail", "the database is empty", "qimem init")]
    if not where.is_current():
        return [Finding("installation", "warn", "of an older version", "start the server once")]
    try:
        instance, generations = await look_at(settings)
    except Refused as refused:
        return [Finding("installation", "fail", refused.message, "qimem init")]
    findings = [Finding("installation", "ok", str(instance.instance_id))]
    if key is not None:
        findings += _root_keys(settings, instance, generations)
    return [*findings, _external_url(settings, instance)]


def _root_keys(
    settings: Settings, instance: Instance, generations: Sequence[Generation]
) -> Iterator[Finding]:
    keys = RootKeys(instance.instance_id, None, look_in_custody(settings))
    missing = [each for each in generations if keys.find(each.check) is None]
    keys.close()
    if not missing:
        yield Finding("root key match", "ok", "made for this installation")
    elif len(missing) == len(generations):
        detail = "the key is of another installation, or was replaced"
        yield Finding("root key match", "fail", detail, "name the right one with --root-key-file")
    else:
        detail = "the root key is being rotated, and one of the two is not here"
        yield Finding("root key match", "fail", detail, "put the new key beside the old one, as <file>.next")
    if len(generations) > 1:
        yield Finding("root key rotation", "warn", "it has not ended", "qimem root-key rotate")


def _external_url(settings: Settings, instance: Instance) -> Finding:
    url = instance.external_url
    if url is None:
        return Finding(
            "external URL", "warn", "not set yet", "set server.external_url before the first start"
        )
    configured = settings.server.external_url
    if configured is not None and configured != url:
        return Finding("external URL", "fail", f"stored {url}, configured {configured}", f"configure {url}")
    parts = urlsplit(url)
    loopback = Address(parts.hostname or "", 0).loopback
    if loopback:
        return Finding("external URL", "warn", f"{url} is of this machine only", "fine for trying things out")
    if parts.scheme != "https":
        return Finding(
            "external URL",
            "warn",
            f"{url} is not https",
            "give a certificate with --tls-cert, or put a TLS proxy in front",
        )
    return Finding("external URL", "ok", url)


def _credentials(data_dir: Path) -> Finding:
    file = CredentialsFile.beside(data_dir)
    if file.exists():
        advice = "move it to a password safe and delete it"
        return Finding("credentials file", "warn", f"{file.path} is still there", advice)
    return Finding("credentials file", "ok", "taken away")


def _swap() -> Finding:
    try:
        areas = [line.split()[0] for line in _SWAPS.read_text(encoding="utf-8").splitlines()[1:]]
    except OSError:
        return Finding("swap", "warn", "cannot be seen on this system", "see that swap is encrypted")
    on_disk = [area for area in areas if "zram" not in area]
    if on_disk:
        advice = "encrypt it or turn it off: keys in memory may be written to it"
        return Finding("swap", "warn", ", ".join(on_disk), advice)
    return Finding("swap", "ok", "none on disk")


def _cores() -> Finding:
    if resource.getrlimit(resource.RLIMIT_CORE) == (0, 0):
        return Finding("core files", "ok", "the server turns them off")
    return Finding("core files", "fail", "they cannot be turned off", "allow setrlimit(RLIMIT_CORE)")


def _space(data_dir: Path) -> Finding:
    free = shutil.disk_usage(data_dir).free
    if free < _FREE_BYTES_MIN:
        return Finding("disk space", "warn", f"{free >> 20} MiB free", "make room: a full disk stops writes")
    return Finding("disk space", "ok", f"{free >> 20} MiB free")


def _audit_space(settings: Settings) -> list[Finding]:
    log = settings.server.data_dir / DIRECTORY
    try:
        free = free_bytes(log)
        rate = growth(log, SystemClock().now_us() / MICROSECONDS)
    except FileNotFoundError:
        return []
    except OSError as error:
        return [
            Finding("audit log space", "fail", f"it cannot be seen: {error.strerror}", "look at the disk")
        ]
    room = Room(free, free / rate if rate else math.inf)
    pressure = thresholds(settings.server.workers).pressure(room)
    detail = described(room, pressure)
    if pressure is Pressure.NONE:
        return [Finding("audit log space", "ok", detail)]
    advice = "make room, or give up old segments with audit.retention_days; a full disk stops what has to be recorded"
    return [Finding("audit log space", "fail" if pressure is Pressure.RESERVE else "warn", detail, advice)]


def _checkpoints(settings: Settings) -> Iterator[Finding]:
    """Of the file alone: a URL would have to be asked, and this changes nothing anywhere."""
    file = settings.audit.checkpoint_file
    if file is None:
        return
    try:
        same = file.parent.stat().st_dev == (settings.server.data_dir / DIRECTORY).stat().st_dev
    except OSError as error:
        yield Finding(
            "checkpoint file", "fail", f"{file}: {error.strerror}", "make its directory, or mount it"
        )
        return
    if same:
        advice = "keep it on a disk that whoever controls this machine cannot change"
        yield Finding("checkpoint file", "warn", f"{file} is on the disk of the log", advice)
    else:
        yield Finding("checkpoint file", "ok", f"{file} is on another disk")
