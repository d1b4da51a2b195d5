"""Changes of one's own second factor stand on what was proven: if that was changed meanwhile, nothing is done."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from qimem.errors import Conflict
from qimem.identity.login.service import SignedIn
from qimem.identity.own_factor import OwnFactor
from qimem.kernel.context import ActorKind
from qimem.kernel.ids import RealmId
from qimem.kernel.secret import SecretText

pytestmark = pytest.mark.anyio

ADA = UUID(int=1)
ACME = RealmId("acme")


class Setting:
    """A user with or without a factor, whose password an administrator may replace before the effect."""

    def __init__(self, *, enrolled: bool) -> None:
        self.holds = True
        self.written: list[str] = []
        factor = object() if enrolled else None
        self.store = SimpleNamespace(
            find=lambda *_: factor,
            put_pending=lambda *_: self.written.append("pending"),
            put_recovery_codes=lambda *_: self.written.append("codes") or True,
            delete=lambda *_: self.written.append("deleted") or True,
        )
        users = SimpleNamespace(
            with_password=lambda *_: (SimpleNamespace(username="ada"), "phc"), changed=lambda *_: None
        )
        login = SimpleNamespace(prove=self._prove, still_holds=lambda tx, known: self.holds)
        factors = SimpleNamespace(sealed=self._sealed, now_us=lambda: 0)
        work = SimpleNamespace(read=self._read, apply=self._apply)
        self.own: Any = OwnFactor(work, users, login, factors, self.store, "qimem")  # type: ignore[arg-type]
        actor = SimpleNamespace(realm_id=ACME, kind=ActorKind.USER, subject=str(ADA))
        self.ctx: Any = SimpleNamespace(actor=actor, realm_id=ACME, draft=SimpleNamespace(target=""))

    async def _prove(self, *_: Any) -> SignedIn:
        return SignedIn(ACME, ADA, "phc", None)

    async def _sealed(self, *_: Any) -> bytes:
        return b"sealed"

    async def _read(self, function: Callable[[Any], Any]) -> Any:
        return function(None)

    async def _apply(self, _: Any, function: Callable[[Any], Any]) -> Any:
        return function(None)


Change = Callable[[Setting], Awaitable[Any]]
SECRET = SecretText("x")
CHANGES: list[tuple[bool, Change, str]] = [
    (False, lambda setting: setting.own.enrol(setting.ctx, SECRET), "pending"),
    (True, lambda setting: setting.own.renew_recovery_codes(setting.ctx, SECRET, SECRET), "codes"),
    (True, lambda setting: setting.own.disable(setting.ctx, SECRET, SECRET), "deleted"),
]


@pytest.mark.parametrize(("enrolled", "change", "effect"), CHANGES, ids=["enrol", "renew", "disable"])
async def test_a_password_that_was_replaced_meanwhile_proves_nothing(
    enrolled: bool, change: Change, effect: str
) -> None:
    setting = Setting(enrolled=enrolled)
    await change(setting)
    assert setting.written == [effect]
    setting = Setting(enrolled=enrolled)
    setting.holds = False
    with pytest.raises(Conflict, match="meanwhile"):
        await change(setting)
    assert setting.written == []
