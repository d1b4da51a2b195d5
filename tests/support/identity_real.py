"""The steps of `identity_model` on an installation: the services of production, several workers on one database.

What a step answers is told as the model tells it: with numbers for ids, and refusals by kind, code and text.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import sqlalchemy as sa
import uvloop

from qimem.authz.decisions import permits
from qimem.authz.permissions import Permission
from qimem.bootstrap.core import Core
from qimem.errors import QimemError
from qimem.identity.new_user import NewUser
from qimem.identity.users import UserChanges
from qimem.kernel.context import RequestContext
from qimem.kernel.ids import SYSTEM_REALM
from qimem.kernel.secret import SecretText
from qimem.oauth.registration import Registration
from qimem.storage.schema import login_attempt
from qimem.storage.statement import sql
from qimem.wire.auth import (
    Introspection,
    IntrospectRequest,
    RefreshRequest,
    TokenRequest,
    TokenResponse,
)
from qimem.wire.authz import ExplainRequest
from qimem.wire.clients import Client
from qimem.wire.preconditions import Precondition
from qimem.wire.users import User
from tests.support.audit import a_draft
from tests.support.identity_installation import ADMIN_PASSWORD, Installation, Worker
from tests.support.identity_model import Refused
from tests.support.identity_powers import ASKED, BUILT_IN, CROSSING, LINEAGE, SCOPED
from tests.support.metering import FakeMeter

T = TypeVar("T")

_UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
_NO_GUESSES = sql(sa.delete(login_attempt))
_programs = itertools.count(1)


def password(subject: int, number: int) -> str:
    """The password of a user, after it was set so often."""
    return f"a long enough phrase {subject} {number}"


class Stage:
    """An event loop with the installations on it, asked all at once: half of the time of a step is waiting."""

    def __init__(self, *places: tuple[Path, str | None]) -> None:
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self.installations = [self._runner.run(Installation.made(*place)) for place in places]

    def answers(self, asked: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
        """What comes of all of them, in their order."""

        async def together() -> list[T]:
            return list(await asyncio.gather(*asked))

        return self._runner.run(together())

    def begin(self) -> list[Real]:
        """The same program on every installation, with the first operator signed in."""
        program = next(_programs)
        sides = [Real(at, program) for at in self.installations]
        for side in sides:
            side.add("user", 0, side.at.admin.username, "", ADMIN_PASSWORD)
            side.add("client", 0, "", side.at.admin.client_id, side.at.admin.client_secret.reveal())
        asked = (side.do(0, "login", None, None, client=1, user=0, right=True) for side in sides)
        assert self.answers(asked) == [("grant", 0, "token", 0) for _ in sides]
        return sides

    def close(self) -> None:
        for worker in (worker for one in self.installations for worker in one.workers):
            worker.core.lane.close()
            self._runner.run(worker.database.close())
        self._runner.close()


@dataclass
class Real:
    """One program on an installation.

    Its realms, but `system`, are new; of `system` it sees only what it has made there itself.
    """

    at: Installation
    program: int
    subjects: list[str] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    realms: list[int] = field(default_factory=list)
    secrets: list[str] = field(default_factory=list)
    refreshable: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)

    async def do(self, worker: int, verb: str, token: int | None, realm: int | None, **chosen: Any) -> Any:
        """Take one step; the answer as the model gives it, with the text of a refusal."""
        at = self.at.workers[worker]
        step: Callable[..., Awaitable[Any]] = getattr(self, f"_{verb}")
        try:
            if token is None:
                return await step(at.services, **chosen)
            return await step(at.services, await self._context(at.core, token, realm), **chosen)
        except QimemError as error:
            if verb in ("login", "change_password"):
                # How many guesses there may be is the subject of other tests.
                await at.database.write(lambda tx: tx.run(_NO_GUESSES))
            return self._refused(error)

    async def let_in(self, worker: int, token: int) -> Any:
        """What the roles behind a token list now, with what that means here; or the refusal."""
        at = self.at.workers[worker]
        told = await self._introspected(at, self.tokens[token])
        try:
            actor, _ = await at.core.bearer.authenticate(f"Bearer {self.tokens[token]}".encode())
        except QimemError as error:
            assert not told.active
            return self._refused(error)
        assert (told.active, told.sub) == (True, actor.subject)
        assert told.permissions == sorted(actor.permissions.names)
        held = actor.permissions
        may = {name for name in ASKED if name in tuple(Permission) and name in held.everywhere}
        if "keys:decrypt" in may or UUID(LINEAGE) in held.scoped.get("keys:decrypt", ()):
            assert permits(held, Permission.KEYS_DECRYPT)
            may.add(SCOPED)
        assert held.crosses_realms == bool(held.names & CROSSING)
        assert held.operator == ("*" in held.names)
        return held.names, frozenset(may)

    async def lives(self, worker: int, grant: int) -> bool:
        """Whether the refresh token of a grant is told to be good."""
        return (await self._introspected(self.at.workers[worker], self.refreshable[grant])).active

    async def visible(self, realm: int) -> Any:
        """Roles, users and clients of a realm as its lists show them to the first operator."""
        at = self.at.workers[0]
        try:
            ctx = await self._context(at.core, 0, realm)
        except QimemError as error:
            return self._refused(error)
        found = await at.services.realms.get(ctx)
        roles, _ = await at.services.roles.list(ctx, None, 200)
        users, _ = await at.services.users.list(ctx, None, 200)
        clients, _ = await at.services.clients.list(ctx, None, 200)
        own = [one for one in roles if one.built_in or realm or one.name.startswith(self._prefix)]
        listed = {self._role_name(one.name): tuple(one.permissions) for one in own}
        known = [one for one in (*users, *clients) if self._is_own(one)]
        return found.enabled, listed, sorted(self._shown(one) for one in known)

    async def _introspected(self, at: Worker, token: str) -> Introspection:
        header = f"Bearer {self.tokens[0]}".encode()
        operator, _ = await at.core.bearer.authenticate(header)
        asked = IntrospectRequest(token=token)
        found: Introspection = await at.services.introspection.by_bearer(operator, header, asked)
        return found

    async def leave(self) -> None:
        """Remove from realm `system`, which stays, what was made there."""
        for subject, realm in enumerate(self.realms):
            if realm == 0 and subject > 1:
                await self.do(0, "delete", 0, 0, subject=subject)
        _, listed, _ = await self.visible(0)
        for name in listed.keys() - BUILT_IN.keys():
            await self.do(0, "delete_role", 0, 0, name=name)

    # --- how a step is taken ------------------------------------------------------------------

    async def _context(self, core: Core, token: int, realm: int | None) -> RequestContext:
        actor, state = await core.bearer.authenticate(f"Bearer {self.tokens[token]}".encode())
        named = actor.realm_id if realm is None else self._realm(realm)
        if named != actor.realm_id:
            # As the web application does it for every endpoint.
            actor, state = await core.bearer.other_realm(actor, named)
        return RequestContext("request", actor, state, a_draft())

    # --- the steps ----------------------------------------------------------------------------

    async def _create_role(self, on: Any, ctx: RequestContext, name: str, listed: Sequence[str]) -> Any:
        role = await on.roles.create(ctx, self._role(ctx, name), listed)
        return ("role", self._role_name(role.name), tuple(role.permissions))

    async def _update_role(self, on: Any, ctx: RequestContext, name: str, listed: Sequence[str]) -> Any:
        role = await on.roles.update(ctx, self._role(ctx, name), listed, Precondition())
        return ("role", self._role_name(role.name), tuple(role.permissions))

    async def _delete_role(self, on: Any, ctx: RequestContext, name: str) -> Any:
        assert (await on.roles.delete(ctx, self._role(ctx, name))).deleted
        return "deleted"

    async def _create(self, on: Any, ctx: RequestContext, kind: str, name: str, roles: Sequence[str]) -> Any:
        wanted, realm = self._roles(ctx, roles), self._number_of_realm(ctx.realm_id)
        if kind == "user":
            first_password = password(len(self.subjects), 0)
            full = f"{self._prefix}{name}"
            made = await on.users.create(ctx, NewUser(full, SecretText(first_password), wanted))
            self.add("user", realm, full, str(made.id), first_password)
        else:
            made = await on.clients.create(ctx, Registration((), name=name, roles=wanted))
            self.add("client", realm, name, made.client_id, made.client_secret)
        return self._shown(made)

    async def _assign(self, on: Any, ctx: RequestContext, subject: int, roles: Sequence[str]) -> Any:
        service, which = self._of(on, subject)
        return self._shown(await service.assign_roles(ctx, which, self._roles(ctx, roles)))

    async def _remove(self, on: Any, ctx: RequestContext, subject: int, roles: Sequence[str]) -> Any:
        service, which = self._of(on, subject)
        return self._shown(await service.remove_roles(ctx, which, self._roles(ctx, roles)))

    async def _switch(self, on: Any, ctx: RequestContext, subject: int, enabled: bool) -> Any:
        service, which = self._of(on, subject)
        return self._shown(await service.set_enabled(ctx, which, enabled=enabled))

    async def _delete(self, on: Any, ctx: RequestContext, subject: int) -> Any:
        service, which = self._of(on, subject)
        assert (await service.delete(ctx, which)).deleted
        return "deleted"

    async def _rename(self, on: Any, ctx: RequestContext, subject: int, name: str) -> Any:
        changes = UserChanges(f"{self._prefix}{name}", None, sets_email=False)
        changed = await on.users.update(ctx, UUID(self.subjects[subject]), changes, Precondition())
        self.names[subject] = changed.username
        return self._shown(changed)

    async def _explain(self, on: Any, ctx: RequestContext, subject: int, permission: str) -> Any:
        ident = self.subjects[subject]
        user, client = (UUID(ident), None) if self.kinds[subject] == "user" else (None, ident)
        asked = ExplainRequest(permission=permission, user_id=user, client_id=client)
        return ("explained", (await on.explanations.explain(ctx, asked)).allowed)

    async def _sign_out(self, on: Any, ctx: RequestContext, subject: int) -> Any:
        ended = await on.grants_of_users.revoke(ctx, UUID(self.subjects[subject]), None)
        return ("revoked", ended.revoked)

    async def _set_secret(self, on: Any, ctx: RequestContext, subject: int) -> Any:
        if self.kinds[subject] == "client":
            rotated = await on.clients.rotate_secret(ctx, self.subjects[subject], 0)
            self.secrets[subject] = rotated.client_secret
            return ("rotated", self.subjects.index(rotated.client_id))
        new = self._next_password(subject)
        done = await on.passwords.set(ctx, UUID(self.subjects[subject]), SecretText(new))
        self.secrets[subject] = new
        return ("revoked", done.revoked)

    async def _change_password(self, on: Any, ctx: RequestContext, right: bool) -> Any:
        subject = self.subjects.index(ctx.actor.subject)
        new, old = self._next_password(subject), self.secrets[subject]
        shown = SecretText(old if right else old + "!")
        done = await on.passwords.change(ctx, shown, SecretText(new), None)
        self.secrets[subject] = new
        return ("revoked", done.revoked)

    async def _login(self, on: Any, client: int, user: int, right: bool) -> Any:
        request = TokenRequest(
            client_id=self.subjects[client],
            client_secret=self.secrets[client],
            realm_id=self._realm(self.realms[client]),
            username=self.names[user],
            password=self.secrets[user] + ("" if right else "!"),
        )
        return self._signed_in(await on.tokens.exchange(request, a_draft(), FakeMeter()), None)

    async def _credentials(self, on: Any, client: int, right: bool) -> Any:
        request = TokenRequest(
            client_id=self.subjects[client],
            client_secret=self.secrets[client] + ("" if right else "!"),
            grant_type="client_credentials",
        )
        self.tokens.append((await on.tokens.exchange(request, a_draft(), FakeMeter())).access_token)
        return ("token", len(self.tokens) - 1)

    async def _refresh(self, on: Any, grant: int) -> Any:
        request = RefreshRequest(refresh_token=self.refreshable[grant])
        return self._signed_in(await on.refresh.exchange(request, a_draft(), FakeMeter()), grant)

    async def _revoke_grant(self, on: Any, grant: int) -> Any:
        await on.revocation.revoke(self.refreshable[grant], a_draft(), FakeMeter())
        return "revoked"

    async def _revoke_token(self, on: Any, held: int) -> Any:
        await on.revocation.revoke(self.tokens[held], a_draft(), FakeMeter())
        return "revoked"

    async def _create_realm(self, on: Any, ctx: RequestContext, number: int) -> Any:
        made = await on.realms.create(ctx, self._realm(number), f"Realm {number}")
        return ("realm", self._number_of_realm(made.id), made.enabled)

    async def _switch_realm(self, on: Any, ctx: RequestContext, enabled: bool) -> Any:
        changed = await on.realms.set_enabled(ctx, enabled=enabled)
        return ("realm", self._number_of_realm(changed.id), changed.enabled)

    async def _delete_realm(self, on: Any, ctx: RequestContext) -> Any:
        assert (await on.realms.delete(ctx, ctx.realm_id)).deleted
        return "deleted"

    # --- numbers and ids ----------------------------------------------------------------------

    @property
    def _prefix(self) -> str:
        return f"p{self.program}-"

    def add(self, kind: str, realm: int, name: str, ident: str, secret: str) -> None:
        for where, what in (
            (self.kinds, kind),
            (self.names, name),
            (self.subjects, ident),
            (self.secrets, secret),
        ):
            where.append(what)
        self.realms.append(realm)

    def _of(self, on: Any, subject: int) -> tuple[Any, Any]:
        ident = self.subjects[subject]
        return (on.users, UUID(ident)) if self.kinds[subject] == "user" else (on.clients, ident)

    def _next_password(self, subject: int) -> str:
        if self.kinds[subject] == "client":
            return password(subject, 0)
        return password(subject, int(self.secrets[subject].rsplit(" ", 1)[1]) + 1)

    def _signed_in(self, answer: TokenResponse, grant: int | None) -> Any:
        assert answer.refresh_token is not None
        self.tokens.append(answer.access_token)
        if grant is None:
            grant = len(self.refreshable)
            self.refreshable.append("")
        self.refreshable[grant] = answer.refresh_token
        return ("grant", grant, "token", len(self.tokens) - 1)

    def _realm(self, number: int) -> str:
        return f"{self._prefix}{number}" if number else SYSTEM_REALM

    def _number_of_realm(self, realm_id: str) -> int:
        return 0 if realm_id == SYSTEM_REALM else int(realm_id.removeprefix(self._prefix))

    def _role(self, ctx: RequestContext, name: str) -> str:
        """Realm `system` outlives the program: what this makes there must be told from what others made."""
        plain = ctx.realm_id != SYSTEM_REALM or name in BUILT_IN
        return name if plain else f"{self._prefix}{name}"

    def _roles(self, ctx: RequestContext, names: Sequence[str]) -> list[str]:
        return [self._role(ctx, name) for name in names]

    def _role_name(self, name: str) -> str:
        return name.removeprefix(self._prefix)

    def _is_own(self, one: User | Client) -> bool:
        return str(one.id if isinstance(one, User) else one.client_id) in self.subjects[2:]

    def _shown(self, one: User | Client) -> Any:
        roles = tuple(self._role_name(name) for name in one.roles)
        if isinstance(one, User):
            name = one.username.removeprefix(self._prefix)
            return ("user", self.subjects.index(str(one.id)), name, roles, one.enabled)
        return ("client", self.subjects.index(one.client_id), one.name, roles, one.enabled)

    def _refused(self, error: QimemError) -> Refused:
        return Refused(error.kind.value, error.code, _UUID.sub(self._numbered, error.message))

    def _numbered(self, match: re.Match[str]) -> str:
        return f"#{self.subjects.index(match[0])}" if match[0] in self.subjects else match[0]
