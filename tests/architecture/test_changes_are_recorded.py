"""Changes that a request makes go through the unit of work, which writes their audit records with them."""

from __future__ import annotations

import ast

from tests.architecture.sources import SOURCE

WITHOUT_RECORD = {
    "audit/intents.py": "forgets records that stand in the log",
    "bootstrap/first.py": "the installation itself; there is no log yet",
    "bootstrap/serving.py": "the external URL, at the first start",
    "identity/login/attempts.py": "counts attempts; what comes of them has its record",
    "identity/second_factor.py": "uses up a code; what it was used for has its record",
    "jobs/runner.py": "leases of background work",
    "jobs/tasks.py": "deletes what expired",
    "kernel/unit_of_work.py": "the way that all others go",
    "kms/audit_key.py": "the key of the log itself",
    "kms/cipher.py": "gives message counts back",
    "identity/login/service.py": "a better hash of the same password; the login that shows it has a record",
    "kms/leases.py": "leases message counts",
    "kms/root_rotation.py": "wraps anew; beginning and end of the rotation have their records",
    "server/fixtures.py": "objects of a throw-away server",
}
"""Module → why its transactions need no record."""


def writes(text: str) -> int:
    """How many transactions a module runs by itself."""
    calls = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Attribute))
    return sum(node.attr == "write" and ast.unparse(node.value).endswith("database") for node in calls)


def test_nothing_else_writes() -> None:
    found = {
        str(path.relative_to(SOURCE / "qimem"))
        for path in (SOURCE / "qimem").rglob("*.py")
        if "storage" not in path.parts and writes(path.read_text())
    }
    assert found == WITHOUT_RECORD.keys()


def test_a_transaction_of_ones_own_is_found() -> None:
    assert writes("async def f(self):\n    await self._database.write(change)\n") == 1
    assert writes("run = self._database.write\n") == 1
    assert writes("await self._work.apply(draft, change)\nfile.write(b'')\n") == 0
