"""Who may do what, as the contract says it: a small model of realms, roles, users, clients and their tokens.

It knows nothing of the product. Everything has a number: realms 0 (`system`) and up, subjects (users and clients),
grants and access tokens in the order in which they were made.

The rule that all of it serves is `reach`: what somebody can come to hold by everything that they can do, with every
identity that they can make or take over, is what they hold already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.support.identity_powers import (
    APPLICATION,
    ASKED,
    BUILT_IN,
    CROSSING,
    NO_PERMISSIONS,
    PLATFORM_ONLY,
    SCOPED,
    SYSTEM,
    Names,
    powers,
)  # fmt: skip


class Refused(NamedTuple):
    """A refusal. The model does not say how it is worded; the databases must word it alike."""

    kind: str
    code: str
    text: str = ""


class _No(Exception):
    def __init__(self, kind: str, code: str) -> None:
        self.refusal = Refused(kind, code)


@dataclass
class Subject:
    """A user, or a client with its service account."""

    number: int
    kind: str
    realm: int
    name: str
    roles: tuple[str, ...]
    enabled: bool = True
    gone: bool = False

    @property
    def shown(self) -> tuple[Any, ...]:
        return (self.kind, self.number, self.name, self.roles, self.enabled)


@dataclass
class Grant:
    """A sign-in of a user through a client."""

    user: int
    client: int
    revoked: bool = False


@dataclass
class Token:
    """An access token; a client's own has no grant."""

    subject: int
    client: int
    grant: int | None = None
    revoked: bool = False


class Caller(NamedTuple):
    """Who asks about which realm, and what their roles list there."""

    subject: Subject
    client: int
    realm: int
    names: Names


