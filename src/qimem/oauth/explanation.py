"""Why somebody may do something, or may not: the decision of a request, told with the rule that makes it.

The decision itself is made by the same functions that every request passes, over the same standing; what is added
here is only the role that it comes from.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from qimem.authz.decisions import require_everywhere
from qimem.authz.permissions import PLATFORM_ONLY, Permission, compile_permissions
from qimem.errors import InvalidFields
from qimem.identity.models import RoleRecord
from qimem.identity.ports import RoleStore, UserStore
from qimem.identity.users import user_not_found
from qimem.kernel.context import PermissionSet, RequestContext
from qimem.kernel.ids import SYSTEM_REALM, RealmId, is_client_id
from qimem.kernel.transaction import Tx
from qimem.kernel.unit_of_work import UnitOfWork
from qimem.oauth.clients import client_not_found
from qimem.oauth.ports import ClientStore
from qimem.realms.ports import RealmStore
from qimem.wire.authz import ExplainRequest, Explanation, Rule


@dataclass(frozen=True, slots=True)
class _Subject:
    enabled: bool
    roles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ExplanationService:
    """Explains decisions about the users and clients of a realm."""

    work: UnitOfWork
    realms: RealmStore
    users: UserStore
    clients: ClientStore
    roles: RoleStore

    async def explain(self, ctx: RequestContext, asked: ExplainRequest) -> Explanation:
        """The decision as it would be now.

        Raises:
            Forbidden: without `authz:explain`.
            InvalidFields: no permission of the platform, or not exactly one subject.
            NotFound: `not_found`.
        """
        require_everywhere(ctx, Permission.AUTHZ_EXPLAIN)
        if asked.permission not in tuple(Permission):
            raise InvalidFields({"/permission": "no permission of the platform"})
        if (asked.user_id is None) == (asked.client_id is None):
            raise InvalidFields({"/user_id": "exactly one of user_id and client_id"})
        return await self.work.read(lambda tx: self._decide(tx, ctx.realm_id, asked))

    def _decide(self, tx: Tx, realm_id: RealmId, asked: ExplainRequest) -> Explanation:
        realm, subject = self.realms.find(tx, realm_id), self._subject(tx, realm_id, asked)
        roles = self.roles.find_many(tx, realm_id, subject.roles)
        if realm is None or not realm.enabled or not subject.enabled:
            return _told(
                asked, "no_standing", hint="realm or subject is disabled: none of its tokens is honored"
            )
        if asked.permission in PLATFORM_ONLY and realm_id != SYSTEM_REALM:
            return _told(asked, "platform_only", hint="this counts in realm system alone")
        for role in roles:
            grant = _grant_of(role, asked)
            if grant is not None:
                scoped = grant.count(":") > 1
                return _told(asked, "held_for_this_key" if scoped else "held", role=role.name, grant=grant)
        held = compile_permissions(frozenset(name for role in roles for name in role.permissions))
        if asked.permission in held.scoped:
            return _told(asked, "held_for_other_keys", hint="give a role that names this lineage, or none")
        return _told(asked, "not_held", hint=f"give a role that carries {asked.permission}")

    def _subject(self, tx: Tx, realm_id: RealmId, asked: ExplainRequest) -> _Subject:
        if asked.user_id is not None:
            user = self.users.find(tx, realm_id, asked.user_id)
            if user is None:
                raise user_not_found(asked.user_id)
            return _Subject(user.enabled, user.roles)
        client_id = asked.client_id or ""
        client = self.clients.find(tx, realm_id, client_id) if is_client_id(client_id) else None
        if client is None:
            raise client_not_found(client_id)
        return _Subject(client.enabled, client.roles)


def _grant_of(role: RoleRecord, asked: ExplainRequest) -> str | None:
    """The name in the role that allows it."""
    for name in role.permissions:
        held = compile_permissions(frozenset({name}))
        if asked.permission in held.everywhere or _covers(held, asked.permission, asked.lineage_id):
            return name
    return None


def _covers(held: PermissionSet, permission: str, lineage_id: UUID | None) -> bool:
    lineages = held.scoped.get(permission, frozenset())
    # Without a key the question is whether it may be asked at all, as a request before any look-up.
    return bool(lineages) if lineage_id is None else lineage_id in lineages


def _told(
    asked: ExplainRequest,
    rule: Rule,
    *,
    role: str | None = None,
    grant: str | None = None,
    hint: str | None = None,
) -> Explanation:
    return Explanation(
        allowed=role is not None,
        rule=rule,
        permission=asked.permission,
        resource=None if asked.lineage_id is None else f"lineage {asked.lineage_id}",
        role=role,
        grant=grant,
        hint=hint,
    )
