"""Services and models with one defect each, which the machine of realms, users and roles has to notice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from qimem.authz.permissions import EVERYTHING, compile_permissions
from qimem.identity import roles
from qimem.identity.users import UserService, user_not_found
from qimem.kernel.context import Actor, RequestContext
from qimem.oauth.bearer import BearerAuthenticator
from qimem.storage.repositories.grants import GrantRepository
from qimem.storage.repositories.realms import RealmRepository
from tests.support.identity_model import Model
from tests.support.identity_powers import Names, powers
from tests.support.identity_real import Stage


class GivesFreely(Model):
    """A model that finds it right when people give away what they do not hold."""

    def gives(self, have: Names, listed: Iterable[str]) -> bool:
        return True


class SeesNothing(GivesFreely):
    """One that does not see where that leads, either."""

    def reach(self, names: Names, realm: int) -> Names:
        return powers(names)


class Untold:
    """Epochs that stand still."""

    def __init__(self, epochs: Any) -> None:
        self.at = epochs.at

    def bump(self, tx: Any, realm_id: Any) -> None:
        pass


Defect = Callable[[pytest.MonkeyPatch, Stage], None]


def roles_unchecked(patch: pytest.MonkeyPatch, stage: Stage) -> None:
    patch.setattr(roles, "require_grantable", lambda actor, names: None)


def assigning_unchecked(patch: pytest.MonkeyPatch, stage: Stage) -> None:
    async def assign_roles(
        self: UserService, ctx: RequestContext, user_id: UUID, names: Sequence[str]
    ) -> Any:
        if "users:manage" in ctx.actor.permissions.everywhere:
            everything = compile_permissions(frozenset({EVERYTHING}))
            ctx = ctx._replace(actor=replace(ctx.actor, permissions=everything))
        return await right(self, ctx, user_id, names)

    right = UserService.assign_roles
    patch.setattr(UserService, "assign_roles", assign_roles)


def anybody_managed(patch: pytest.MonkeyPatch, stage: Stage) -> None:
    def manageable(self: UserService, tx: Any, ctx: RequestContext, user_id: UUID) -> Any:
        found = self._store.find(tx, ctx.realm_id, user_id)
        if found is None:
            raise user_not_found(user_id)
        return found

    patch.setattr(UserService, "manageable", manageable)


def roles_of_home_count_abroad(patch: pytest.MonkeyPatch, stage: Stage) -> None:
    async def other_realm(self: BearerAuthenticator, actor: Actor, realm_id: str) -> Any:
        return actor, (await right(self, actor, realm_id))[1]

    right = BearerAuthenticator.other_realm
    patch.setattr(BearerAuthenticator, "other_realm", other_realm)


def changes_of_users_untold(patch: pytest.MonkeyPatch, stage: Stage) -> None:
    for worker in stage.installations[0].workers:
        patch.setattr(worker.services.users, "_epochs", Untold(worker.database))


def old_sign_ins_live(patch: pytest.MonkeyPatch, stage: Stage) -> None:
    told: set[UUID] = set()

    def revoke_of_user(self: GrantRepository, tx: Any, realm_id: Any, user_id: UUID, **when: Any) -> int:
        living = self.of_user(tx, realm_id, user_id, now_us=when["now_us"], after=None, limit=200)
        ended = {one.grant_id for one in living} - told
        told.update(ended)
        return len(ended)

    patch.setattr(GrantRepository, "revoke_of_user", revoke_of_user)


def deleted_realms_are_only_disabled(patch: pytest.MonkeyPatch, stage: Stage) -> None:
    def destroy(self: RealmRepository, tx: Any, realm_id: Any, now_us: int) -> None:
        found = self.find(tx, realm_id)
        assert found is not None
        self.update(tx, replace(found, enabled=False))

    patch.setattr(RealmRepository, "destroy", destroy)


DEFECTS = [
    roles_unchecked, assigning_unchecked, anybody_managed, roles_of_home_count_abroad, changes_of_users_untold,
    old_sign_ins_live, deleted_realms_are_only_disabled,
]  # fmt: skip