@dataclass
class Model:
    """The state, and the answer to every step; subject 0 and token 0 are those of the first operator."""

    realms: dict[int, str] = field(default_factory=dict)
    roles: dict[tuple[int, str], tuple[str, ...]] = field(default_factory=dict)
    subjects: list[Subject] = field(default_factory=list)
    grants: list[Grant] = field(default_factory=list)
    tokens: list[Token] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._built_in(SYSTEM)
        first, through = Subject(0, "user", SYSTEM, "", ("operator",)), Subject(1, "client", SYSTEM, "", ())
        self.subjects += [first, through]
        self._signed_in(0, 1)

    def do(self, verb: str, token: int | None, realm: int | None, **chosen: Any) -> Any:
        """The answer to one step, which is taken. `realm` None: the caller's own."""
        step = getattr(self, verb)
        try:
            return step(**chosen) if token is None else step(self.caller(token, realm), **chosen)
        except _No as no:
            return no.refusal

    # --- who is there -------------------------------------------------------------------------

    def caller(self, token: int, realm: int | None = None) -> Caller:
        """Who stands behind a token, as they count in the realm."""
        held = self.tokens[token]
        subject = self.subjects[held.subject]
        revoked = held.revoked or (held.grant is not None and self.grants[held.grant].revoked)
        if revoked or not self._stand(subject, self.subjects[held.client]):
            raise _No("unauthenticated", "invalid_token")
        names = self.names(subject)
        if realm is None or realm == subject.realm:
            return Caller(subject, held.client, subject.realm, names)
        if not names & CROSSING or self.realms.get(realm) in (None, "gone"):
            raise _No("not_found", "realm_not_found")
        return Caller(subject, held.client, realm, names & CROSSING)

    def let_in(self, token: int) -> Names | Refused:
        try:
            return self.caller(token).names
        except _No as no:
            return no.refusal

    def lives(self, grant: int) -> bool:
        """Whether its refresh token is good for another one."""
        one = self.grants[grant]
        return not one.revoked and self._stand(self.subjects[one.user], self.subjects[one.client])

    def names(self, subject: Subject) -> Names:
        return frozenset(name for role in subject.roles for name in self.roles[subject.realm, role])

    def living(self, realm: int, kind: str | None = None) -> list[Subject]:
        """Who is there in a realm, enabled or not."""
        return [
            one for one in self.subjects if one.realm == realm and not one.gone and kind in (None, one.kind)
        ]

    def visible(self, realm: int) -> Any:
        """The realm as its lists show it, without what the program did not make."""
        if self.realms[realm] == "gone":
            return Refused("not_found", "realm_not_found")
        listed = {name: held for (where, name), held in self.roles.items() if where == realm}
        shown = sorted(one.shown for one in self.living(realm) if one.number > 1)
        return self.realms[realm] == "on", listed, shown

    def _stand(self, *subjects: Subject) -> bool:
        return all(one.enabled and not one.gone and self.realms[one.realm] == "on" for one in subjects)

    # --- no path upward -----------------------------------------------------------------------

    def reach(self, names: Names, realm: int) -> Names:
        """Everything that a holder of these names can come to hold in the realm, by whatever they do there."""
        have = powers(names)
        while (more := have | self._next(have, realm)) != have:
            have = more
        return have

    def _next(self, have: Names, realm: int) -> Names:
        found: set[str] = set()
        for one in self.living(realm):
            if self.manages(have, one):
                found |= powers(self.names(one))
        if have & {"users:create", "clients:create", "users:manage", "clients:manage"}:
            there = [listed for (where, _), listed in self.roles.items() if where == realm]
            found = found.union(*(powers(listed) for listed in there if self.gives(have, listed)))
        if have & {"roles:create", "roles:manage"}:
            found |= {name for name in ASKED if self.gives(have, (name,))}
        return frozenset(found)

    def manages(self, have: Names, subject: Subject) -> bool:
        """Whether who holds this can set the subject's password, or take its secret."""
        if subject.kind == "client" and subject.realm == SYSTEM and "*" not in have:
            return False
        return f"{subject.kind}s:manage" in have and self.gives(have, self.names(subject))

    def gives(self, have: Names, listed: Iterable[str]) -> bool:
        """Whether who holds this may give all that away: the one rule of granting."""
        return all(name in have or (name == APPLICATION and "roles:create" in have) for name in listed)

    # --- roles --------------------------------------------------------------------------------

    def create_role(self, at: Caller, name: str, listed: Sequence[str]) -> Any:
        self._listing(at, "roles:create", listed)
        self._giving(at, listed)
        if name in BUILT_IN or (at.realm, name) in self.roles:
            raise _No("conflict", "already_exists")
        self.roles[at.realm, name] = tuple(dict.fromkeys(listed))
        return ("role", name, self.roles[at.realm, name])

    def update_role(self, at: Caller, name: str, listed: Sequence[str]) -> Any:
        self._listing(at, "roles:manage", listed)
        self._changeable(at, name)
        self._giving(at, listed)
        self.roles[at.realm, name] = tuple(dict.fromkeys(listed))
        return ("role", name, self.roles[at.realm, name])

    def delete_role(self, at: Caller, name: str) -> Any:
        self._need(at, "roles:manage")
        self._changeable(at, name)
        del self.roles[at.realm, name]
        for one in self.living(at.realm):
            one.roles = tuple(role for role in one.roles if role != name)
        return "deleted"

    # --- users and clients --------------------------------------------------------------------

    def create(self, at: Caller, kind: str, name: str, roles: Sequence[str]) -> Any:
        self._need(at, f"{kind}s:create")
        self._assignable(at, roles)
        if kind == "user" and any(one.name == name for one in self.living(at.realm, "user")):
            raise _No("conflict", "already_exists")
        self.subjects.append(Subject(len(self.subjects), kind, at.realm, name, tuple(dict.fromkeys(roles))))
        return self.subjects[-1].shown

    def assign(self, at: Caller, subject: int, roles: Sequence[str]) -> Any:
        return self._with_roles(at, subject, roles, lambda held: dict.fromkeys([*held, *roles]))

    def remove(self, at: Caller, subject: int, roles: Sequence[str]) -> Any:
        return self._with_roles(at, subject, roles, lambda held: [one for one in held if one not in roles])

    def switch(self, at: Caller, subject: int, enabled: bool) -> Any:
        one = self._managed(at, subject)
        if not enabled:
            self._other(at, one)
        one.enabled = enabled
        return one.shown

    def delete(self, at: Caller, subject: int) -> Any:
        one = self._managed(at, subject)
        self._other(at, one)
        one.gone = True
        return "deleted"

    def rename(self, at: Caller, subject: int, name: str) -> Any:
        one = self._managed(at, subject)
        if any(other.name == name and other is not one for other in self.living(at.realm, "user")):
            raise _No("conflict", "already_exists")
        one.name = name
        return one.shown

    def explain(self, at: Caller, subject: int, permission: str) -> Any:
        """Whether the subject may do that, told to the first operator."""
        one = self.subjects[subject]
        if one.gone or one.realm != at.realm:
            raise _No("not_found", "not_found")
        held = powers(self.names(one))
        counts = permission not in PLATFORM_ONLY or one.realm == SYSTEM
        some = permission in held or (permission == "keys:decrypt" and SCOPED in held)
        return ("explained", counts and some and self._stand(one))

    def sign_out(self, at: Caller, subject: int) -> Any:
        return ("revoked", self._end_all(self._managed(at, subject)))

    def set_secret(self, at: Caller, subject: int) -> Any:
        """An administrator sets a password, or gives a client another secret."""
        if self.subjects[subject].kind == "user":
            self._need(at, "users:manage")
            # Before anything is looked up: they know that they are there.
            self._other(at, self.subjects[subject])
        one = self._managed(at, subject)
        if one.kind == "user":
            return ("revoked", self._end_all(one))
        for token in self.tokens:
            # A token of the client's own ends with the secret it was got with.
            token.revoked |= token.subject == subject and token.grant is None
        return ("rotated", one.number)

    def change_password(self, at: Caller, right: bool) -> Any:
        if at.subject.kind == "client":
            raise _No("conflict", "conflict")
        if not right:
            raise _No("invalid", "invalid_grant")
        return ("revoked", self._end_all(at.subject))

    # --- tokens -------------------------------------------------------------------------------

    def login(self, client: int, user: int, right: bool) -> Any:
        through, who = self.subjects[client], self.subjects[user]
        if not self._stand(through):
            raise _No("unauthenticated", "invalid_client")
        if not right or who.realm != through.realm or not self._stand(who):
            raise _No("invalid", "invalid_grant")
        return self._signed_in(user, client)

    def credentials(self, client: int, right: bool) -> Any:
        if not right or not self._stand(self.subjects[client]):
            raise _No("unauthenticated", "invalid_client")
        self.tokens.append(Token(client, client))
        return ("token", len(self.tokens) - 1)

    def refresh(self, grant: int) -> Any:
        one = self.grants[grant]
        if not self.lives(grant):
            raise _No("invalid", "invalid_grant")
        self.tokens.append(Token(one.user, one.client, grant))
        return ("grant", grant, "token", len(self.tokens) - 1)

    def revoke_grant(self, grant: int) -> Any:
        if self.realms[self.subjects[self.grants[grant].user].realm] != "gone":
            self.grants[grant].revoked = True
        return "revoked"

    def revoke_token(self, held: int) -> str:
        self.tokens[held].revoked = True
        return "revoked"

    # --- realms -------------------------------------------------------------------------------

    def create_realm(self, at: Caller, number: int) -> Any:
        self._need(at, "realms:create")
        if number in self.realms:
            raise _No("conflict", "already_exists")
        self._built_in(number)
        return ("realm", number, True)

    def switch_realm(self, at: Caller, enabled: bool) -> Any:
        self._need(at, "realms:manage")
        if at.realm == SYSTEM and not enabled:
            raise _No("conflict", "conflict")
        self.realms[at.realm] = "on" if enabled else "off"
        return ("realm", at.realm, enabled)

    def delete_realm(self, at: Caller) -> Any:
        self._need(at, "realms:manage")
        if at.realm == SYSTEM:
            raise _No("conflict", "conflict")
        self.realms[at.realm] = "gone"
        return "deleted"

    # --- the rules ----------------------------------------------------------------------------

    def _need(self, at: Caller, permission: str) -> None:
        # Tenants are begun and ended from realm `system`, whatever a role elsewhere lists.
        counts = permission not in PLATFORM_ONLY or at.subject.realm == SYSTEM
        if not counts or permission not in powers(at.names):
            raise _No("forbidden", "permission_denied")

    def _listing(self, at: Caller, permission: str, listed: Sequence[str]) -> None:
        self._need(at, permission)
        if any(name in NO_PERMISSIONS for name in listed):
            raise _No("invalid", "invalid_field")

    def _giving(self, at: Caller, listed: Iterable[str]) -> None:
        if not self.gives(powers(at.names), listed):
            raise _No("forbidden", "permission_denied")

    def _assignable(self, at: Caller, roles: Sequence[str]) -> None:
        for name in roles:
            if (at.realm, name) not in self.roles:
                raise _No("invalid", "role_not_found")
            self._giving(at, self.roles[at.realm, name])

    def _with_roles(self, at: Caller, number: int, roles: Sequence[str], outcome: Callable[..., Any]) -> Any:
        one = self._managed(at, number)
        self._assignable(at, roles)
        one.roles = tuple(outcome(one.roles))
        return one.shown

    def _changeable(self, at: Caller, name: str) -> None:
        if (at.realm, name) not in self.roles:
            raise _No("not_found", "not_found")
        if name in BUILT_IN:
            raise _No("conflict", "conflict")
        self._giving(at, self.roles[at.realm, name])

    def _managed(self, at: Caller, number: int) -> Subject:
        one = self.subjects[number]
        self._need(at, f"{one.kind}s:manage")
        if one.gone or one.realm != at.realm:
            raise _No("not_found", "not_found")
        if not self.manages(powers(at.names), one):
            raise _No("forbidden", "permission_denied")
        return one

    def _other(self, at: Caller, one: Subject) -> None:
        if one.number in (at.subject.number, at.client):
            raise _No("conflict", "conflict")

    def _end_all(self, one: Subject) -> int:
        of_user = [grant for grant in self.grants if grant.user == one.number and not grant.revoked]
        living = [grant for grant in of_user if not self.subjects[grant.client].gone]
        for grant in living:
            grant.revoked = True
        return len(living)

    def _signed_in(self, user: int, client: int) -> Any:
        self.grants.append(Grant(user, client))
        self.tokens.append(Token(user, client, len(self.grants) - 1))
        return ("grant", len(self.grants) - 1, "token", len(self.tokens) - 1)

    def _built_in(self, realm: int) -> None:
        self.realms[realm] = "on"
        for name, wildcard in BUILT_IN.items():
            if realm == SYSTEM or name == "realm-admin":
                self.roles[realm, name] = (wildcard,)
