"""One program of realms, users, roles and tokens: the steps of a model on every installation, judged after each.

After a step every database shows what the model shows, tokens open on another worker what they should, and nobody
has come to hold what whoever took the step did not hold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from tests.support.identity_model import Model, Refused, Subject
from tests.support.identity_powers import ASKED, BUILT_IN, CROSSING, SYSTEM, Names, powers
from tests.support.identity_real import Stage

IDENTITIES_MAX = 3
"""As how many a climber goes on."""


class Differs(AssertionError):
    """Model and databases gave different answers."""


class PathUpward(AssertionError):
    """Somebody came to hold what was not theirs to have."""


class Life:
    """The model and every installation, in step."""

    stage: Stage
    model_type: type[Model] = Model
    seen: Counter[tuple[str, str]]

    def set_out(self) -> None:
        """Nothing has happened yet."""
        self.model, self.sides = self.model_type(), self.stage.begin()
        self.shown: dict[int, Any] = {}
        self.turn = self.made = 0
        self.sound = True

    # --- how a step is taken and judged -------------------------------------------------------

    def take(self, verb: str, token: int | None, realm: int | None, **chosen: Any) -> None:
        """One step, and everything that must hold after it."""
        held = None if token is None else self.held(token)
        touched = self.touched(token, realm, chosen)
        self.step(verb, token, realm, **chosen)
        giving = held if isinstance(held, frozenset) else frozenset()
        if token is not None and touched != self.realm_of(token):
            giving &= CROSSING
        if touched in self.model.realms:
            self.look(touched, frozenset(giving))

    def step(self, verb: str, token: int | None, realm: int | None, **chosen: Any) -> Any:
        """Take one step everywhere; its answer, which is everywhere the same."""
        self.turn += 1
        wanted = self.model.do(verb, token, realm, **chosen)
        answers = self.stage.answers(
            side.do(self.turn % 2, verb, token, realm, **chosen) for side in self.sides
        )
        outcome = wanted.code if isinstance(wanted, Refused) else "ok"
        self.alike(wanted, answers, f"{verb} by token {token} in realm {realm}: {chosen}")
        self.seen[verb, outcome] += 1
        return wanted

    def look(self, realm: int, giving: Names) -> None:
        """The realm is what the model says; nobody in it gained more than who took the step could give."""
        before = self.shown.get(realm)
        seen = self.stage.answers(side.visible(realm) for side in self.sides)
        self.shown[realm] = seen[0]
        for number, held in reachable(seen[0]).items():
            self.upward(held - reachable(before).get(number, frozenset()), giving, f"subject {number}")
        self.alike(self.model.visible(realm), seen, f"realm {realm}")
        self.tokens_of(realm, last=6)
        for one in [*self.model.living(realm), *self.model.living(SYSTEM)]:
            names = self.model.names(one) if one.realm == realm else self.model.names(one) & CROSSING
            self.upward(self.model.reach(names, realm), names, f"subject {one.number} in the end")

    def tokens_of(self, realm: int, last: int) -> None:
        """What tokens open and are told to be good for, asked of the worker that did not take the step."""
        numbers = [number for number in range(len(self.model.tokens)) if self.realm_of(number) == realm]
        asked = [(number, side) for number in numbers[-last:] for side in self.sides]
        found = iter(self.stage.answers(side.let_in((self.turn + 1) % 2, number) for number, side in asked))
        for number in numbers[-last:]:
            wanted = self.model.let_in(number)
            if not isinstance(wanted, Refused):
                wanted = (wanted, powers(wanted) & ASKED)
            self.alike(wanted, [next(found) for _ in self.sides], f"token {number}")

        grants = [
            at for at, one in enumerate(self.model.grants) if self.model.subjects[one.user].realm == realm
        ]
        asked = [(number, side) for number in grants[-(last // 2) :] for side in self.sides]
        good = self.stage.answers(side.lives((self.turn + 1) % 2, number) for number, side in asked)
        wanted = [self.model.lives(number) for number, _ in asked]
        self.alike(wanted, [good], f"grants of realm {realm}")

    def alike(self, wanted: Any, answers: list[Any], what: str) -> None:
        plain = [one._replace(text="") if isinstance(one, Refused) else one for one in answers]
        if any(one != wanted for one in plain) or any(one != answers[0] for one in answers):
            self.sound = False
            raise Differs(f"{what}\nmodel: {wanted}\nthere: {answers}")

    def upward(self, found: Any, ceiling: Names, who: str) -> None:
        """What is found is within the ceiling; an application's own permissions are its own affair."""
        beyond = powers(found) - powers(ceiling) if isinstance(found, frozenset) else frozenset()
        if beyond:
            self.sound = False
            raise PathUpward(f"{who} holds {sorted(beyond)}")

    # --- looking for a path upward ------------------------------------------------------------

    def everything_tried(self, first: int, realm: int | None) -> None:
        """Somebody tries all that the services offer, as everybody whom they can become. `realm` None: their own."""
        ceiling, own = self.held(first), self.realm_of(first)
        realm = own if realm is None else realm
        if isinstance(ceiling, Refused) or "*" in ceiling:
            return
        if realm != own:
            ceiling &= CROSSING
        mine = [first]
        for token in mine:
            for won in self.tried(token, realm, ceiling):
                self.upward(self.held(won), ceiling, f"token {won} of token {first}")
                mine += [won] if len(mine) < IDENTITIES_MAX else []
        self.look(realm, ceiling)

    def tried(self, token: int, realm: int, ceiling: Names) -> Iterator[int]:
        """What a token can be made use of for; the tokens that came of it."""
        myself = self.model.subjects[self.model.tokens[token].subject]
        beyond = sorted(ASKED - powers(ceiling))[self.turn % 3 :: 3]
        for number, name in enumerate(beyond):
            self.step("create_role", token, realm, name=f"x{self.turn}-{number}", listed=[name])
        for role in myself.roles:
            self.step("update_role", token, realm, name=role, listed=beyond)
        above = [name for (where, name), held in self.model.roles.items() if where == realm
                 and not powers(held) <= powers(ceiling)]  # fmt: skip
        for role in above:
            self.step("assign", token, realm, subject=myself.number, roles=[role])
            for kind in ("user", "client"):
                yield from self.became(self.added(token, realm, kind, [role]))
        for one in self.model.living(realm):
            if one.number not in (0, 1, myself.number):
                answer = self.step("set_secret", token, realm, subject=one.number)
                yield from self.became(None if isinstance(answer, Refused) else one.number)

    def became(self, subject: int | None) -> Iterator[int]:
        """The token of a subject whose password or secret is known."""
        one = None if subject is None else self.model.subjects[subject]
        if one is None:
            return
        doors = [door.number for door in self.model.living(one.realm, "client") if door.enabled]
        if one.kind == "client":
            answer = self.step("credentials", None, None, client=one.number, right=True)
        elif doors:
            answer = self.step("login", None, None, client=doors[0], user=one.number, right=True)
        else:
            return
        if not isinstance(answer, Refused):
            yield answer[-1]

    # --- what numbers mean --------------------------------------------------------------------

    def scene(self, which: int, where: str, home: int) -> tuple[int, int]:
        """Who acts, and in which realm: the one that it is about, their own, or another one."""
        realm = {"there": home, "own": None, "elsewhere": (home + 1 + which % 3) % 4}[where]
        token = self.actor(which, realm)
        return token, self.realm_of(token) if realm is None else realm

    def actor(self, which: int, near: int | None = None) -> int:
        """A token: mostly one that lives, of the realm or of who runs the platform; seldom a dead one."""
        every = range(len(self.model.tokens))
        living = [number for number in every[1:] if not isinstance(self.model.let_in(number), Refused)]
        there = [number for number in living if near in (None, self.realm_of(number))]
        if which % 8 == 0 or not living:
            return 0
        among = every if which % 8 == 7 else there if there and which % 8 > 2 else living
        return among[which // 8 % len(among)]

    def named(self, realm: int, which: int) -> str:
        """The name of a role, mostly of one that the realm has."""
        own = sorted(name for (where, name) in self.model.roles if where == realm and name not in BUILT_IN)
        others = [*BUILT_IN, "absent", f"r{which % 7}"]
        return own[which % len(own)] if own and which % 4 else others[which // 4 % len(others)]

    def held(self, token: int) -> Any:
        """What the roles behind a token list, as the first installation has it, or its refusal."""
        (found,) = self.stage.answers([self.sides[0].let_in(self.turn % 2, token)])
        return found if isinstance(found, Refused) else found[0]

    def realm_of(self, token: int) -> int:
        return self.model.subjects[self.model.tokens[token].subject].realm

    def subject(self, which: int, kind: str | None = None) -> Subject:
        """Somebody, mostly one who is there."""
        known = [one for one in self.model.subjects[2:] if kind in (None, one.kind)]
        there = [one for one in known if not one.gone and self.model.realms[one.realm] != "gone"]
        among = there if there and which % 8 else known
        return among[which // 8 % len(among)]

    def touched(self, token: int | None, realm: int | None, chosen: dict[str, Any]) -> int:
        """The realm that a step is about."""
        if "number" in chosen:
            return int(chosen["number"])
        if realm is not None:
            return realm
        subject = self.model.tokens[token if token is not None else chosen.get("held", 0)].subject
        if "grant" in chosen:
            subject = self.model.grants[chosen["grant"]].user
        return self.model.subjects[chosen.get("client", subject)].realm

    def added(self, token: int, realm: int, kind: str, names: list[str]) -> int | None:
        self.made += 1
        answer = self.step("create", token, realm, kind=kind, name=f"n{self.made}", roles=names)
        return None if isinstance(answer, Refused) else answer[1]


def reachable(shown: Any) -> dict[int, Names]:
    """What the roles of everybody in a realm list, as its lists show it."""
    if shown is None or isinstance(shown, Refused):
        return {}
    _, listed, everybody = shown
    return {one[1]: powers(name for role in one[3] for name in listed[role]) for one in everybody}
