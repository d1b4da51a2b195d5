"""Change authorization, cryptography and the token code a thousand times: the unit tests must find nine in ten.

Usage: make mutation [ARGS='name ...'], a name as `mutmut results` prints them, `*` for any part; all without one. What was
not found is listed, and `python -m mutmut show <name>` shows it. A run that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
STATISTICS = ROOT / "mutants" / "mutmut-cicd-stats.json"
LEAST = 0.9
PROCESSES = "2"


def mutmut(*arguments: str, **how: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mutmut", *arguments], cwd=ROOT, text=True, check=True, **how
    )


def main() -> int:
    mutmut("run", "--max-children", PROCESSES, *sys.argv[1:])
    mutmut("export-cicd-stats", stdout=subprocess.DEVNULL)
    print(mutmut("results", stdout=subprocess.PIPE).stdout)
    counts = json.loads(STATISTICS.read_text())
    # One that never ends is found by whoever waits.
    found, total = counts["killed"] + counts["timeout"] + counts["segfault"], counts["total"]
    print(f"{found} of {total} found, {found / total:.1%}; least {LEAST:.0%}")
    return 0 if found >= LEAST * total else 1


if __name__ == "__main__":
    sys.exit(main())
