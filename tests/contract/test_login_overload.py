"""A flood of logins: who is refused for it has not guessed."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from qimem.errors import Unavailable
from qimem.identity.login.service import Credentials
from qimem.kernel.audit_draft import AuditDraft
from qimem.kernel.ids import SYSTEM_REALM
from qimem.kernel.limits import ATTEMPTS_PER_ADDRESS_MAX, PASSWORD_LANE_QUEUE_MAX
from qimem.kernel.secret import SecretText
from tests.support.identity_installation import ADMIN_PASSWORD, Installation

pytestmark = pytest.mark.anyio


async def test_a_login_that_is_refused_for_others_is_not_counted(tmp_path: Path) -> None:
    installation = await Installation.made(tmp_path, None, workers=1)
    (worker,) = installation.workers
    login, draft = worker.core.login, AuditDraft("auth.token", "r", "192.0.2.1")
    shown = Credentials(installation.admin.username, SecretText(ADMIN_PASSWORD))
    with ExitStack() as places:
        for _ in range(PASSWORD_LANE_QUEUE_MAX):
            places.enter_context(worker.core.lane.place())
        for _ in range(ATTEMPTS_PER_ADDRESS_MAX + 1):
            with pytest.raises(Unavailable) as caught:
                await login.with_password(SYSTEM_REALM, shown, draft)
            assert caught.value.code == "overloaded"
    known = await login.with_password(SYSTEM_REALM, shown, draft)
    assert known.realm_id == SYSTEM_REALM
    worker.core.lane.close()
    await worker.database.close()
