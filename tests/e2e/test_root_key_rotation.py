"""The root key is rotated under load while everything is killed in turn: nobody is refused, the old key opens nothing."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from tests.support.audit_log import logged
from tests.support.broken_server import broken
from tests.support.cli import qimem
from tests.support.crash_cycles import at_its_own_address
from tests.support.load import DATABASES, new_server
from tests.support.root_keys import Crowd, Rotator, key_file, plant, unopened, wrapped_keys
from tests.support.server import Server
from tests.support.volume import volume

ADDRESS = "127.0.0.78:0"
ROWS = volume(100_000)
KILLS = volume(100)
TENANTS = volume(300, least=20)
_SECONDS = 1.5
_PUT_OFF_FEW = 20


def where(server: Server) -> list[str]:
    url = server.database_url
    return ["--data-dir", str(server.data), *(["--database-url", url] if url else [])]


def turns(rotator: Rotator, crowd: Crowd, count: int) -> None:
    """Kill the command, a worker, the command, the whole server, and so on."""
    for number in range(count):
        victim = ("command", "server", "command", "worker")[number % 4]
        if victim == "command":
            rotator.cut_off(_SECONDS)
        else:
            kill = rotator.kill_a_worker if victim == "worker" else rotator.kill_the_server
            rotator.beside(_SECONDS, kill)
        crowd.renew_token()


@pytest.mark.acceptance
@pytest.mark.parametrize("kind", DATABASES)
def test_nobody_is_refused_and_the_old_key_opens_nothing(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    server = new_server(request, tmp_path, kind, "remembers_few_keys")
    rows, kills = (ROWS, KILLS) if kind == "sqlite" else (ROWS // 10, max(1, KILLS // 10))
    with at_its_own_address(server, ADDRESS):
        plant(server, rows)
        crowd = Crowd.of(server, TENANTS)
        before = wrapped_keys(server)
        rotator = Rotator(server, random.Random(5))
        with crowd.busy():
            turns(rotator, crowd, kills)
            rotator.finish()
        (one,) = qimem("root-key", "status", *where(server), "-o", "json").json
        assert crowd.refusals == []
        assert crowd.answered > 100
        assert crowd.put_off <= max(_PUT_OFF_FEW, crowd.answered // 100)
        print(
            f"answered {crowd.answered}, put off {crowd.put_off}, cut off {crowd.cut_off}, made {crowd.made}"
        )
        after = wrapped_keys(server)
        assert before.keys() <= after.keys()
        assert not set(before.values()) & set(after.values())
        assert (one["in_force"], one["at_hand"], one["keys"]) == (True, True, len(after))
        assert unopened(server, key_file(server).read_bytes()) == 0
    assert not list(tmp_path.glob("*.next"))
    old = {key for key in rotator.retired if key != key_file(server).read_bytes()}
    assert old
    for key in old:
        assert unopened(server, key) == len(after)
    refused = qimem("serve", *where(server), "--bind", ADDRESS, "--root-key-file", _file(tmp_path, old.pop()))
    assert (refused.code, "after a rotation the new one" in refused.err) == (78, True)
    if kind == "sqlite":
        assert not left_in((server.data / "qimem.db").read_bytes(), set(before.values()))
    events = [record.event for record in logged(server.data)]
    assert events.count("root-key.rotate") == events.count("root-key.retire") == one["number"] - 1
    assert qimem("audit", "verify", "--data-dir", server.data).code == 0


def left_in(data: bytes, wrapped: set[bytes]) -> bool:
    """Whether one of them is in a file; each begins with the byte of its format."""
    (length,) = {len(one) for one in wrapped}
    return any(data[at.start() : at.start() + length] in wrapped for at in re.finditer(b"\x01", data))


def _file(directory: Path, key: bytes) -> Path:
    file = directory / "old.key"
    file.write_bytes(key)
    file.chmod(0o600)
    return file


def test_workers_that_look_nowhere_else_are_found_out(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    faults = ("remembers_few_keys", "never_looks_for_another_root_key")
    with at_its_own_address(new_server(request, tmp_path, "sqlite", *faults), ADDRESS) as server:
        crowd = Crowd.of(server, 10)
        with crowd.busy():
            Rotator(server, random.Random(5)).finish()
    assert any("'sealed'" in refusal for refusal in crowd.refusals), crowd.refusals[:3]


def test_an_old_key_that_goes_too_early_is_found_out(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    hasty = broken(tmp_path, "lets_the_old_root_key_go_first", "dies_in_the_rotation")
    with at_its_own_address(new_server(request, tmp_path, "sqlite"), ADDRESS) as server:
        rotator = Rotator(server, random.Random(5), hasty)
        with pytest.raises(AssertionError, match="exit -9"):
            rotator.finish()
        rotator.environment = {}
        with pytest.raises(AssertionError, match="exit 78"):
            rotator.finish()
