"""Runs the tests marked `acceptance` with their full counts: `python -m tests.acceptance [--only name]`.

Each test is a process of its own and leaves `acceptance-results/<test>.json`, which is kept, and `.log`. What passed on
the same state of the code is not run again, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

from tests.support.volume import VARIABLE

ROOT = Path(__file__).parents[2]
RESULTS = "acceptance-results"
PYTEST = [sys.executable, "-m", "pytest", "-m", "acceptance", "--timeout=0"]
NO_TESTS = 5


def state_of_the_code() -> str:
    """A digest of every file under version control but the results, changed ones as they are now."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", f":!/{RESULTS}"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    digest = hashlib.sha256()
    for name in sorted(filter(None, listed.split(b"\0"))):
        path = ROOT / os.fsdecode(name)
        if path.is_file():
            digest.update(name + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def commit() -> str:
    """The commit that is checked out, with `-dirty` where files but the results were changed; nothing before the first."""
    known = _git("rev-parse", "--short", "--verify", "--quiet", "HEAD")
    changed = known and _git("status", "--porcelain", "--untracked-files=no", "--", f":!/{RESULTS}")
    return f"{known}-dirty" if changed else known


def _git(*words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()


def said(log: str) -> list[str]:
    """What a test printed: the figures it saw, and no stacks, which name paths of this machine."""
    found = re.search(r"^-+ Captured stdout call -+\n(.*?)(?=^[-=]{5}|\Z)", log, re.DOTALL | re.MULTILINE)
    return (
        [line for line in found[1].splitlines() if not line.startswith((" ", "~~~", "+++"))] if found else []
    )


def _full() -> dict[str, str]:
    return os.environ | {VARIABLE: "full"}


def collect() -> list[str]:
    """The ids of all acceptance tests."""
    command = [*PYTEST, "--collect-only", "-q"]
    # Also how many cases a test has may depend on the volume.
    done = subprocess.run(command, cwd=ROOT, env=_full(), capture_output=True, text=True, check=False)
    if done.returncode not in {0, NO_TESTS}:
        raise SystemExit(done.stdout + done.stderr)
    return [line for line in done.stdout.splitlines() if "::" in line]


def run(test: str, results: Path) -> bool:
    """One test; whether it passed, now or before."""
    state = state_of_the_code()
    stem = re.sub(r"[^\w.-]+", "-", test).strip("-")
    record, log = results / f"{stem}.json", results / f"{stem}.log"
    if record.exists():
        before = json.loads(record.read_text())
        if before["passed"] and (before["test"], before["state"]) == (test, state):
            print(f"passed before  {test}", flush=True)
            return True
    print(f"running        {test}", flush=True)
    checked_out = commit()
    started, begun = time.monotonic(), time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    with log.open("w") as output:
        done = subprocess.run(
            [*PYTEST, "-rA", "--durations=0", test],
            cwd=ROOT, env=_full(), stdout=output, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
    same = state_of_the_code() == state
    if not same:
        print("the code was changed meanwhile: this proves nothing", flush=True)
    passed = done.returncode == 0 and same
    found = {
        "test": test,
        "passed": passed,
        "exit_code": done.returncode,
        "seconds": round(time.monotonic() - started, 3),
        "begun": begun,
        "commit": checked_out,
        "state": state,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }
    if passed:
        found["printed"] = said(log.read_text())
    draft = record.with_suffix(".draft")
    draft.write_text(json.dumps(found, indent=2) + "\n")
    draft.replace(record)
    print(f"{'passed' if passed else 'FAILED':<14} {test}  {found['seconds']} s", flush=True)
    return passed


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for; 0 only when something ran and all of it passed."""
    parser = argparse.ArgumentParser(prog="make acceptance")
    parser.add_argument("--only", default="", help="run the tests whose id contains this")
    chosen = parser.parse_args(arguments)
    tests = [test for test in collect() if chosen.only in test]
    if not tests:
        print(f"no acceptance test is called {chosen.only!r}" if chosen.only else "no acceptance tests")
        return 1
    results = ROOT / RESULTS
    results.mkdir(exist_ok=True)
    failed = [test for test in tests if not run(test, results)]
    print(f"{len(tests) - len(failed)} of {len(tests)} passed; results in {results.name}/")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
